//! Engine `lguest`: the guests this all began with. On any machine: no kernel module, no root, no hardware
//! virtualisation.
//!
//! An lguest guest is a Linux kernel of 2007 (2.6.23) that knows it is one. It never touches hardware: it asks its
//! host by hypercalls, and its devices are blocks of bytes handed over by *key*, an address in a page that
//! other guests may share.
//!
//! # The tour
//!
//! 1. [`memory`]: the guest's memory, which devices, processor and files share.
//! 2. [`boot`]: from image and initrd to a guest that can be entered.
//! 3. [`bus`]: a page of descriptors tells the guest what devices there are. [`dma`]: how they hand each
//!    other bytes. [`devices`]: what each does.
//! 4. [`host`]: who runs it, behind a seam as narrow as `/dev/lguest` was. [`host::inprocess`] is all that the
//!    kernel module did, over [`cpu`], a processor in software. `host::dev_lguest` speaks with the module itself, in
//!    a launcher of 32 bits on a host that has it.
//! 5. [`session`]: one thread, one loop, to the end. [`inputs`]: what wakes it; [`watch`]: who tells it of
//!    them while it sleeps on a port.

pub mod boot;
pub mod bus;
pub mod cpu;
pub mod devices;
pub mod dma;
pub mod host;
pub mod inputs;
pub mod memory;
pub mod session;
pub mod watch;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use lgswitch::MacAddr;
use lgswitch::port::Caller;

use super::{Engine, EngineName, Guest};
use crate::backend::Device;
use crate::backend::block::BlockError;
use crate::backend::net::{Interfaces, Link, NetDevice};
use crate::end::GuestEnd;
use crate::error::{Error, reason};
use crate::image::Image;
use crate::plan::GuestPlan;
use crate::plan::cpus::CpuCount;
use crate::plan::device::DevicePlan;
use crate::plan::disk::DiskFormat;
use boot::{BootError, Start};
use bus::{Bus, Kind};
use devices::Trouble;
use devices::block::BlockDevice;
use devices::console::Console;
use devices::sharenet::{self, SharenetDevice};
use devices::tap::{self, TapDevice};
use host::{HostError, Place};
use inputs::{Inputs, Source};
use memory::{GuestMemory, Sharing};
use session::Session;
use watch::Watch;

/// The addresses that guests make for themselves: 02:00, their number (little endian), and zeroes.
const OWN_ADDRESS: [u8; 2] = [2, 0];

/// For a tap whose own address the kernel does not tell: as good as any, for it gets every frame.
const UNKNOWN_HOST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);

/// The engine. Once it has checked an image, it has it in memory.
#[derive(Debug, Default)]
pub struct Lguest {
    loaded: RefCell<Option<(Place, GuestMemory, Start)>>,
}

/// Why an lguest guest can't be run.
#[derive(Debug, thiserror::Error)]
pub enum LguestError {
    /// The image can't be started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The bus is full.
    #[error(
        "An lguest guest has room for {} devices, its console among them, and this one has {wanted}; give it fewer",
        bus::MAX_DEVICES
    )]
    TooManyDevices {
        /// What was asked for, the console included.
        wanted: usize,
    },
    /// More processors than there ever were in one.
    #[error("An lguest guest has one processor, and this one is to have {0}; leave --cpus out")]
    TooManyCpus(CpuCount),
    /// Such a guest makes its own address.
    #[error(
        "An lguest guest can't have the MAC address {0}: it makes its own, 02:00:xx:yy:00:00, the same for all its interfaces; \
         give one like that, or none"
    )]
    Address(MacAddr),
    /// The kernel refused something.
    #[error("Cannot {action} for an lguest guest: {}", reason(.error))]
    System {
        /// What was being done.
        action: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The host failed while the guest ran.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl LguestError {
    fn system<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::System {
            action,
            error: error.into(),
        }
    }
}

impl Engine for Lguest {
    fn name(&self) -> EngineName {
        EngineName::Lguest
    }

