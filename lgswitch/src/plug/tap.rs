//! A tap at the other end of a port: the host itself is a station on the segment.
//!
//! Two threads: one reads what the host sends and sends it on, one receives and writes to the tap.
//! Both sides speak virtio-net headers, so what the host's TCP leaves unfinished crosses the
//! segment as it is, and what a guest leaves unfinished the host takes.
//!
//! `unsafe`: frames go from a ring to the tap by one `writev`, straight from the mapping.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::patience::Patience;
use super::polling::Polling;
use crate::frame::{Frame, Gather, Offloads, VnetHeader};
use crate::layout::MAX_FRAME;
use crate::map::SharedBytes;
use crate::port::{Caller, Port, PortRx, PortTx, Verdict};

/// Frames between two publications.
const BURST: usize = 64;
/// Bytes between two publications: large segments are to be on their way out of the one tap while the next
/// are on their way in from the other.
const BURST_BYTES: usize = 64 << 10;
/// Bytes of the header before each frame, as the tap was set to (`TUNSETVNETHDRSZ`).
const HEADER: usize = netsetup::VNET_HEADER_LEN;

/// A tap being served. Dropping it ends the service, gives the port's slot back, and closes the tap.
pub struct Service {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    tap: OwnedFd,
    label: String,
    caller: Caller,
    stopping: AtomicBool,
    /// Readable once it ends, by itself or because it was told to.
    ended: EventFd,
}

/// Serves `port` with a tap's queue, which must be non-blocking and have virtio-net headers.
/// Its kernel `takes` these frames unfinished. Returns at once; `label` names the tap in messages.
///
/// # Errors
/// When threads or descriptors can't be made.
pub fn serve(port: Port, tap: OwnedFd, takes: Offloads, label: &str) -> io::Result<Service> {
    let (tx, rx) = port.split();
    let shared = Arc::new(Shared {
        tap,
        label: label.to_owned(),
        caller: rx.caller(),
        stopping: AtomicBool::new(false),
        ended: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
    });
    shared.caller.set_offloads(takes);
    // From here on, dropping `service` ends whatever was started.
    let mut service = Service {
        shared: Arc::clone(&shared),
        threads: Vec::new(),
    };
    let reader = Arc::clone(&shared);
    service.spawn("tx", move || reader.send(tx))?;
    service.spawn("rx", move || shared.receive(rx))?;
    Ok(service)
}

impl Service {
    /// Readable when the service has ended by itself: the tap is gone, say.
    pub fn ended(&self) -> &EventFd {
        &self.shared.ended
    }

    fn spawn(&mut self, what: &str, life: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let name = format!("{what} {}", self.shared.label);
        let thread = std::thread::Builder::new().name(name).spawn(life)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.end();
        for thread in self.threads.drain(..) {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // It can only be full, and then it is readable.
        let _ = self.ended.write(1);
        self.caller.call();
    }

    /// The life of the thread that reads from the tap.
    fn send(&self, mut tx: PortTx) {
        let mut patience = Patience::default();
        let mut polling = Polling::default();
        let mut buffer = vec![0; HEADER + MAX_FRAME];
        while !self.is_stopping() {
            match self.send_burst(&mut tx, &mut patience, &mut buffer) {
                Ok(0) if polling.once_more() => {}
                Ok(0) => {
                    if let Err(error) = self.wait() {
                        return self.fail("wait for", error);
                    }
                }
                Ok(_) => polling.busy(),
                Err(error) => return self.fail("read from", error),
            }
        }
    }

    /// Sends on, and publishes, what the host has sent, up to a burst; tells how many frames.
    fn send_burst(
        &self,
        tx: &mut PortTx,
        patience: &mut Patience,
        buffer: &mut [u8],
    ) -> Result<usize, Errno> {
        let (mut frames, mut bytes) = (0, 0);
        while frames < BURST && bytes < BURST_BYTES {
            let length = match nix::unistd::read(&self.tap, buffer) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            };
            frames += 1;
            bytes += length;
            if length > HEADER {
                let (head, frame) = buffer[..length].split_at(HEADER);
                let head = std::array::from_fn(|i| head[i]);
                let part = [SharedBytes::from(frame)];
                patience.send(tx, &VnetHeader::decode(&head), &Gather::new(&part));
            }
        }
        tx.flush();
        Ok(frames)
    }

    /// Sleeps until the host sends something, or the service ends.
    fn wait(&self) -> Result<(), Errno> {
        let mut ready =
            [&self.tap.as_fd(), &self.ended.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The life of the thread that writes to the tap.
    fn receive(&self, mut rx: PortRx) {
        while !self.is_stopping() {
            if rx.recv(BURST, |frame| self.write(frame)) == 0 {
                rx.wait(Duration::from_secs(3600));
            }
        }
    }

    /// Writes one frame. A tap that is down, or whose queue is full, takes nothing; as a network card
    /// that is down, it is not waited for.
    fn write(&self, frame: &Frame<'_>) -> Verdict {
        let mut header = [0u8; HEADER];
        header[..VnetHeader::BYTES].copy_from_slice(&frame.header.encode());
        let parts = [
            libc::iovec {
                iov_base: header.as_mut_ptr().cast(),
                iov_len: HEADER,
            },
            libc::iovec {
                iov_base: frame.bytes.as_ptr().cast_mut().cast(),
                iov_len: frame.bytes.len(),
            },
        ];
        // SAFETY: the kernel reads both runs: the header lives here, the frame as long as `frame`.
        let written = unsafe { libc::writev(self.tap.as_raw_fd(), parts.as_ptr(), 2) };
        if written < 0 {
            Verdict::Refused
        } else {
            Verdict::Taken
        }
    }

    fn fail(&self, action: &str, error: Errno) {
        tracing::error!("Can't {action} tap {}: {error}", self.label);
        self.end();
    }
}
