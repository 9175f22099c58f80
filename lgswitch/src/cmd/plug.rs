//! `lgswitch plug`: something else than a launcher on a segment, for as long as the command runs.

#[cfg(target_pointer_width = "64")]
mod card;
#[cfg(not(target_pointer_width = "64"))]
#[path = "plug/no_card.rs"]
mod card;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use lgswitch::frame::Offloads;
use lgswitch::plug::tap;
use lgswitch::{MacAddr, Port, PortOptions, Segment, SegmentName, SlotIndex};
use netsetup::{
    InterfaceAddress, InterfaceName, NetSetup, Tap, TapName, TapOffloads, TapOptions, TapPlan,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Put a VMM's network card or a tap of the host on a sharenet.
#[derive(Debug, Args)]
pub struct PlugCommand {
    /// Its name, or a path with a '/'
    name: SegmentName,
    /// What to plug in: a socket a VMM or DPDK connects to, or a tap (made if missing)
    #[arg(value_name = "vhost-user:SOCKET|tap:NAME")]
    what: What,
    /// MAC on the peers page: a card's must be the one the VMM gives its guest [default: random]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,
    /// That slot and no other
    #[arg(long, value_name = "N")]
    slot: Option<SlotIndex>,
    /// Pairs of queues a card offers; how many are used is the guest's to say
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=card::MAX_PAIRS))]
    queues: u8,
    /// A tap's address on the host; may be repeated
    #[arg(long, value_name = "IP/PREFIX")]
    address: Vec<InterfaceAddress>,
    /// The bridge a tap joins, which must exist
    #[arg(long, value_name = "BRIDGE", conflicts_with = "address")]
    bridge: Option<InterfaceName>,
}

#[derive(Debug, Clone)]
enum What {
    VhostUser(PathBuf),
    Tap(TapName),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("vhost-user", path)) if !path.is_empty() => Ok(Self::VhostUser(path.into())),
            Some(("tap", name)) => {
                let name = name.parse().map_err(|e| format!("{e}"))?;
                Ok(Self::Tap(name))
            }
            _ => Err("a plug is vhost-user:SOCKET or tap:NAME".into()),
        }
    }
}

impl PlugCommand {
    /// Runs until told to end, or until the plug ends.
    pub fn run(self) -> Result<()> {
        let signals = Signals::block()?;
        let segment = Segment::open(&self.name.path())?;
        match self.what.clone() {
            What::VhostUser(path) => {
                if !self.address.is_empty() || self.bridge.is_some() {
                    bail!("A vhost-user socket has neither address nor bridge; those are a tap's");
                }
                let port = self.port(
                    &segment,
                    &format!("vhost-user:{}", path.display()),
                    self.mac,
                )?;
                let label = format!("{} on {}", path.display(), self.name);
                card::serve(port, &path, label, self.queues, &signals)
            }
            What::Tap(name) => {
                if self.queues > 1 {
                    bail!("A tap has one pair of queues; several are a vhost-user card's");
                }
                let plan = TapPlan {
                    tap: TapOptions {
                        name,
                        vnet_hdr: true,
                        nonblocking: true,
                        mac: self.mac,
                        mtu: Some(segment.mtu().min(MAX_TAP_MTU)),
                        ..TapOptions::default()
                    },
                    bridge: self.bridge.clone(),
                    addresses: self.address.clone(),
                    up: true,
                };
                let net = NetSetup::new()?;
                let tap = net.setup_tap(&plan)?;
                let takes = take_unfinished(&tap)?;
                let mac = net.link(&tap.name)?.and_then(|link| link.mac);
                let port = self.port(&segment, &format!("tap:{}", tap.name), mac)?;
                let label = tap.name.to_string();
                let queue = tap
                    .queues
                    .into_iter()
                    .next()
                    .context("A tap without a queue")?;
                let service = tap::serve(port, queue, takes, &label)?;
                signals.wait(Some(service.ended()))
            }
        }
    }

    fn port(&self, segment: &Arc<Segment>, name: &str, mac: Option<MacAddr>) -> Result<Port> {
        let options = PortOptions {
            // An address the peers page can't say is learned from what the tap sends.
            mac: mac.filter(|mac| mac.0 != 0 || self.mac.is_some()),
            slot: self.slot,
            name: name.to_owned(),
            ..PortOptions::default()
        };
        Ok(segment.port(options)?)
    }
}

/// Has the host leave undone all it can, and tells what it takes undone: the same.
fn take_unfinished(tap: &Tap) -> Result<Offloads> {
    let offloads = |uso| TapOffloads {
        csum: true,
        tso4: true,
        tso6: true,
        tso_ecn: true,
        uso,
    };
    // Large UDP datagrams since Linux 6.2.
    if tap.set_offloads(offloads(true)).is_ok() {
        return Ok(Offloads::ALL);
    }
    tap.set_offloads(offloads(false))?;
    Ok(Offloads::CHECKSUM
        .with(Offloads::TSO4)
        .with(Offloads::TSO6)
        .with(Offloads::ECN))
}

/// The kernel's limit for a tap, in bytes.
const MAX_TAP_MTU: u32 = 65_521;

/// The signals that end the command, kept until somebody asks. Made before any thread is.
struct Signals(SignalFd);

impl Signals {
    fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for one of them, or for `ended`.
    fn wait(&self, ended: Option<&EventFd>) -> Result<()> {
        let fds = [Some(self.0.as_fd()), ended.map(AsFd::as_fd)];
        let mut ready: Vec<_> = fds
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        while let Err(nix::errno::Errno::EINTR) = poll(&mut ready, PollTimeout::NONE) {}
        match ready.first().and_then(PollFd::any) {
            Some(true) => Ok(()),
            _ => bail!("The plug has ended; the reason is above"),
        }
    }
}
