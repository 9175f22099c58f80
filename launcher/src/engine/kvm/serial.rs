//! The serial port `ttyS0`, where a kernel speaks before it has found any device: a 16550 as
//! `vm-superio` models it, between the guest's processors and the console.
//!
//! ```text
//! processor → 16550 → Outbox → thread "serial output" → console
//! processor ← 16550 (64 bytes) ← thread "serial input" ← console
//! ```
//!
//! What is typed is left where it is until somebody in the guest listens to this port, and has room;
//! and for good, while the guest uses its virtio console instead ([`Handover`]).
//!
//! A kernel prints byte by byte, each an exit from the guest; so the bytes gather in the
//! [`Outbox`], and a thread writes what has gathered in one go. A console that takes nothing makes
//! the guest wait when the outbox is full, and nothing is lost.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, recv};
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd as vmm;

use super::bus::MmioDevice;
use super::virtio::console::Handover;
use crate::seccomp;

/// Its first port, the first serial port's of a PC.
pub const PORT: u16 = 0x3f8;

/// How many ports it has.
pub const PORTS: u64 = 8;

/// Its interrupt, likewise.
pub const GSI: u32 = 4;

/// How much the outbox holds, in bytes.
const OUTBOX: usize = 64 << 10;

/// How much the chip holds of what is typed, in bytes.
const FIFO: usize = 64;

/// The offset of its interrupt enable register, and that register's bit for received data (PC16550D
/// data sheet, 8.6).
const INTERRUPT_ENABLE: u64 = 1;
/// See [`INTERRUPT_ENABLE`].
const RECEIVED_DATA: u8 = 1;

/// How often input looks whether the guest has ended its test of the port.
const LOOK: Duration = Duration::from_millis(50);

/// A guest's serial port, plugged into a console.
#[derive(Debug)]
pub struct SerialPort {
    registers: Arc<Registers>,
    console: UnixStream,
    threads: [JoinHandle<()>; 2],
    /// Signalled when all is printed.
    printed: Arc<EventFd>,
}

/// The model of the port's chip.
type Uart = Serial<Interrupt, Room, Line>;

/// The port as the guest reaches it.
#[derive(Debug)]
pub struct Registers {
    uart: Mutex<Uart>,
    interrupt: Interrupt,
    /// Told when the guest has read what was typed, and when it begins to listen.
    room: Arc<Condvar>,
    outbox: Arc<Outbox>,
}

impl SerialPort {
    /// Plugs one in, whose interrupt is `interrupt`, and starts its threads.
    ///
    /// # Errors
    /// No thread or file descriptor is left.
    pub fn start(
        console: UnixStream,
        interrupt: vmm::EventFd,
        handover: Arc<Handover>,
    ) -> io::Result<Self> {
        let (room, outbox) = (Arc::new(Condvar::new()), Arc::new(Outbox::default()));
        let interrupt = Interrupt(Arc::new(interrupt));
        let registers = Arc::new(Registers {
            uart: Mutex::new(uart(&interrupt, &room, &outbox)),
            interrupt,
            room,
            outbox: Arc::clone(&outbox),
        });
        let printed = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let (mut paper, done) = (console.try_clone()?, Arc::clone(&printed));
        let print = move || {
            seccomp::confine(seccomp::Work::ForTheGuest);
            let _done = SignalledAtEnd(done);
            outbox.empty_into(&mut paper);
        };
        let output = thread::Builder::new()
            .name("serial output".into())
            .spawn(print)?;
        let (typed, port) = (console.try_clone()?, Arc::clone(&registers));
        let input = thread::Builder::new()
            .name("serial input".into())
            .spawn(move || {
                seccomp::confine(seccomp::Work::ForTheGuest);
                port.take_in(&typed, &handover);
            })?;
        Ok(Self {
            registers,
            console,
            threads: [output, input],
            printed,
        })
    }

    /// The registers, for the bus.
    pub fn registers(&self) -> Arc<Registers> {
        Arc::clone(&self.registers)
    }

