//! One test's own corner: a folder with its segments and files, gone when the test ends.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::guest::{Guest, GuestBuilder};
use crate::machine;

/// A folder of its own for one test. `LGSWITCH_DIR` of everything started here is in it, so
/// that `lan0` of one test is never `lan0` of another, or of the machine's user.
pub struct Lab {
    folder: TempDir,
}

impl Lab {
    /// A new, empty lab: in `$SYSTEM_TESTS_DIR` if set, else on memory if the machine has
    /// `/dev/shm`, for segments are meant to live there.
    ///
    /// # Errors
    /// If no folder can be made.
    pub fn new() -> Result<Lab> {
        let memory = Path::new("/dev/shm");
        let chosen = std::env::var_os("SYSTEM_TESTS_DIR").map(PathBuf::from);
        let parent = chosen.or_else(|| memory.is_dir().then(|| memory.to_path_buf()));
        let mut builder = tempfile::Builder::new();
        builder.prefix("lab.");
        let folder = parent.map_or_else(|| builder.tempdir(), |parent| builder.tempdir_in(parent));
        let lab = Lab {
            folder: folder.context("Making a folder for the test")?,
        };
        for name in ["segments", "tmp"] {
            std::fs::create_dir(lab.path(name)).context("Making a folder for the test")?;
        }
        Ok(lab)
    }

    /// The path of `name` in this lab.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file behind the segment with this bare name.
    #[must_use]
    pub fn segment(&self, name: &str) -> PathBuf {
        self.path("segments").join(name)
    }

    /// `program` with this lab's environment and nothing on its stdin.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("LGSWITCH_DIR", self.path("segments"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `lgswitch` and returns how it went.
    ///
    /// # Errors
    /// If it cannot be run at all.
    pub fn try_lgswitch<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        self.command(machine::binary("lgswitch")?)
            .args(arguments)
            .output()
            .context("Running lgswitch")
    }

    /// Runs `lgswitch`, which must succeed, and returns what it printed.
    ///
    /// # Errors
    /// With what it said, if it did not succeed.
    pub fn lgswitch<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let output = self.try_lgswitch(arguments)?;
        let shown: Vec<_> = arguments
            .iter()
            .map(|argument| argument.as_ref().to_string_lossy())
            .collect();
        ensure!(
            output.status.success(),
            "`lgswitch {}` ended with {}: {}",
            shown.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What `lgswitch inspect --json NAME` prints.
    ///
    /// # Errors
    /// If it fails or prints something else than JSON.
    pub fn inspect(&self, segment: &str) -> Result<Value> {
        let text = self.lgswitch(&["inspect", "--json", segment])?;
        serde_json::from_str(&text)
            .with_context(|| format!("`lgswitch inspect --json` printed {text}"))
    }

    /// A guest to be started in this lab. Its name is what its prompt shows.
    #[must_use]
    pub fn guest(&self, name: &str) -> GuestBuilder<'_> {
        GuestBuilder::new(self, name)
    }

    /// A tiny guest (`examples/guest`) to be started in this lab. It has no shell: it does what its
    /// kernel arguments say, and prints what came of it.
    #[must_use]
    pub fn tiny_guest(&self, name: &str) -> GuestBuilder<'_> {
        GuestBuilder::tiny(self, name)
    }

    /// `left` and `right` on lan0, with the addresses .1 and .2, booted side by side.
    ///
    /// # Errors
    /// A guest does not start or boot.
    pub fn two_guests(&self) -> Result<(Guest, Guest)> {
        let start = |name, number| {
            self.guest(name)
                .option("--sharenet=lan0")
                .kernel_argument(&format!("eth0=10.0.0.{number}/24,fd00::{number}/64"))
                .start()
        };
        let (mut left, mut right) = (start("left", 1)?, start("right", 2)?);
        left.booted()?;
        right.booted()?;
        Ok((left, right))
    }
}
