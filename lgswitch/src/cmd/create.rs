//! `lgswitch create`: a new segment.

use anyhow::{Result, bail};
use clap::Args;
use lgswitch::layout::Geometry;
use lgswitch::report::SegmentReport;
use lgswitch::segment::Viewed;
use lgswitch::{CreateOptions, Error, Segment, SegmentName};
use nix::unistd::Gid;

use super::account::parse_group;
use super::link::print_json;

/// Make a sharenet.
#[derive(Debug, Args)]
pub struct CreateCommand {
    /// Its name, or a path with a '/'
    name: SegmentName,
    /// Largest IP packet of an ordinary frame, in bytes [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Slots, 2 to 682; those not taken cost nothing [default: 128]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Size of the ring between two ports, as 256K or 1M [default: 1664K]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    ring: Option<u64>,
    /// Size of a port's log of broadcasts [default: 512K]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    log: Option<u64>,
    /// Permissions of the file, in octal
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = parse_mode)]
    mode: u32,
    /// Group of the file
    #[arg(long, value_name = "GROUP|GID", value_parser = parse_group)]
    group: Option<u32>,
    /// Succeed if there is a sharenet of this name already that is as asked
    #[arg(long)]
    if_missing: bool,
}

impl CreateCommand {
    /// Makes it.
    pub fn run(self, json: bool) -> Result<()> {
        let path = self.name.path();
        let options = CreateOptions {
            slots: self.slots.unwrap_or(Geometry::DEFAULT_SLOTS),
            ring_bytes: self.ring.unwrap_or(Geometry::DEFAULT_RING),
            log_bytes: self.log.unwrap_or(Geometry::DEFAULT_LOG),
            mtu: self.mtu.unwrap_or(1500),
            mode: self.mode,
            group: self.group.map(Gid::from_raw),
        };
        let segment = match Segment::create(&path, &options) {
            Err(Error::Exists(_)) if self.if_missing => {
                let segment = Segment::open(&path)?;
                self.check(&segment)?;
                segment
            }
            made => made?,
        };
        if json {
            print_json(&SegmentReport::of(&Viewed::Segment(segment))?)?;
        }
        Ok(())
    }

    /// Whether a segment that was there is as asked, in what was asked for.
    fn check(&self, segment: &Segment) -> Result<()> {
        let geometry = segment.geometry();
        let differs = |what: &str, wanted: Option<u64>, is: u64| match wanted {
            Some(wanted) if wanted != is => Some(format!("{what} {is}, not {wanted}")),
            _ => None,
        };
        let first = [
            differs("an MTU of", self.mtu.map(u64::from), segment.mtu().into()),
            differs("slots:", self.slots.map(u64::from), geometry.slots() as u64),
            differs("a ring of", self.ring, geometry.ring_bytes()),
            differs("a log of", self.log, geometry.log_bytes()),
        ];
        match first.into_iter().flatten().next() {
            Some(difference) => bail!(
                "Sharenet {} exists, but has {difference}; remove it, or use it as it is",
                self.name
            ),
            None => Ok(()),
        }
    }
}

pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix('M') {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a size is a number, or as 512K or 1M")?;
    number.checked_mul(unit).ok_or_else(|| "too large".into())
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err("a mode is octal, 600 to 777, and lets the owner read and write".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("256K"), Ok(256 << 10));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert_eq!(parse_size("1048576"), Ok(1 << 20));
        for text in ["", "M", "-1", "1G", "18446744073709551615M"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mode_its_owner_could_not_use_is_refused() {
        assert_eq!(parse_mode("660"), Ok(0o660));
        for text in ["0", "466", "1777", "9", "-1"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
