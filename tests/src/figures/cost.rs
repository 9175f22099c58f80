//! What a running guest costs its host, as the host's kernel tells.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};

use crate::guest::Guest;

/// Where KVM keeps its counts: a folder "PID-FD" for each virtual machine.
const KVM_COUNTS: &str = "/sys/kernel/debug/kvm";

/// Makes KVM's counts visible.
///
/// # Errors
/// debugfs cannot be mounted.
pub fn show_counts() -> Result<()> {
    if !Path::new(KVM_COUNTS).exists() {
        let status = std::process::Command::new("busybox")
            .args(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"])
            .status()
            .context("Mounting debugfs")?;
        ensure!(
            status.success() && Path::new(KVM_COUNTS).exists(),
            "There is no {KVM_COUNTS}, even with debugfs mounted"
        );
    }
    Ok(())
}

/// Processor time so far, user and system (guest time is user time), of the guest's VMM and all
/// that it started.
///
/// # Errors
/// If it is gone.
pub fn processor_time(guest: &Guest) -> Result<Duration> {
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK)
        .context("Asking for the clock tick")?
        .context("There is no clock tick")?;
    let mut ticks = 0.0;
    for process in guest.processes()? {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid))
            .context("Reading a VMM's processor time")?;
        // utime and stime are fields 14 and 15 (proc(5)), the 12th and 13th after the name.
        let (_, tail) = stat.rsplit_once(')').context("A strange /proc/PID/stat")?;
        for field in tail.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<f64>().context("A strange /proc/PID/stat")?;
        }
    }
    Ok(Duration::from_secs_f64(ticks / ticks_a_second as f64))
}

/// The VMM's share of memory in KiB (PSS: a page of n processes counts for 1/n).
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The guest's RAM.
    pub guest: f64,
    /// All the rest.
    pub own: f64,
}

/// What `guest`'s VMM, and all it started, takes of the host's memory. The guest's RAM is known by
/// its size, `ram` bytes: of one mapping, or of several side by side for which no swap is set aside
/// (where the launcher has put files into it). What lies beside it by chance, a bit of heap, cannot
/// be told from it, and counts as the VMM's own and as taken whole.
///
/// # Errors
/// If it is gone, or the RAM is not found.
pub fn memory(guest: &Guest, ram: u64) -> Result<Memory> {
    let mut all = Vec::new();
    for process in guest.processes()? {
        let maps = fs::read_to_string(format!("/proc/{}/smaps", process.pid))
            .context("Reading a VMM's mappings")?;
        all.extend(stretches(&maps));
    }
    let found = all
        .iter()
        .filter(|stretch| stretch.size >= ram)
        .min_by_key(|stretch| stretch.size)
        .context("No mapping is as large as the guest's RAM")?;
    let beside = (found.size - ram) as f64 / 1024.0;
    let guest = (found.share - beside).max(0.0);
    let total: f64 = all.iter().map(|stretch| stretch.share).sum();
    Ok(Memory {
        guest,
        own: total - guest,
    })
}

/// A mapping, or several side by side that are alike.
#[derive(Debug)]
struct Stretch {
    end: u64,
    /// Bytes.
    size: u64,
    /// KiB.
    share: f64,
    is_unreserved: bool,
}

/// The stretches in a `/proc/PID/smaps` (proc(5)): each mapping begins with its addresses
/// ("7f00-7f10 rw-p ...") and ends with its `VmFlags:`.
fn stretches(smaps: &str) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    let (mut start, mut end, mut share) = (0, 0, 0.0);
    let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-')
            && let (Some(from), Some(to)) = (hexadecimal(from), hexadecimal(to))
        {
            (start, end) = (from, to);
        } else if first == "Pss:" {
            share = words
                .next()
                .and_then(|kib| kib.parse().ok())
                .unwrap_or_default();
        } else if first == "VmFlags:" {
            let flags: Vec<_> = words.collect();
            // Readable and writable, which a mere reservation of addresses is not.
            let is_unreserved = ["nr", "rd", "wr"].iter().all(|flag| flags.contains(flag));
            match all.last_mut() {
                Some(last) if last.end == start && last.is_unreserved && is_unreserved => {
                    last.end = end;
                    last.size += end - start;
                    last.share += share;
                }
                _ => all.push(Stretch {
                    end,
                    size: end - start,
                    share,
                    is_unreserved,
                }),
            }
        }
    }
    all
}

/// How often the guest's processors left the guest so far.
///
/// # Errors
/// KVM keeps no counts for it.
pub fn exits(guest: &Guest) -> Result<f64> {
    let processes = guest.processes()?;
    for entry in fs::read_dir(KVM_COUNTS).context("Reading KVM's counts")? {
        let entry = entry.context("Reading KVM's counts")?;
        let name = entry.file_name();
        // The number is that of the thread which made the virtual machine.
        let Some((thread, _)) = name.to_str().and_then(|name| name.split_once('-')) else {
            continue;
        };
        let is_of = |pid| Path::new(&format!("/proc/{pid}/task/{thread}")).exists();
        if processes.iter().any(|process| is_of(process.pid)) {
            let count = fs::read_to_string(entry.path().join("exits")).context("Reading exits")?;
            return count.trim().parse().context("Reading exits");
        }
    }
    anyhow::bail!("KVM keeps no counts for this guest")
}

#[cfg(test)]
mod tests {
    use super::stretches;

    #[test]
    fn the_guests_ram_is_one_stretch_whatever_is_mapped_into_it() {
        let smaps = "\
7f0000000000-7f0001000000 rw-p 00000000 00:00 0\n\
Size:              16384 kB\nPss:                 100 kB\nPss_Dirty:            99 kB\n\
VmFlags: rd wr mr mw me nr\n\
7f0001000000-7f0004000000 rw-p 00200000 fe:00 7    /boot/vmlinux\n\
Size:              49152 kB\nPss:                  20 kB\nVmFlags: rd wr mr mw me nr\n\
7f0004000000-7f0004001000 r--p 00000000 fe:00 7    /usr/lib/libc.so.6\n\
Size:                  4 kB\nPss:                   3 kB\nVmFlags: rd mr mw me\n\
7f0004001000-7f0014001000 ---p 00000000 00:00 0\n\
Size:             262144 kB\nPss:                   0 kB\nVmFlags: mr mw me nr\n";
        let found = stretches(smaps);
        let sizes: Vec<_> = found.iter().map(|stretch| stretch.size).collect();
        assert_eq!(sizes, [64 << 20, 4096, 256 << 20]);
        assert!((found[0].share - 120.0).abs() < 0.1 && (found[1].share - 3.0).abs() < 0.1);
    }
}
