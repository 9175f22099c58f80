//! The bench on which the whole system is tested: real guests, real segments, real namespaces.
//!
//! # The tour
//!
//! A test here is a *claim* with a name that reads as one, in a file of `cases/`. To test it:
//!
//! 1. [`claim`]: says what it needs; on a machine without that, it is ignored with the reason,
//!    never passed.
//! 2. [`machine`]: where the binaries and the guests' kernel are.
//! 3. [`lab`]: a folder for its segments and files, gone when the test ends.
//! 4. [`namespace`]: a network of its own, so that no test touches the host's.
//! 5. [`guest`]: starts a guest with the launcher, and drives it over its [`console`].
//! 6. [`terminal`]: the same on a pseudo-terminal, as a person would.
//! 7. [`wire`]: listens on the segment, to see the frames themselves.
//! 8. [`process`]: who is whose child, to see that nothing is left behind.
//! 9. [`inspect`]: what `lgswitch inspect --json` says.
//! 10. [`ending`]: how a program must refuse what is bad.
//! 11. [`plug`] and [`qemu`]: taps and another VMM's cards on the segment.
//! 12. [`test_host`]: a second machine with hardware virtualisation, for claims about that.
//! 13. [`vmlinux`] and [`archive`]: other kernels and initramfs than the usual ones.
//! 14. [`wait`]: nothing waits for ever, and nothing sleeps for a fixed time.
//!
//! [`figures`] measures instead of claiming.
//!
//! Claims are checked against what the kernel and other programs say (`ip`, `/proc`, the guest's
//! own tools), not against what our code says about itself.

pub mod archive;
pub mod claim;
pub mod console;
pub mod ending;
pub mod figures;
pub mod guest;
pub mod inspect;
pub mod lab;
pub mod machine;
pub mod namespace;
pub mod plug;
pub mod process;
pub mod qemu;
pub mod terminal;
pub mod test_host;
pub mod vmlinux;
pub mod wait;
pub mod wire;

pub use claim::{Claim, Need, claim, main};
pub use guest::{Guest, GuestBuilder};
pub use lab::Lab;
pub use namespace::Namespace;
pub use wire::Wiretap;
