//! A claim is a named test that says what it needs to be testable at all.

use std::process::{Command, Stdio};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::signal::{self, SigHandler, Signal};

use crate::machine;

/// Something a claim cannot be tested without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// The effective user is root (namespaces, taps, mounts).
    Root,
    /// Guests can be booted: launcher, KVM or QEMU, kernel, initramfs.
    Guests,
    /// Tiny guests can be run: the binaries, and the guest or a compiler for it.
    TinyGuests,
    /// The `launcher` and `lgswitch` binaries are built.
    Binaries,
    /// A program of the host, by name.
    Tool(&'static str),
    /// A kernel of the host of at least this version.
    Kernel(u32, u32),
    /// Macvtaps can be made and opened.
    Macvtaps,
}

/// Makes one, in a namespace that is gone at once. Its index is one that no other namespace's has, for
/// `/dev` is shared.
const MAKE_MACVTAP: &str = "ip link add under type bridge && \
    ip link add link under index $((1000000 + $$)) type macvtap && test -c /dev/tap$((1000000 + $$))";

impl Need {
    /// Why this machine does not meet the need, if it does not.
    pub(crate) fn unmet(self) -> Option<String> {
        match self {
            Need::Root => (!nix::unistd::geteuid().is_root()).then(|| "needs root".into()),
            Need::Binaries => machine::binary("launcher")
                .and_then(|_| machine::binary("lgswitch"))
                .err()
                .map(|error| format!("{error:#}")),
            Need::Guests => Need::Binaries
                .unmet()
                .or_else(|| machine::image().err().map(|error| format!("{error:#}")))
                .or_else(|| {
                    let qemu = Need::Tool("qemu-system-x86_64").unmet();
                    qemu.filter(|_| !machine::has_kvm())
                }),
            Need::TinyGuests => Need::Binaries.unmet().or_else(|| {
                let compiler = Need::Tool("gcc").unmet();
                compiler.filter(|_| std::env::var_os(machine::TINY_GUEST).is_none())
            }),
            Need::Macvtaps => {
                let mut make = Command::new("unshare");
                make.args(["--net", "sh", "-c", MAKE_MACVTAP]);
                let made = make.stderr(Stdio::null()).status();
                let made = made.is_ok_and(|status| status.success());
                (!made).then(|| "needs macvtaps: the kernel's, as root, and nodes in /dev".into())
            }
            Need::Tool(name) => machine::tool(name)
                .is_none()
                .then(|| format!("needs the program `{name}`")),
            Need::Kernel(major, minor) => (machine::kernel_version() < (major, minor))
                .then(|| format!("needs Linux {major}.{minor}")),
        }
    }
}

/// Why a claim with these needs can't be tested here, if so.
pub(crate) fn unmet(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| need.unmet())
}

/// A test that reads as a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The sentence.
    pub name: &'static str,
    needs: &'static [Need],
    body: fn() -> Result<()>,
}

/// A claim with its sentence, what it needs, and how it is tested.
#[must_use]
pub fn claim(name: &'static str, needs: &'static [Need], body: fn() -> Result<()>) -> Claim {
    Claim { name, needs, body }
}

impl Claim {
    /// Its outcome on this machine. It is ignored, with the reason, where a need is unmet.
    pub(crate) fn judge(&self) -> Result<Completion, Failed> {
        if let Some(reason) = unmet(self.needs) {
            return Ok(Completion::ignored_with(reason));
        }
        match (self.body)() {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => Err(Failed::from(format!("{error:#}"))),
        }
    }
}

/// Runs the claims of one file, one after the other: each may boot several guests, and two
/// emulated processors are all that many a machine can carry. `--test-threads=N` overrides.
pub fn main(claims: Vec<Claim>) -> ! {
    heed_interrupts();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trial = |claim: Claim| Trial::ignorable_test(claim.name, move || claim.judge());
    let trials = claims.into_iter().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit()
}

/// Whoever is started in a shell's background ignores SIGINT, and so do all it starts: a script under
/// test could not be interrupted, whatever it does.
fn heed_interrupts() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: the default action is no code of ours, and no other thread runs yet.
        let heeded = unsafe { signal::signal(signal, SigHandler::SigDfl) };
        heeded.expect("both are signals that may be heeded");
    }
}