    /// As after power-on: to be called before each start of the guest.
    pub fn reset(&self) {
        let registers = &self.registers;
        *registers.uart() = uart(&registers.interrupt, &registers.room, &registers.outbox);
        registers.outbox.hold();
    }

    /// Lets a guest's processor go that waits for room in the outbox.
    pub fn release(&self) {
        self.registers.outbox.release();
    }

    /// Takes nothing more from the guest; [`SerialPort::as_fd`] becomes readable when all it has
    /// printed has reached the console.
    pub fn close(&self) {
        self.registers.outbox.close();
        // Not between the look of whoever waits for room and its wait.
        drop(self.registers.uart());
        self.registers.room.notify_all();
    }

    /// Unplugs it. What has not reached the console is lost.
    pub fn finish(self) {
        self.close();
        // Both threads may be waiting for the console; this tells them that there is none.
        let _ = self.console.shutdown(Shutdown::Both);
        for thread in self.threads {
            // A panic of its has been reported.
            let _ = thread.join();
        }
    }
}

impl AsFd for SerialPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.printed.as_fd()
    }
}

/// Tells, when it is dropped, that no more is printed: however the thread ends that does it.
struct SignalledAtEnd(Arc<EventFd>);

impl Drop for SignalledAtEnd {
    fn drop(&mut self) {
        // Once is never too often.
        let _ = self.0.write(1);
    }
}

/// A chip fresh from the factory.
fn uart(interrupt: &Interrupt, room: &Arc<Condvar>, outbox: &Arc<Outbox>) -> Uart {
    Serial::with_events(
        interrupt.clone(),
        Room(Arc::clone(room)),
        Line(Arc::clone(outbox)),
    )
}

impl Registers {
    fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what is typed to the guest, as fast as it reads. Ends when the port is unplugged.
    fn take_in(&self, typed: &UnixStream, handover: &Handover) {
        let mut buffer = [0; FIFO];
        while let Some(room) = self.wait_for_room() {
            let bytes = match next_typed(typed, handover, &mut buffer[..room]) {
                Ok(0) => return,
                Ok(count) => &buffer[..count],
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Err(_) => return,
            };
            let mut uart = self.uart();
            // None are taken while the guest tests the port and hears only itself.
            while uart.enqueue_raw_bytes(bytes).unwrap_or(0) == 0 && !self.outbox.is_closed() {
                uart = match self.room.wait_timeout(uart, LOOK) {
                    Ok((uart, _)) => uart,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
        }
    }

    /// Sleeps until the guest listens, which is when it wants an interrupt for what is received.
    /// Tells how much more it can be given. `None`: the port is closed.
    fn wait_for_room(&self) -> Option<usize> {
        let mut uart = self.uart();
        loop {
            if self.outbox.is_closed() {
                return None;
            }
            let listens = uart.state().interrupt_enable & RECEIVED_DATA != 0;
            let room = uart.fifo_capacity();
            if listens && room > 0 {
                return Some(room);
            }
            uart = self.room.wait(uart).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Sleeps until something is typed for this port, and takes as much of it as there is room for.
fn next_typed(typed: &UnixStream, handover: &Handover, buffer: &mut [u8]) -> Result<usize, Errno> {
    let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = [input(handover.as_fd()), input(typed.as_fd())];
    let is_ours = !handover.is_hvc();
    let fds = if is_ours { &mut fds[..] } else { &mut fds[..1] };
    poll(fds, PollTimeout::NONE)?;
    if fds.first().and_then(PollFd::any).unwrap_or(false) {
        handover.heard();
    }
    if handover.is_hvc() {
        return Err(Errno::EAGAIN);
    }
    recv(typed.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)
}

impl MmioDevice for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.uart();
        // Registers are a byte each, and there are eight.
        data.fill_with(|| uart.read(offset as u8));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = self.uart();
        for &byte in data {
            // It fails only as our own parts fail, and they do not.
            let _ = uart.write(offset as u8, byte);
        }
        if offset == INTERRUPT_ENABLE {
            self.room.notify_one();
        }
    }
}

/// The port's wire to the interrupt controller.
#[derive(Debug, Clone)]
struct Interrupt(Arc<vmm::EventFd>);

impl Trigger for Interrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        // An interrupt that is pending already needs no second one.
        let _ = self.0.write(1);
        Ok(())
    }
}

/// Tells whoever has more to give that the guest has read everything.
#[derive(Debug)]
struct Room(Arc<Condvar>);

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.0.notify_one();
    }
}

