//! The test host as a machine: started by `tests/test-host`, driven over its serial console, ended.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::claim::Need;
use crate::console::{Answer, Console};
use crate::machine;

/// What this machine needs to run a test host.
pub const NEEDS: &[Need] = &[
    Need::Guests,
    Need::Tool("mke2fs"),
    Need::Tool("strip"),
    Need::Tool("setpriv"),
    Need::Tool("lz4"),
];

/// From the script's start to the host's shell. On an idle machine QEMU takes 5 s, and the disk,
/// if it has to be made, a few more.
const BOOT: Duration = Duration::from_secs(180);

/// Where the tiny guest is on it.
pub const TINY_GUEST: &str = "/boot/tiny-guest";

/// A running test host. Dropping it ends it; its disk forgets what was written.
pub struct TestHost {
    /// The script, and then QEMU in its place.
    qemu: Child,
    console: Console,
}

impl TestHost {
    /// Starts the host, with these programs of this machine on its disk (see `tests/test-host`),
    /// and the tiny guest if this machine can build it at [`TINY_GUEST`], and waits for its shell and its `/dev/kvm`. It ends at the latest with the thread that calls
    /// this.
    ///
    /// # Errors
    /// With what its console shows, if it does not get there.
    pub fn boot(name: &str, programs: &[&Path]) -> Result<TestHost> {
        let image = machine::image()?;
        let mut script = Command::new("setpriv");
        script
            .args(["--pdeathsig", "KILL"])
            .arg(machine::repository().join("tests/test-host"))
            .env("LAUNCHER", machine::binary("launcher")?)
            .env("LGSWITCH", machine::binary("lgswitch")?)
            .env("GUEST_KERNEL", image.kernel)
            .env("GUEST_INITRD", image.initrd)
            .args(["--name", name]);
        let built = tempfile::tempdir().context("Making a folder for the tiny guest")?;
        if Need::TinyGuests.unmet().is_none() {
            let guest = built.path().join("guest");
            machine::build_tiny_guest(&guest)?;
            script
                .arg("--file")
                .arg(format!("{}={TINY_GUEST}", guest.display()));
        }
        for program in programs {
            script.arg("--with").arg(program);
        }
        // For guests of the engine `qemu`.
        script.args(["--with", "qemu-system-x86_64"]);
        let mut qemu = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("Running tests/test-host")?;
        let (Some(input), Some(output)) = (qemu.stdin.take(), qemu.stdout.take()) else {
            anyhow::bail!("tests/test-host has no pipes");
        };
        let mut host = TestHost {
            qemu,
            console: Console::new(input, output),
        };
        host.console.settle("host", BOOT)?;
        let kvm = host.run("test -c /dev/kvm", BOOT)?;
        ensure!(
            kvm.status == 0,
            "There is no /dev/kvm in the test host; its console said:\n{}",
            host.console.transcript()
        );
        Ok(host)
    }

    /// Runs a command line of the shell on the host, whatever its exit status.
    ///
    /// # Errors
    /// With what its console shows, if the command does not end in time. The host is of no use
    /// then: the command may still be running.
    pub fn run(&mut self, command: &str, patience: Duration) -> Result<Answer> {
        self.console
            .run(command, patience)
            .context("In the test host")
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
