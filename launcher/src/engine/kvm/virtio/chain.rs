//! The buffers of one request: runs of the guest's memory, looked up and checked.
//!
//! A chain of descriptors is whatever the guest wrote. The crate `virtio-queue` follows it and never
//! reads outside the guest's memory; here is decided what a *request* is: all of its buffers are the
//! guest's, those that the device reads come before those that it writes (Virtual I/O Device 1.2,
//! 2.7.4.2), and there are not more of them than a system call can take.

use virtio_queue::DescriptorChain;
use vm_memory::{ByteValued, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// The most runs of memory in a request: `IOV_MAX`, what `preadv` takes.
const MAX_RUNS: usize = 1024;

/// The driver broke the rules of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest's driver broke the rules: {0}")]
pub struct Broken(pub &'static str);

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Self {
        Self("a queue that makes no sense")
    }
}

/// A request.
#[derive(Debug)]
pub struct Chain<'m> {
    /// What the driver knows it by.
    pub head: u16,
    /// What the device reads.
    pub readable: Buffers<'m>,
    /// What the device writes.
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Looks up all buffers of a chain.
    ///
    /// # Errors
    /// It is no request.
    pub fn new(
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Self, Broken> {
        let head = chain.head_index();
        let empty = Buffers {
            memory,
            runs: Vec::new(),
        };
        let (mut readable, mut writable) = (empty.clone(), empty);
        let mut whole = false;
        for descriptor in chain {
            // What ends before a descriptor without a successor was cut off: a loop, or nonsense.
            whole = !descriptor.has_next();
            let side = match descriptor.is_write_only() {
                true => &mut writable,
                false if writable.runs.is_empty() => &mut readable,
                false => return Err(Broken("a buffer to read behind one to write")),
            };
            for run in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
                let run = run.map_err(|_| Broken("a buffer outside its memory"))?;
                side.runs.push(run);
            }
            if readable.runs.len() + writable.runs.len() > MAX_RUNS {
                return Err(Broken("a request of more buffers than anybody needs"));
            }
        }
        match whole {
            true => Ok(Self {
                head,
                readable,
                writable,
            }),
            false => Err(Broken("a chain of descriptors without an end")),
        }
    }
}

/// Runs of memory, used up from the front.
#[derive(Debug, Clone)]
pub struct Buffers<'m> {
    /// What they are runs of.
    memory: &'m GuestMemoryMmap,
    runs: Vec<VolatileSlice<'m>>,
}

impl<'m> Buffers<'m> {
    /// Bytes in them: less than 2³², by the checks of the chain.
    pub fn len(&self) -> usize {
        self.runs.iter().map(VolatileSlice::len).sum()
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs, in their order.
    pub fn runs(&self) -> &[VolatileSlice<'m>] {
        &self.runs
    }

    /// Splits off the first `count` bytes, or all if there are less.
    pub fn take(&mut self, count: usize) -> Self {
        let mut left = count;
        let mut taken = Vec::new();
        let mut whole = 0;
        for run in &mut self.runs {
            if run.len() > left {
                if let Ok((head, tail)) = run.split_at(left) {
                    if left > 0 {
                        taken.push(head);
                    }
                    *run = tail;
                }
                break;
            }
            left -= run.len();
            taken.push(*run);
            whole += 1;
        }
        self.runs.drain(..whole);
        Self {
            memory: self.memory,
            runs: taken,
        }
    }

    /// Copies bytes out, as many as fit in `out` and are there; tells how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for run in self.take(out.len()).runs {
            done += run.copy_to(&mut out[done..]);
        }
        done
    }

    /// Reads a whole object, if there are bytes enough.
    pub fn read_object<T: ByteValued + Default>(&mut self) -> Option<T> {
        let mut object = T::default();
        (self.read(object.as_mut_slice()) == size_of::<T>()).then_some(object)
    }

    /// Copies bytes in, as many as fit; tells how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for run in self.take(bytes.len()).runs {
            run.copy_from(&bytes[done..]);
            done += run.len();
        }
        done
    }

    /// The same buffers, for longer than their memory is at hand: for a kernel that reads and writes them
    /// meanwhile.
    pub fn hold(&self) -> Held {
        let part = |run: &VolatileSlice<'_>| libc::iovec {
            iov_base: run.ptr_guard_mut().as_ptr().cast(),
            iov_len: run.len(),
        };
        Held {
            parts: self.runs.iter().map(part).collect(),
            memory: self.memory.clone(),
        }
    }
}

/// Buffers that keep the memory they are in.
#[derive(Debug)]
pub struct Held {
    parts: Vec<libc::iovec>,
    memory: GuestMemoryMmap,
}

// SAFETY: the addresses are of memory that every thread has, and that goes only with `memory`, which
// itself may go to any thread.
unsafe impl Send for Held {}

impl Held {
    /// As a system call takes them.
    pub fn parts(&self) -> &[libc::iovec] {
        &self.parts
    }

    /// As they were.
    pub fn buffers(&self) -> Buffers<'_> {
        let run = |part: &libc::iovec| {
            // SAFETY: the part is a run of `memory`, of that length, as a volatile slice of it was; and
            // `memory` is borrowed as long as the new one is there.
            unsafe { VolatileSlice::new(part.iov_base.cast(), part.iov_len) }
        };
        Buffers {
            memory: &self.memory,
            runs: self.parts.iter().map(run).collect(),
        }
    }
}
