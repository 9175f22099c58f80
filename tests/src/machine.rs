//! What this machine has: our binaries, the guests' kernel and initramfs, other programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

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

/// Where a program of the host is, if it is.
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/sbin", "/usr/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// The guests' kernel and initramfs, if `examples/guest-image.sh` has made them. A test fetches
/// nothing from the network itself: `tests/run` does that beforehand.
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
    // The script quotes for a shell; only names without quoting are read here.
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(PathBuf::from)
            .filter(|path| path.is_file())
            .with_context(|| {
                format!(
                    "needs {} to print {name}=file, got: {text}",
                    script.display()
                )
            })
    };
    Ok(Image {
        kernel: value("KERNEL")?,
        initrd: value("INITRD")?,
    })
}