    /// It knows where its console is, and ends when it panics.
    fn default_arguments(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    fn has_power_button(&self) -> bool {
        false
    }

    fn interfaces(&self, _: &GuestPlan) -> Interfaces {
        Interfaces {
            guest_writes_address: true,
            ..Interfaces::default()
        }
    }

    fn check(&self, plan: &GuestPlan, image: &Image) -> Result<(), Error> {
        let wanted = plan.devices.len() + 1;
        if wanted > bus::MAX_DEVICES {
            return Err(LguestError::TooManyDevices { wanted }.into());
        }
        if plan.cpus != CpuCount::default() {
            return Err(LguestError::TooManyCpus(plan.cpus).into());
        }
        for device in &plan.devices {
            if let DevicePlan::Block(disk) = device
                && disk.format != DiskFormat::Raw
            {
                return Err(BlockError::RawOnly(disk.path.clone()).into());
            }
        }
        wished_id(plan)?;
        *self.loaded.borrow_mut() = Some(load(plan, image)?);
        Ok(())
    }

    fn run(self: Box<Self>, guest: Guest<'_>) -> Result<GuestEnd, Error> {
        let (place, mut memory, start) = match self.loaded.into_inner() {
            Some(loaded) => loaded,
            None => load(guest.plan, guest.image)?,
        };
        let id = match wished_id(guest.plan)? {
            Some(id) => id,
            None => id_by_wire(&guest.devices),
        };
        let ram = guest.plan.memory.bytes() as u32;
        lock_disks(&guest.devices)?;
        map_peers_pages(&mut memory, ram, &guest.devices)?;
        let inputs = Inputs::new().map_err(LguestError::system("make an epoll descriptor"))?;
        let inputs = Arc::new(inputs);
        let failed = LguestError::system("wait for requests to stop");
        inputs.add(guest.stop, Source::Stop).map_err(failed)?;
        let mut bus = Bus::new(ram);
        let mut sleeper = None;
        let end = add_devices(&mut bus, &memory, &inputs, guest.devices, ram, &place)
            .and_then(|caller| {
                sleeper = caller;
                let console = Console::new(guest.console, guest.stop, bus.next())?;
                Ok(bus.add(&memory, Kind::Console, 0, None, console)?)
            })
            .and_then(|()| {
                guest.life.running();
                let watch = sleeper.map(|caller| Watch::new(&inputs, move || caller.call()));
                let watch = watch.transpose()?;
                let mut host = place.start(&memory, &start, id, &inputs)?;
                Session {
                    memory: &memory,
                    host: &mut *host,
                    bus,
                    inputs: &inputs,
                    watch,
                    stop: guest.stop,
                    stopped: None,
                }
                .run()
            });
        match end {
            Ok(end) => Ok(end),
            Err(Trouble::Guest(reason)) => Ok(GuestEnd::Died(reason)),
            Err(Trouble::Host(error)) => Err(LguestError::from(error).into()),
            Err(Trouble::System(error)) => {
                Err(LguestError::system("serve the devices")(error).into())
            }
        }
    }
}

/// The guest's memory with its kernel and initrd in it, and room for its devices' pages.
fn load(plan: &GuestPlan, image: &Image) -> Result<(Place, GuestMemory, Start), LguestError> {
    // No guest maps all of 4 GiB, so there is room for the pages.
    let bytes = boot::ram(plan.memory, 0)? + bus::bytes(plan.devices.len());
    let place = Place::find(bytes, wished_id(plan)?);
    let (place, mut memory) = place.map_err(LguestError::system("map memory"))?;
    let arguments = plan.arguments.as_os_str().as_encoded_bytes();
    let start = boot::load(&mut memory, image, plan.memory, arguments)?;
    Ok((place, memory, start))
}

/// The number of a guest whose address the user has given.
fn wished_id(plan: &GuestPlan) -> Result<Option<u16>, LguestError> {
    let mut wished = None;
    let wishes = plan.devices.iter().filter_map(|device| match device {
        DevicePlan::Net(net) => net.mac,
        DevicePlan::Block(_) => None,
    });
    for mac in wishes {
        let [a, b, low, high, 0, 0] = mac.octets() else {
            return Err(LguestError::Address(mac));
        };
        let id = u16::from_le_bytes([low, high]);
        if [a, b] != OWN_ADDRESS || wished.is_some_and(|other| other != id) {
            return Err(LguestError::Address(mac));
        }
        wished = Some(id);
    }
    Ok(wished)
}

/// A number that no other guest on the same wire has, for that is what a guest makes its addresses of. The
/// slots of a segment are all different; where segments meet other segments, their names for good differ. On
/// a tap it is drawn at random, as the address of any guest there.
fn id_by_wire(devices: &[Device]) -> u16 {
    let nets = devices.iter().filter_map(|device| match device {
        Device::Net(net) => Some(net),
        Device::Block(_) => None,
    });
    let ids = nets.map(|net| match &net.link {
        Link::Sharenet(port) => {
            let uuid = port.segment().header().uuid.as_u128() as u16;
            uuid.wrapping_add(port.slot().get() as u16)
        }
        Link::Tap(_) => {
            let [.., high, low] = net.mac.octets();
            u16::from_be_bytes([high, low])
        }
    });
    ids.clone().next().unwrap_or(0)
}

/// Makes sure that no disk is written by two guests.
fn lock_disks(devices: &[Device]) -> Result<(), Error> {
    for device in devices {
        if let Device::Block(disk) = device {
            disk.lock()?;
        }
    }
    Ok(())
}

/// Puts the peers page of each sharenet where the guest will look for its interface's page.
fn map_peers_pages(
    memory: &mut GuestMemory,
    ram: u32,
    devices: &[Device],
) -> Result<(), LguestError> {
    for (index, device) in devices.iter().enumerate() {
        if let Device::Net(NetDevice {
            link: Link::Sharenet(port),
            ..
        }) = device
        {
            let file = port.segment().as_file();
            memory
                .map_file(
                    bus::page_of(ram, index),
                    file,
                    0,
                    memory::PAGE,
                    Sharing::Shared,
                )
                .map_err(LguestError::system("map the peers page of a sharenet"))?;
        }
    }
    Ok(())
}

/// Puts devices on the bus, in their order. Gives what calls the port that the session is to sleep on: the first, where
/// the guest runs in this process.
#[cfg_attr(
    not(target_arch = "x86"),
    expect(unused_variables, reason = "no port makes them ready")
)]
fn add_devices(
    bus: &mut Bus<'_>,
    memory: &GuestMemory,
    inputs: &Inputs,
    devices: Vec<Device>,
    ram: u32,
    place: &Place,
) -> Result<Option<Caller>, Trouble> {
    let mut sleeper: Option<Caller> = None;
    for (index, device) in devices.into_iter().enumerate() {
        let page = bus::page_of(ram, index);
        let number = bus.next();
        match device {
            Device::Block(disk) => {
                let device = BlockDevice::new(memory, page, disk)?;
                bus.add(memory, Kind::Block, bus::RANDOM_TIMES, Some(page), device)?;
            }
            Device::Net(net) => match net.link {
                Link::Sharenet(port) => {
                    let features = port.slot().get() as u16 | bus::NO_CHECKSUM;
                    let call = match (place, &sleeper) {
                        (Place::Here, None) => None,
                        (Place::Here, Some(caller)) => Some(calling(caller.clone())),
                        #[cfg(target_arch = "x86")]
                        (Place::Module(_), _) => Some(ringing(inputs, number)?),
                    };
                    let device = SharenetDevice::new(page, number, *port, call)?;
                    sleeper.get_or_insert_with(|| device.caller());
                    bus.add(memory, Kind::Net, features, Some(page), device)?;
                }
                Link::Tap(tap) => {
                    // A tap that was set up has a queue.
                    let tap = tap.queues.into_iter().next();
                    let tap = tap.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
                    let host = net.host_mac.unwrap_or(UNKNOWN_HOST);
                    let features = tap::SLOT | bus::RANDOM_TIMES;
                    let device = TapDevice::new(memory, page, number, tap, host)?;
                    bus.add(memory, Kind::Net, features, Some(page), device)?;
                }
            },
        }
    }
    #[cfg(target_arch = "x86")]
    if matches!(place, Place::Module(_)) {
        return Ok(None);
    }
    Ok(sleeper)
}

/// What wakes who sleeps on another port.
fn calling(sleeper: Caller) -> sharenet::Call {
    Box::new(move || sleeper.call())
}

/// What makes the inputs ready.
#[cfg(target_arch = "x86")]
fn ringing(inputs: &Inputs, number: u8) -> io::Result<sharenet::Call> {
    use nix::sys::eventfd::{EfdFlags, EventFd};
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    inputs.add_bell(&bell, Source::Device(number))?;
    Ok(Box::new(move || {
        // It can only be full, and then it was rung already.
        let _ = bell.write(1);
    }))
}
