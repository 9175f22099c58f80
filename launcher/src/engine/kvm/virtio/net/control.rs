//! The control queue of a card (5.1.6.5), by which the guest says how many pairs of queues it uses.

use std::io;
use std::sync::Arc;

use lgswitch::plug::virtio::guest::Guest;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use virtio_queue::QueueT;

use super::super::chain::{Broken, Buffers};
use super::super::device::{Driver, Shared, borrow};
use super::super::vring::{Outcome, Vring};
use super::{enable, layout};

/// The control queue of the driver there is.
#[derive(Debug)]
pub struct Control {
    index: usize,
    vring: Vring,
    /// How many pairs there are to use.
    pairs: usize,
}

impl Control {
    /// The driver's control queue, if it has set one up; it is heard on `ready`, as `token`.
    ///
    /// # Errors
    /// No memory is left in the kernel.
    pub fn start(
        driver: Driver,
        guest: &Guest,
        shared: &Arc<Shared>,
        ready: &Epoll,
        token: u64,
    ) -> io::Result<Option<Self>> {
        let (pairs, Some(index)) = layout(driver.features, guest.pairs()) else {
            return Ok(None);
        };
        let (Some(queue), Some(kick)) = (
            driver.queues.into_iter().nth(index).filter(QueueT::ready),
            shared.kicks.get(index),
        ) else {
            return Ok(None);
        };
        ready.add(borrow(kick), EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        Ok(Some(Self {
            index,
            vring: Vring::new(queue, driver.memory, Arc::clone(shared)),
            pairs,
        }))
    }

    /// The driver is gone.
    pub fn end(self, shared: &Shared, ready: &Epoll) {
        if let Some(kick) = shared.kicks.get(self.index) {
            let _ = ready.delete(borrow(kick));
        }
    }

    /// Does the requests there are, if there are any.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn serve(&mut self, shared: &Shared, guest: &mut Guest) -> Result<(), Broken> {
        let Some(kick) = shared.kicks.get(self.index) else {
            return Ok(());
        };
        let _ = kick.read();
        let most = self.pairs;
        let more = self.vring.serve(|chain| {
            if chain.writable.is_empty() {
                return Err(Broken("a request of a card without a place for its answer"));
            }
            let pairs = pairs_wanted(&mut chain.readable);
            let answer = match pairs.filter(|pairs| (1..=most).contains(pairs)) {
                Some(pairs) => {
                    enable(guest, pairs);
                    VIRTIO_NET_OK
                }
                None => VIRTIO_NET_ERR,
            };
            Ok(Outcome::Done(chain.writable.write(&[answer as u8]) as u32))
        })?;
        if more {
            // To be heard of again, after others.
            let _ = kick.write(1);
        }
        Ok(())
    }
}

/// How many pairs a request is for, if it is for that.
fn pairs_wanted(request: &mut Buffers<'_>) -> Option<usize> {
    let [class, command, low, high] = request.read_object()?;
    let is_pairs = u32::from(class) == VIRTIO_NET_CTRL_MQ
        && u32::from(command) == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
    is_pairs.then_some(u16::from_le_bytes([low, high]).into())
}
