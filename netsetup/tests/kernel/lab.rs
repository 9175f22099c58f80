//! The laboratory: namespaces nobody else minds, and `ip` to look into them.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::{Completion, Failed};
use netsetup::NetSetup;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use serde_json::Value;

/// A test: a claim, and the function that proves it.
pub type Test = (&'static str, fn(&Lab));

/// What a test is given: a handle to its own, empty namespace.
pub struct Lab {
    pub net: NetSetup,
}

/// Names tests after their functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[$crate::lab::Test] = &[$((stringify!($name), $name)),*];
    };
}

/// Leaves the host's mounts (and, without root, its users) behind. Must come before any thread.
pub fn open() -> Result<(), String> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|e| format!("unshare of mounts is refused: {}", e.desc()))?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
            .map_err(|e| format!("not root, and user namespaces are refused: {}", e.desc()))?;
        let map = |file: &str, text: String| {
            fs::write(format!("/proc/self/{file}"), text)
                .map_err(|e| format!("cannot write {file}: {e}"))
        };
        map("setgroups", "deny".into())?;
        map("uid_map", format!("0 {uid} 1"))?;
        map("gid_map", format!("0 {gid} 1"))?;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| format!("cannot make mounts private: {}", e.desc()))?;
    // An own /run, so that named namespaces are ours alone.
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
        .map_err(|e| format!("cannot mount a /run of our own: {}", e.desc()))?;
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| format!("network namespaces are refused: {}", e.desc()))?;
    match Command::new("ip").arg("-V").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("`ip` is missing; install iproute2".into()),
    }
}

/// Why taps cannot be tested, if they cannot.
pub fn no_tun() -> Option<String> {
    let open = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(netsetup::TUN_DEVICE);
    open.err()
        .map(|e| format!("cannot open {}: {e}", netsetup::TUN_DEVICE))
}

/// Wraps a test: its thread moves to a new namespace first.
pub fn in_fresh_namespace(
    test: fn(&Lab),
) -> impl FnOnce() -> Result<Completion, Failed> + Send + 'static {
    move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.desc().to_string())?;
        let lab = Lab {
            net: NetSetup::new().map_err(|e| e.to_string())?,
        };
        let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| test(&lab))) else {
            return Ok(Completion::Completed);
        };
        if let Some(CannotRun(reason)) = panic.downcast_ref() {
            return Ok(Completion::ignored_with(reason));
        }
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text
            .or(panic.downcast_ref::<&str>().copied())
            .unwrap_or("it panicked")
            .into())
    }
}

/// Thrown where a test finds that this kernel cannot run it: it is then ignored, not passed.
struct CannotRun(String);

/// Ends the test as one that cannot run here.
pub fn cannot_run(reason: impl Into<String>) -> ! {
    panic::resume_unwind(Box::new(CannotRun(reason.into())))
}

/// For tests outside the taps' own file: ends them where there are no taps.
pub fn need_tun() {
    if let Some(reason) = no_tun() {
        cannot_run(reason);
    }
}

/// Runs `ip` with these words in the thread's namespace.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("Unknown device type") || error.contains("Operation not supported") {
        cannot_run(format!("this kernel cannot `ip {words}`: {}", error.trim()));
    }
    assert!(output.status.success(), "ip {words}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a link that is neither tap nor bridge and has no other end: a VXLAN to nowhere. (A dummy
/// would do, but fewer kernels have it.)
pub fn plain_link(name: &str) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let vni = NEXT.fetch_add(1, Ordering::Relaxed);
    ip(&format!(
        "link add {name} mtu 1500 type vxlan id {vni} dstport 4789"
    ));
}

/// What `ip -d -j addr show` says of a link; `None` if there is none.
pub fn shown(name: &str) -> Option<Value> {
    let all: Value = serde_json::from_str(&ip("-d -j addr show")).unwrap();
    all.as_array()
        .unwrap()
        .iter()
        .find(|link| link["ifname"] == name)
        .cloned()
}

/// The same for a link that must be there.
#[track_caller]
pub fn show(name: &str) -> Value {
    shown(name).unwrap_or_else(|| panic!("there is no {name}"))
}

/// The same without what follows the carrier, which the kernel updates in its own time.
#[track_caller]
pub fn show_settings(name: &str) -> Value {
    let mut link = show(name);
    let link = link.as_object_mut().unwrap();
    link.remove("operstate");
    link["flags"]
        .as_array_mut()
        .unwrap()
        .retain(|flag| flag != "NO-CARRIER" && flag != "LOWER_UP");
    Value::Object(link.clone())
}

/// Its addresses as `ip` prints them, without the link-local ones the kernel gives by itself.
pub fn addresses(name: &str) -> Vec<String> {
    let link = show(name);
    let infos = link["addr_info"].as_array().unwrap();
    let own = infos
        .iter()
        .filter(|a| a["scope"] != "link" && a["local"].is_string());
    own.map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect()
}

/// Whether a link is up.
pub fn is_up(name: &str) -> bool {
    show(name)["flags"]
        .as_array()
        .unwrap()
        .iter()
        .any(|flag| flag == "UP")
}

/// The names of all links but the loopback, in order.
pub fn names() -> Vec<String> {
    let all: Value = serde_json::from_str(&ip("-j link show")).unwrap();
    let names = all
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["ifname"].as_str().unwrap().to_owned());
    let mut names: Vec<String> = names.filter(|n| n != "lo").collect();
    names.sort();
    names
}

/// Asserts that an error says all of these things, in one line.
#[track_caller]
pub fn says(error: &netsetup::Error, words: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}
