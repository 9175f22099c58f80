//! A **sharenet** is an Ethernet segment in one shared-memory file, and this crate is all there
//! is to it: no daemon, no root, no state outside the file.
//!
//! # The tour
//!
//! Read the modules in this order and you follow a frame from one guest to another:
//!
//! 1. [`name`]: `lan0` on a command line becomes a path.
//! 2. [`layout`]: what stands where in the file; every number of the format is here.
//! 3. [`segment`]: a file is made whole, opened, checked, or grown from the one-page kind of 2007.
//! 4. [`lock`]: a port *is* a lock on one byte. The kernel drops it when its holder dies.
//! 5. [`port`]: taking a slot, then its two halves: [`port::PortTx`] decides where a frame goes
//!    ([`peers`]: who is there; [`fdb`]: who was heard behind whom), [`port::PortRx`] collects it.
//! 6. [`ring`] and [`flood`]: how bytes cross. A ring for each ordered pair of ports carries
//!    unicast, a lossy log for each port carries what everyone hears. [`record`] is the common
//!    form of one frame in either. (`pace` and `stream`: how the bytes are stored, which is half of the speed.)
//! 7. [`doorbell`]: how a port sleeps, and how a peer wakes it without ever being made to wait; [`bell`]:
//!    the same for a port that sleeps on other things besides.
//! 8. [`offload`]: what a sender does when its peer cannot take an unfinished checksum or a
//!    64 KiB TCP segment.
//! 9. [`plug`]: the other end of a port: a guest's virtqueues, over vhost-user.
//! 10. [`report`]: what `lgswitch inspect` shows. [`bench`]: how fast all this is here.
//! 11. [`capture`]: what `lgswitch capture` keeps or shows of what passes.
//!
//! # Who is trusted with what
//!
//! All mapped bytes may change at any time, by anyone who can open the file. [`map`] (with `stream`) is the only
//! module that touches them ([`sync`] names the words); everything above reads a length or an index
//! *once*, checks it, and only then uses it. The six promises a port makes stand at the head of [`port`].

pub mod bell;
#[cfg(not(lgswitch_loom))]
pub mod bench;
#[cfg(not(lgswitch_loom))]
pub mod capture;
pub mod doorbell;
pub mod fdb;
pub mod flood;
pub mod frame;
pub mod layout;
pub mod lock;
#[cfg(not(lgswitch_loom))]
pub mod map;
#[cfg(lgswitch_loom)]
pub mod model;
pub mod name;
pub mod offload;
mod pace;
pub mod peers;
#[cfg(not(lgswitch_loom))]
pub mod plug;
pub mod port;
pub mod record;
pub mod report;
pub mod ring;
pub mod segment;
pub mod sigbus;
pub mod slot;
#[cfg(not(lgswitch_loom))]
mod stream;
pub mod sync;

#[cfg(lgswitch_loom)]
pub use model::map;

pub use frame::{Frame, Gather, VnetHeader};
pub use name::SegmentName;
pub use pnet_base::MacAddr;
pub use port::{Port, PortOptions, PortRx, PortTx};
pub use segment::{CreateOptions, Error, Segment};
pub use slot::{SlotIndex, SlotSet};
