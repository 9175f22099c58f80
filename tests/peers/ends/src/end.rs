//! What an end of a wire is, and the two loops around it.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{packet, qemu, tap, vde};

/// Frames in a burst, for the wires that can take more than one at once.
pub const BURST: usize = 32;
/// A receiver does not count what arrives this soon after the first frame: caches are cold,
/// switches have not learned, buffers are empty.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long a receiver waits for a first frame, or for a next one.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be sent or received.
#[derive(Debug, Clone, Args)]
pub struct Job {
    /// Bytes of a frame, from its destination address to the end of its payload
    #[arg(long)]
    pub size: usize,
    /// Seconds to send, or to count
    #[arg(long)]
    pub seconds: f64,
    /// Processor to stay on
    #[arg(long)]
    pub processor: usize,
}

/// One way to send frames.
pub trait Sender {
    /// Sends a burst, waiting for room as long as it takes.
    fn send(&mut self) -> Result<()>;
}

/// One way to receive them.
pub trait Receiver {
    /// Waits for frames, at most [`PATIENCE`]; how many of ours came.
    fn receive(&mut self) -> Result<u64>;
}

/// Where a wire ends.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A network interface.
    Packet(String),
    /// A tap of its own on a bridge.
    Tap(String),
    /// A plug in a `vde_switch`: the switch's folder, our socket.
    Vde(String, String),
    /// A pair of datagram sockets, as of QEMU's `-netdev dgram`: ours, the other's.
    Dgram(String, String),
    /// A stream socket, as of QEMU's `-netdev stream`; the receiver listens.
    Stream(String),
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split(':').collect::<Vec<_>>()[..] {
            ["packet", interface] => Ok(Self::Packet(interface.to_owned())),
            ["tap", bridge] => Ok(Self::Tap(bridge.to_owned())),
            ["vde", switch, ours] => Ok(Self::Vde(switch.to_owned(), ours.to_owned())),
            ["dgram", ours, others] => Ok(Self::Dgram(ours.to_owned(), others.to_owned())),
            ["stream", socket] => Ok(Self::Stream(socket.to_owned())),
            _ => bail!(
                "`{text}` is no end of a wire; there are packet:INTERFACE, tap:BRIDGE, vde:SWITCH:LOCAL, dgram:LOCAL:REMOTE and stream:SOCKET"
            ),
        }
    }
}

impl Endpoint {
    /// Opens the sending end.
    pub fn sender(&self, job: &Job) -> Result<Box<dyn Sender>> {
        Ok(match self {
            Self::Packet(interface) => Box::new(packet::Packets::open(interface, job.size)?),
            Self::Tap(bridge) => Box::new(tap::Tap::open(bridge, job.size)?),
            Self::Vde(switch, ours) => Box::new(vde::Plug::open(switch, ours, job.size)?),
            Self::Dgram(ours, others) => {
                Box::new(qemu::Datagrams::open(ours, Some(others), job.size)?)
            }
            Self::Stream(socket) => Box::new(qemu::StreamSender::connect(socket, job.size)?),
        })
    }

    /// Opens the receiving end.
    pub fn receiver(&self, job: &Job) -> Result<Box<dyn Receiver>> {
        Ok(match self {
            Self::Packet(interface) => Box::new(packet::Packets::open(interface, job.size)?),
            Self::Tap(bridge) => Box::new(tap::Tap::open(bridge, job.size)?),
            Self::Vde(switch, ours) => {
                let plug = vde::Plug::open(switch, ours, job.size)?;
                plug.announce()?;
                Box::new(plug)
            }
            Self::Dgram(ours, _) => Box::new(qemu::Datagrams::open(ours, None, job.size)?),
            Self::Stream(socket) => Box::new(qemu::StreamReceiver::accept(socket, job.size)?),
        })
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    frames: u64,
    bytes: u64,
    seconds: f64,
}

impl Received {
    /// Million frames a second.
    pub fn mpps(&self) -> f64 {
        self.frames as f64 / self.seconds / 1e6
    }

    /// Gigabits of frames a second.
    pub fn gbps(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e9
    }
}

/// Sends until the time is over.
pub fn send(sender: &mut dyn Sender, job: &Job) -> Result<()> {
    let end = Instant::now() + duration(job)?;
    while Instant::now() < end {
        sender.send()?;
    }
    Ok(())
}

/// Counts for the time of the job, from a while after the first frame on.
pub fn receive(receiver: &mut dyn Receiver, job: &Job) -> Result<Received> {
    let duration = duration(job)?;
    receiver.receive()?;
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        receiver.receive()?;
    }
    let (start, mut frames) = (Instant::now(), 0);
    loop {
        frames += receiver.receive()?;
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Ok(Received {
                frames,
                bytes: frames * job.size as u64,
                seconds: elapsed.as_secs_f64(),
            });
        }
    }
}

fn duration(job: &Job) -> Result<Duration> {
    if !(60..=65_549).contains(&job.size) {
        bail!("A frame has 60 to 65549 bytes, not {}", job.size);
    }
    Duration::try_from_secs_f64(job.seconds).context("That is no time to measure")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_nobody_knows_is_refused() {
        assert!("packet:eth0".parse::<Endpoint>().is_ok());
        assert!("dgram:/a:/b".parse::<Endpoint>().is_ok());
        for wrong in ["", "eth0", "dgram:/a", "packet:a:b"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
