//! A disk in layers. What is read may be in any of them, and what is written may first need a place in
//! the top one and a copy of what is around it: the crate `imago` knows, and does one request after
//! another. Everything goes through a buffer of ours, for it takes Rust's own slices, which nothing else
//! may write to meanwhile, and a guest may always.

use std::io;

use super::content::Content;
use crate::backend::block::layers::Access;
use crate::engine::kvm::virtio::chain::Buffers;

/// Bytes that go through the buffer at a time.
const PIECE: usize = 256 << 10;

/// The layers.
#[derive(Debug)]
pub struct Layers {
    access: Access,
    buffer: Vec<u8>,
}

impl Layers {
    /// What is seen through them.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            buffer: Vec::new(),
        }
    }

    fn buffer(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(PIECE);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        &mut self.buffer[..len]
    }
}

impl Content for Layers {
    fn read(&mut self, mut at: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        while !buffers.is_empty() {
            let len = self.buffer(buffers.len()).len();
            self.access.read(&mut self.buffer[..len], at)?;
            at += buffers.write(&self.buffer[..len]) as u64;
        }
        Ok(())
    }

    fn write(&mut self, mut at: u64, buffers: &mut Buffers<'_>) -> io::Result<()> {
        while !buffers.is_empty() {
            let len = buffers.read(self.buffer(buffers.len()));
            self.access.write(&self.buffer[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.access.flush()?;
        self.access.sync()
    }

    fn discard(&mut self, at: u64, len: u64) -> io::Result<()> {
        match self.access.discard_to_any(at, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            done => done,
        }
    }

    fn zero(&mut self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        match unmap {
            true => self.access.discard_to_zero(at, len),
            false => self.access.write_zeroes(at, len),
        }
    }
}