/// What the guest has printed and nobody has written yet.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<OutboxState>,
    /// There is something in it, or it is closed.
    filled: Condvar,
    /// There is room in it again, or nobody is to wait for it.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct OutboxState {
    bytes: Vec<u8>,
    /// Nobody waits for room: what does not fit is lost.
    released: bool,
    /// Nothing more is put in.
    closed: bool,
    /// Somebody waits for `filled`: only then a wake-up is worth its cost.
    awaited: bool,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, bytes: &[u8]) {
        let mut state = self.state();
        while state.bytes.len() >= OUTBOX {
            if state.released {
                return;
            }
            state = self
                .emptied
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !state.closed {
            state.bytes.extend_from_slice(bytes);
            if std::mem::take(&mut state.awaited) {
                self.filled.notify_one();
            }
        }
    }

    fn hold(&self) {
        self.state().released = false;
    }

    fn release(&self) {
        self.state().released = true;
        self.emptied.notify_all();
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.released = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Writes what is put in, until it is closed and empty. A writer that fails loses the rest.
    fn empty_into(&self, writer: &mut impl Write) {
        let mut fails = false;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let mut state = self.state();
            while state.bytes.is_empty() {
                if state.closed {
                    return;
                }
                state.awaited = true;
                state = self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut bytes, &mut state.bytes);
            drop(state);
            self.emptied.notify_all();
            fails = fails || writer.write_all(&bytes).is_err();
        }
    }
}

/// The wire from the chip to the outbox.
#[derive(Debug)]
struct Line(Arc<Outbox>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Instant;

    fn port() -> (SerialPort, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let interrupt = vmm::EventFd::new(vmm::EFD_NONBLOCK).unwrap();
        let handover = Arc::new(Handover::new().unwrap());
        (SerialPort::start(far, interrupt, handover).unwrap(), near)
    }

    #[test]
    fn what_the_guest_prints_arrives_in_order_and_whole() {
        let (port, mut console) = port();
        let text: Vec<u8> = (0..200_000).map(|i| (i % 251) as u8).collect();
        let registers = port.registers();
        let expected = text.clone();
        let reader = thread::spawn(move || {
            let mut heard = vec![0; expected.len()];
            console.read_exact(&mut heard).unwrap();
            assert!(heard == expected);
            console
        });
        for byte in text {
            registers.write(0, &[byte]);
        }
        let _console = reader.join().unwrap();
        port.finish();
    }

    #[test]
    fn what_is_typed_waits_for_a_guest_that_listens_and_reads() {
        let (port, mut console) = port();
        let text: Vec<u8> = (0..1000).map(|i| (i % 251) as u8).collect();
        console.write_all(&text).unwrap();
        let registers = port.registers();
        registers.write(INTERRUPT_ENABLE, &[RECEIVED_DATA]);
        let (mut read, start) = (Vec::new(), Instant::now());
        while read.len() < text.len() && start.elapsed() < Duration::from_secs(20) {
            let mut byte = [0];
            registers.read(5, &mut byte); // line status: bit 0 is "data ready"
            if byte[0] & 1 != 0 {
                registers.read(0, &mut byte);
                read.push(byte[0]);
            } else {
                thread::yield_now();
            }
        }
        assert!(read == text);
        port.finish();
    }

    #[test]
    fn a_console_that_takes_nothing_holds_the_guest_up_but_not_its_end() {
        let (port, _console) = port();
        let registers = port.registers();
        let guest = thread::spawn(move || {
            for _ in 0..2 << 20 {
                registers.write(0, b"x");
            }
        });
        thread::sleep(Duration::from_millis(100));
        assert!(!guest.is_finished());
        port.release();
        guest.join().unwrap();
        port.finish();
    }
}
