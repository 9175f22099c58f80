//! A device's interrupt, and the few words of its state that it and the transport share.
//!
//! The guest's driver asks after each interrupt what it was for, and acknowledges that: two exits to
//! this process for each, if they were served as they are written in the book. They need not be. "Used
//! buffers" is all that it is for in a running device, save for the rare change of its configuration;
//! to say so once too often costs the driver a glance at a queue. So that bit *stands* as long as the
//! device runs, where the driver reads it without leaving the guest ([`page`](super::page)); its
//! acknowledgement is a write that the kernel swallows (see [`transport`](super::transport)),
//! and a device that has used buffers signals a descriptor and is done.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::page::Page;

/// An interrupt line.
#[derive(Debug)]
pub struct Interrupt {
    line: EventFd,
    /// The driver is there, and the device runs.
    running: AtomicBool,
    /// The configuration changed, and the driver has not acknowledged it.
    changed: AtomicU32,
    /// The driver broke the rules: nothing happens until it resets the device.
    broken: AtomicBool,
    /// How far the driver has come, by itself.
    status: AtomicU32,
    /// Where the driver reads all that.
    page: Mutex<Option<Page>>,
}

impl Interrupt {
    /// A new line; nothing is wired to it yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            line: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            running: AtomicBool::new(false),
            changed: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            status: AtomicU32::new(0),
            page: Mutex::new(None),
        })
    }

    /// From now on the driver reads its reasons, and the device's status, there.
    pub fn show_on(&self, page: Page) {
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) = Some(page);
        self.show();
    }

    fn show(&self) {
        let page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        // Of two who come here at once, the second to get the lock shows what both have done.
        if let Some(page) = &*page {
            page.set(VIRTIO_MMIO_INTERRUPT_STATUS, self.reasons());
            page.set(VIRTIO_MMIO_STATUS, self.status());
        }
    }

    /// The descriptor that interrupts the guest when it is signalled.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// There are used buffers.
    pub fn used(&self) {
        // It can only be full, and then an interrupt is on its way already.
        let _ = self.line.write(1);
    }

    /// The configuration space, or the device's status, is another.
    pub fn changed(&self) {
        if self.running.load(Ordering::SeqCst) {
            self.changed.store(VIRTIO_MMIO_INT_CONFIG, Ordering::SeqCst);
            self.show();
            self.used();
        }
    }

    /// The driver broke the rules, and is told to reset the device (2.1.2).
    pub fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.show();
        self.changed();
    }

    /// The driver has come this far.
    pub fn set_status(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
        self.show();
    }

    /// What the driver reads as the device's status.
    pub fn status(&self) -> u32 {
        let status = self.status.load(Ordering::SeqCst);
        match self.broken.load(Ordering::SeqCst) {
            true => status | VIRTIO_CONFIG_S_NEEDS_RESET,
            false => status,
        }
    }

    /// The device runs from now on, or does no longer and is as new.
    pub fn run(&self, runs: bool) {
        self.running.store(runs, Ordering::SeqCst);
        self.changed.store(0, Ordering::SeqCst);
        self.broken.store(false, Ordering::SeqCst);
        self.show();
    }

    /// What the driver reads as the reasons of an interrupt.
    pub fn reasons(&self) -> u32 {
        match self.running.load(Ordering::SeqCst) {
            true => VIRTIO_MMIO_INT_VRING | self.changed.load(Ordering::SeqCst),
            false => 0,
        }
    }

    /// The driver has seen these reasons.
    pub fn acknowledge(&self, reasons: u32) {
        self.changed.fetch_and(!reasons, Ordering::SeqCst);
        self.show();
    }
}
