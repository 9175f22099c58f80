//! A card on a sharenet. The card and its thread are [`lgswitch`]'s; here is the other half, the
//! conversation: what the guest's driver did to the registers, told as other VMMs tell it by messages.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use lgswitch::Port;
use lgswitch::plug::virtio::card::{Card, Conversation, Kicks, Trouble};
use lgswitch::plug::virtio::guest::Guest;
use lgswitch::plug::virtio::service::Service;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::super::chain::Broken;
use super::super::description::Description;
use super::super::device::{Device, Driver, Order, Orders};
use super::control::Control;
use super::set_up;
use crate::seccomp;

/// Makes the card on `port`.
///
/// # Errors
/// No descriptor or no thread is left.
pub fn device(
    description: Description,
    port: Port,
    number: usize,
    pairs: usize,
) -> io::Result<Device> {
    Device::new(description, |orders| {
        let mut registers = Registers::new(orders)?;
        let life = move |card: &mut Card| registers.live(card);
        let label = format!("eth{number}");
        let confine = || seccomp::confine(seccomp::Work::ForTheGuest);
        let service = Service::start(port, pairs, &label, confine, life)?;
        Ok(Box::new(service) as Box<dyn Any + Send>)
    })
}

/// What the driver does, as far as the card has to know.
struct Registers {
    orders: Orders,
    control: Option<Control>,
    /// Ready when there are orders, or requests in the control queue.
    ready: Epoll,
}

/// Why a driver is not served any longer.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Guest(#[from] Trouble),
    #[error(transparent)]
    Control(#[from] Broken),
    #[error("its queues can't be set up: {0}")]
    SetUp(#[from] io::Error),
}

impl Registers {
    fn new(orders: Orders) -> io::Result<Self> {
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        ready.add(&orders, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            orders,
            control: None,
            ready,
        })
    }

    /// The card's life: one driver after another, until the guest has ended.
    fn live(&mut self, card: &mut Card) {
        while let Err(end) = card.converse(self) {
            tracing::debug!("{:?}: {end}", std::thread::current().name());
            self.forget_control();
            self.orders.shared.interrupt.break_off();
            // The next order is to stop.
            if card.idle_until(&self.orders).is_err() || card.is_stopping() {
                return;
            }
        }
    }

    fn start(&mut self, driver: Driver, guest: &mut Guest, kicks: &Kicks<'_>) -> Result<(), End> {
        let plug = |queue: &mut _, kick| kicks.plug_in(queue, kick);
        set_up(guest, &driver, &self.orders.shared, plug)?;
        let shared = &self.orders.shared;
        self.control = Control::start(driver, guest, shared, &self.ready, 0)?;
        Ok(())
    }

    fn forget_control(&mut self) {
        if let Some(control) = self.control.take() {
            control.end(&self.orders.shared, &self.ready);
        }
    }
}

impl Conversation for Registers {
    type Error = End;

    fn source(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }

    fn hear(&mut self, guest: &mut Guest, kicks: &Kicks<'_>) -> Result<bool, End> {
        while let Some(order) = self.orders.next() {
            match order {
                Order::Start(driver, _done) => self.start(driver, guest, kicks)?,
                Order::Stop(_done) => {
                    kicks.forget(guest);
                    self.forget_control();
                }
                Order::End => return Ok(false),
            }
        }
        if let Some(control) = &mut self.control {
            control.serve(&self.orders.shared, guest)?;
        }
        Ok(true)
    }
}
