//! Host network set-up: taps, bridges, addresses and namespaces, over netlink.
//!
//! A program that runs guests needs a few things of its host's network, each of which can fail
//! half-way, exist already, or be forbidden. This crate does them so that the caller can say
//! *what* it wants and pass on, unedited, *why* it cannot have it.
//!
//! * Everything goes through netlink, save opening a tap, for which there is only an ioctl.
//! * Every operation may be repeated; the second time it answers [`Change::Unchanged`]. If
//!   something else is in the way the error says what.
//! * What a failed set-up half made is undone; nothing it did not make is removed.
//! * Calls block. Nothing here needs an async runtime, and inside one they are refused.
//!
//! # The tour
//!
//! 1. [`InterfaceName`], [`InterfaceAddress`]: what requests are made of, checked once, when
//!    parsed. [`random_mac`]: why every link we make is given its address at once.
//! 2. `netlink`: the doorway. [`NetSetup`] sends a request, gathers its answers, and turns a
//!    refusal into an [`Error`].
//! 3. `link` reads what there is ([`LinkInfo`]); `change` and `address` change one thing about it.
//! 4. `bridge`, `veth`, `vxlan`, `macvtap` make links.
//! 5. [`Transaction`]: several steps as one.
//! 6. `tun` opens a tap (all the `unsafe`); `tap` puts everything together in
//!    [`NetSetup::setup_tap`].
//! 7. [`Netns`]: the same in another namespace.
//!
//! # Example
//!
//! A tap on an existing bridge, which goes away with the process, however that ends:
//!
//! ```no_run
//! use netsetup::{NetSetup, TapOptions, TapPlan};
//!
//! # fn main() -> Result<(), netsetup::Error> {
//! let net = NetSetup::new()?;
//! let tap = net.setup_tap(&TapPlan {
//!     tap: TapOptions { vnet_hdr: true, ..TapOptions::default() },
//!     bridge: Some("br0".parse()?),
//!     up: true,
//!     ..TapPlan::default()
//! })?;
//! println!("frames flow through {}", tap.name);
//! # Ok(())
//! # }
//! ```

mod address;
mod bridge;
mod change;
mod error;
mod link;
mod mac;
mod macvtap;
mod name;
mod netlink;
mod netns;
mod tap;
mod transaction;
mod tun;
mod veth;
mod vxlan;

pub use address::{InterfaceAddress, InvalidAddress};
pub use bridge::{BridgeOptions, BridgePlan};
pub use error::{Error, Result};
pub use link::{BridgeSettings, LinkInfo, LinkKind, TapSettings, VxlanSettings};
pub use mac::{random_mac, random_port_mac};
pub use macvtap::{MacvtapMode, MacvtapOpening, MacvtapOptions};
pub use name::{InterfaceName, InvalidName, MAX_NAME_LEN, NamePattern, TapName};
pub use netlink::{Change, NetSetup};
pub use netns::{NETNS_DIR, Netns, NetnsName};
pub use tap::{IfExists, MAX_QUEUES, Tap, TapOptions, TapPlan};
pub use transaction::Transaction;
pub use tun::{TUN_DEVICE, TapOffloads, VNET_HEADER_LEN};
pub use veth::VethEnd;
pub use vxlan::{InvalidVni, VXLAN_PORT, Vni, VxlanOptions};
