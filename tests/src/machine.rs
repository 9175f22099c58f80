//! What this machine has: our binaries, the guests' kernel and initramfs, other programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::lab::Lab;

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct Image {
    /// A bzImage.
    pub kernel: PathBuf,
    /// Busybox, modules, and [`GUEST_TOOLS`].
    pub initrd: PathBuf,
}

/// Programs of the host that every test guest has in `/usr/bin`. `ping` is iputils' (call it by
/// its whole path: the guest's shell prefers its own).
pub const GUEST_TOOLS: [&str; 3] = ["ping", "ethtool", "iperf3"];

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// One of our binaries: `$LAUNCHER` or `$LGSWITCH` if set, else beside the running test.
///
/// # Errors
/// If it is not there, with what to do about it.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return Ok(path.into());
    }
    // target/<profile>/deps/<test>-<hash> -> target/<profile>/<name>
    let test = std::env::current_exe().context("Finding the test's own path")?;
    let path = test.ancestors().nth(2).unwrap_or(Path::new("")).join(name);
    if !path.exists() {
        bail!(
            "needs {}: run `cargo build --workspace` first",
            path.display()
        );
    }
    Ok(path)
}

/// The tiny guest's kernel: `$TINY_GUEST` if set, else built in the lab by the example's own script.
///
/// # Errors
/// What the script says, if it fails.
pub fn tiny_guest(lab: &Lab) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(TINY_GUEST) {
        return Ok(path.into());
    }
    let guest = lab.path("tiny-guest");
    if !guest.exists() {
        build_tiny_guest(&guest)?;
    }
    Ok(guest)
}

/// Where the tiny guest is, if it need not be built.
pub(crate) const TINY_GUEST: &str = "TINY_GUEST";

/// Builds the tiny guest with this machine's compiler.
pub(crate) fn build_tiny_guest(into: &Path) -> Result<()> {
    let script = repository().join("examples/guest/build.sh");
    let output = Command::new(script)
        .arg(into)
        .output()
        .context("Running examples/guest/build.sh")?;
    ensure!(
        output.status.success(),
        "The tiny guest is not built: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Where a program of the host is, if it is.
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/sbin", "/usr/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Whether guests can run on hardware virtualisation here: `/dev/kvm` is there, and the processor
/// has what it needs. (A virtual machine's `/dev/kvm` may be one that interprets instructions, and
/// not all of them.)
#[must_use]
pub fn has_kvm() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Path::new("/dev/kvm").exists()
        && flags
            .split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
}

/// The host's kernel: major and minor version; 0 if it does not say.
#[must_use]
pub fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|word| word.trim().parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The guests' kernel and initramfs: `$GUEST_KERNEL` and `$GUEST_INITRD` if both are set, else what
/// `examples/guest-image.sh` has made. A test fetches nothing from the network itself: `tests/run`
/// does that beforehand.
///
/// # Errors
/// What is missing, and what makes it.
pub fn image() -> Result<Image> {
    static IMAGE: OnceLock<Result<Image, String>> = OnceLock::new();
    IMAGE
        .get_or_init(|| find_image().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn find_image() -> Result<Image> {
    let given = |name| std::env::var_os(name).map(PathBuf::from);
    if let (Some(kernel), Some(initrd)) = (given("GUEST_KERNEL"), given("GUEST_INITRD")) {
        return Ok(Image { kernel, initrd });
    }
    let script = repository().join("examples/guest-image.sh");
    let mut command = Command::new(&script);
    command.arg("--cached");
    for tool in GUEST_TOOLS {
        command.args(["--with", tool]);
    }
    let output = command
        .output()
        .with_context(|| format!("Running {}", script.display()))?;
    if !output.status.success() {
        bail!(
            "needs the guests' image, which `tests/run` makes: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Image {
        kernel: named(&text, "KERNEL")?,
        initrd: named(&text, "INITRD")?,
    })
}

/// The file that an image's script gives on a line `NAME=FILE` of its `answer`.
///
/// # Errors
/// If there is no such line, or no such file. (The script quotes for a shell; only names without
/// quoting are read here.)
pub(crate) fn named(answer: &str, name: &str) -> Result<PathBuf> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .with_context(|| format!("Needs {name}=FILE from the image's script, got: {answer}"))
}
