//! A claim is a named test that says what it needs to be testable at all.

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::machine;

/// Something a claim cannot be tested without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// The effective user is root (namespaces, taps, mounts).
    Root,
    /// Guests can be booted: launcher, QEMU, kernel, initramfs.
    Guests,
    /// The `launcher` and `lgswitch` binaries are built.
    Binaries,
    /// Guests can be booted on hardware virtualisation: as [`Need::Guests`], with `/dev/kvm` in
    /// QEMU's place.
    KvmGuests,
    /// A program of the host, by name.
    Tool(&'static str),
}

impl Need {
    /// Why this machine does not meet the need, if it does not.
    fn unmet(self) -> Option<String> {
        match self {
            Need::Root => (!nix::unistd::geteuid().is_root()).then(|| "needs root".into()),
            Need::Binaries => machine::binary("launcher")
                .and_then(|_| machine::binary("lgswitch"))
                .err()
                .map(|error| format!("{error:#}")),
            Need::Guests => Need::Tool("qemu-system-x86_64").unmet().or_else(bootable),
            Need::KvmGuests => (!machine::has_kvm())
                .then(|| "needs /dev/kvm on a processor with vmx or svm".into())
                .or_else(bootable),
            Need::Tool(name) => machine::tool(name)
                .is_none()
                .then(|| format!("needs the program `{name}`")),
        }
    }
}

/// Why no engine at all could boot a guest, if so.
fn bootable() -> Option<String> {
    Need::Binaries
        .unmet()
        .or_else(|| machine::image().err().map(|error| format!("{error:#}")))
}

/// A test that reads as a sentence. It is ignored, with the reason, where a need is unmet.
pub fn claim(name: &str, needs: &'static [Need], body: fn() -> Result<()>) -> Trial {
    Trial::ignorable_test(name, move || judge(needs, body))
}

/// Why a claim with these needs can't be tested here, if so.
pub(crate) fn unmet(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| need.unmet())
}

/// The outcome of a claim on this machine.
pub(crate) fn judge(needs: &[Need], body: fn() -> Result<()>) -> Result<Completion, Failed> {
    if let Some(reason) = unmet(needs) {
        return Ok(Completion::ignored_with(reason));
    }
    match body() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => Err(Failed::from(format!("{error:#}"))),
    }
}

/// Runs the claims of one file, one after the other: each may boot several guests, and two
/// emulated processors are all that many a machine can carry. `--test-threads=N` overrides.
pub fn main(claims: Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, claims).exit()
}
