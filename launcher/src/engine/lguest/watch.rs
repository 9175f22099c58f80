//! Who sleeps on a port hears of the other inputs by a call.
//!
//! A port is woken by a futex and all else is descriptors, and no call of the kernels we run on waits for both. Frames
//! are what comes most often and is waited for most dearly, so the guest's own thread sleeps on its port, and a second
//! thread, which is seldom woken, on the rest. It says what it saw in a word, so that a guest that runs need not ask
//! the kernel whether there is something either.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::inputs::{Inputs, Ready, wait_for};

/// A call that was not answered in that time is made again: somebody may have scribbled over the port's bell.
const AGAIN: Duration = Duration::from_millis(100);

/// The second thread, and what it has to say.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The inputs had something, and nobody has looked at it since.
    found: AtomicBool,
    over: AtomicBool,
    end: EventFd,
}

impl Watch {
    /// Watches `inputs` from now on, and calls whenever they have something.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn new(inputs: &Arc<Inputs>, call: impl Fn() + Send + 'static) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let shared = Arc::new(Shared {
            found: AtomicBool::new(false),
            over: AtomicBool::new(false),
            end: EventFd::from_flags(flags)?,
        });
        let thread = {
            let (shared, inputs) = (Arc::clone(&shared), Arc::clone(inputs));
            // A few calls deep.
            std::thread::Builder::new()
                .name("inputs".into())
                .stack_size(64 << 10)
                .spawn(move || shared.watch(&inputs, call))?
        };
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What there is now, by what was seen.
    ///
    /// # Errors
    /// None that is known.
    pub fn ready(&self, inputs: &Inputs) -> io::Result<Ready> {
        if !self.shared.found.load(Ordering::SeqCst) {
            return Ok(Ready::default());
        }
        let ready = inputs.ready()?;
        self.shared.found.store(false, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        Ok(ready)
    }
}

impl Shared {
    fn watch(&self, inputs: &Inputs, call: impl Fn()) {
        loop {
            let mut fds = [
                PollFd::new(inputs.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            ];
            // If it failed, somebody looks, which does no harm.
            let _ = wait_for(&mut fds, None);
            self.found.store(true, Ordering::SeqCst);
            while self.found.load(Ordering::SeqCst) {
                if self.over.load(Ordering::SeqCst) {
                    return;
                }
                call();
                std::thread::park_timeout(AGAIN);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Its first write: there is room for it.
        let _ = self.shared.end.write(1);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use super::super::inputs::Source;
    use super::*;

    #[test]
    fn what_comes_is_called_out_until_somebody_looks_and_what_is_left_once_more() {
        let inputs = Arc::new(Inputs::new().unwrap());
        let (near, far) = UnixStream::pair().unwrap();
        inputs.add(&near, Source::Device(1)).unwrap();
        let (calls, called) = mpsc::channel();
        let watch = Watch::new(&inputs, move || calls.send(()).unwrap()).unwrap();
        assert_eq!(watch.ready(&inputs).unwrap(), Ready::default());
        (&far).write_all(b"x").unwrap();
        // The same again for a call that nobody heard, and for what was looked at but not taken.
        called.recv().unwrap();
        called.recv().unwrap();
        assert!(watch.ready(&inputs).unwrap().has(Source::Device(1)));
        called.recv().unwrap();
        inputs.remove(&near).unwrap();
        assert_eq!(watch.ready(&inputs).unwrap(), Ready::default());
        drop(watch);
        while called.try_recv().is_ok() {}
        assert_eq!(called.recv(), Err(mpsc::RecvError));
    }
}
