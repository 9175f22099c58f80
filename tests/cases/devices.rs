//! Claims about disks, and about the order of a guest's devices.

use std::fs;

use anyhow::{Context, Result, ensure};
use system_tests::{Claim, Lab, Namespace, Need, claim};

fn main() {
    system_tests::main(claims())
}

/// Also run on hardware virtualisation, by `kvm.rs`.
pub fn claims() -> Vec<Claim> {
    const NEEDS: &[Need] = &[Need::Guests];
    vec![
        claim(
            "what_a_guest_writes_is_in_the_file_and_nothing_else",
            NEEDS,
            what_a_guest_writes_is_in_the_file,
        ),
        claim(
            "devices_appear_in_the_order_of_their_options_and_as_those_say",
            &[Need::Guests, Need::Root],
            devices_appear_in_order,
        ),
    ]
}

const MIB: usize = 1 << 20;

/// Bytes in which every part of a disk is different from every other.
fn pattern(length: usize) -> Vec<u8> {
    (0..length / 8)
        .flat_map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

fn what_a_guest_writes_is_in_the_file() -> Result<()> {
    let lab = Lab::new()?;
    // On a real filesystem, where O_DIRECT is taken, unlike the lab's own memory.
    let real = std::env::var_os("SYSTEM_TESTS_DISK").unwrap_or(env!("CARGO_TARGET_TMPDIR").into());
    let folder = tempfile::tempdir_in(real).context("Making a folder")?;
    let disk = folder.path().join("disk.img");
    let mut wanted = pattern(4 * MIB);
    fs::write(&disk, &wanted).context("Making a disk")?;
    let mut guest = lab
        .guest("guest")
        .option(format!("--block={}", disk.display()))
        .boot()?;

    ensure!(
        guest.succeeds("blockdev --getsize64 /dev/vda")?.trim() == (4 * MIB).to_string(),
        "The size is wrong"
    );
    let copy = lab.path("copy");
    fs::write(&copy, &wanted)?;
    let digest = String::from_utf8(lab.command("sha256sum").arg(&copy).output()?.stdout)?;
    let read = guest.succeeds("sha256sum /dev/vda")?;
    ensure!(
        read.split(' ').next() == digest.split(' ').next(),
        "The guest reads something else"
    );

    // One sector, and a run of 1 MiB, at places of which neither is the start nor the end.
    guest
        .succeeds("yes sector | head -c 512 | dd of=/dev/vda bs=512 seek=77 conv=notrunc,fsync")?;
    guest.succeeds(
        "yes mebibyte | head -c 1048576 | dd of=/dev/vda bs=1M seek=2 conv=notrunc,fsync",
    )?;
    let fill = |part: &mut [u8], line: &[u8]| {
        part.iter_mut()
            .zip(line.iter().cycle())
            .for_each(|(to, from)| *to = *from)
    };
    fill(&mut wanted[77 * 512..78 * 512], b"sector\n");
    fill(&mut wanted[2 * MIB..3 * MIB], b"mebibyte\n");
    // Past the end there is nothing to be written, and the file must not grow.
    guest.fails("dd if=/dev/zero of=/dev/vda bs=1M seek=4 count=1 conv=notrunc,fsync")?;
    guest.powers_off()?;
    let found = fs::read(&disk)?;
    ensure!(
        found.len() == wanted.len(),
        "The file has {} bytes now",
        found.len()
    );
    if let Some(at) = found
        .iter()
        .zip(&wanted)
        .position(|(found, wanted)| found != wanted)
    {
        anyhow::bail!("The first wrong byte of the file is at {at}");
    }
    Ok(())
}

fn devices_appear_in_order() -> Result<()> {
    let lab = Lab::new()?;
    let host = Namespace::new()?;
    let disk_that_says = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(MIB, 0);
        bytes
    };
    for (name, text) in [("first", "the first disk"), ("second", "the second disk")] {
        fs::write(lab.path(name), disk_that_says(text))?;
    }
    let mut guest = lab
        .guest("guest")
        .inside(&host)
        .option("--tunnet=192.168.19.1,mac=02:00:00:00:00:00")
        .option(format!("--block={}", lab.path("first").display()))
        .option("--sharenet=lan0,mac=02:00:00:00:00:01")
        .option("--tunnet=192.168.20.1,mac=02:00:00:00:00:02")
        .option(format!(
            "--block={},ro,serial=the-disk-of-20-bytes",
            lab.path("second").display()
        ))
        .option("--sharenet=lan1,mac=02:00:00:00:00:03")
        .boot()?;
    for number in 0..4 {
        let mac = guest.mac(&format!("eth{number}"))?.to_string();
        ensure!(
            mac == format!("02:00:00:00:00:0{number}"),
            "eth{number} has the address {mac}"
        );
    }
    for (disk, text) in [("vda", "the first disk"), ("vdb", "the second disk")] {
        let found = guest.succeeds(&format!("head -c {} /dev/{disk}", text.len()))?;
        ensure!(found == text, "{disk} is: {found}");
    }

    let serial = guest.succeeds("cat /sys/block/vdb/serial")?;
    ensure!(serial.trim() == "the-disk-of-20-bytes", "It is {serial}");
    let read_only = guest.succeeds("cat /sys/block/vda/ro /sys/block/vdb/ro")?;
    ensure!(read_only == "0\n1\n", "Which is read only: {read_only}");
    guest.fails("dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=notrunc,fsync")?;
    ensure!(guest.power_off()?.success(), "{}", guest.errors());
    ensure!(
        fs::read(lab.path("second"))? == disk_that_says("the second disk"),
        "The file has changed"
    );
    Ok(())
}
