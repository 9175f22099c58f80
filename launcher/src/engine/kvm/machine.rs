//! The whole machine, put together: memory, KVM's part, devices on their buses, ACPI tables that
//! tell of them. It can be started, and after a reset started again.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::boot::{self, Mode};
use super::bus::Bus;
use super::cpu::cpuid::Features;
use super::cpu::{self, tables};
use super::pci::{self, Configuration};
use super::power::{self, KeyboardReset, Power, PowerRegisters};
use super::serial::{self, SerialPort};
use super::virtio::{Parts, Wiring};
use super::vm::Vm;
use super::{KvmError, acpi, memory};
use crate::backend::Device;
use crate::backend::console::size::WindowSize;
use crate::image::Image;
use crate::plan::GuestPlan;
use crate::plan::arguments::KernelArguments;

/// A machine that can be started.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Before what they are wired to, so that they are dropped first.
    parts: Parts,
    vm: Vm,
    kvm: Kvm,
    board: Arc<Board>,
    serial: SerialPort,
    button: EventFd,
    acpi: Vec<u8>,
    software: Software<'a>,
}

/// What the processors reach besides memory.
#[derive(Debug)]
pub struct Board {
    /// I/O ports.
    pub ports: Bus,
    /// Addresses that are not RAM.
    pub memory: Bus,
    /// Whether it is on.
    pub power: Arc<Power>,
}

/// What a machine is built for.
#[derive(Debug)]
pub struct Software<'a> {
    /// The guest's memory and processors.
    pub plan: &'a GuestPlan,
    /// Kernel and initrd.
    pub image: &'a Image,
    /// The kernel's command line.
    pub arguments: KernelArguments,
}

impl<'a> Machine<'a> {
    /// Builds a machine with these devices, whose consoles are `console`.
    ///
    /// # Errors
    /// KVM refuses, or the host has no memory, thread or descriptor left.
    pub fn build(
        kvm: Kvm,
        software: Software<'a>,
        devices: Vec<Device>,
        console: UnixStream,
    ) -> Result<Self, KvmError> {
        let plan = software.plan;
        let (memory, cpus) = (memory::allocate(plan.memory)?, plan.cpus.get());
        let vm = Vm::new(&kvm, memory)?;

        let interrupt = |gsi| {
            let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
            vm.irqfd(&event, gsi).map(|()| event)
        };
        let refused = KvmError::refused("wire an interrupt");
        let button = interrupt(power::BUTTON_GSI).map_err(&refused)?;
        let serial_interrupt = interrupt(serial::GSI).map_err(&refused)?;

        let parts = console
            .try_clone()
            .and_then(|console| Parts::build(&vm, vm.memory(), devices, console, cpus))
            .map_err(KvmError::prepare("make devices"))?;
        let serial = SerialPort::start(console, serial_interrupt, Arc::clone(parts.handover()))
            .map_err(KvmError::prepare("make a serial port"))?;
        let power = Power::new().map_err(KvmError::prepare("make a power switch"))?;
        let places: Vec<_> = parts.placed().map(|(place, _)| place).collect();
        Ok(Self {
            acpi: acpi::tables(cpus, &places),
            board: Arc::new(Board::new(Arc::new(power), &serial, &parts)),
            parts,
            vm,
            kvm,
            serial,
            button,
            software,
        })
    }

    /// Loads the kernel and gives the processors that will run it, the first one first.
    ///
    /// # Errors
    /// The kernel does not fit, or KVM refuses.
    pub fn start(&self) -> Result<Vec<VcpuFd>, KvmError> {
        let Software {
            plan,
            image,
            arguments,
        } = &self.software;
        let memory = self.vm.memory();
        let firmware = [
            (acpi::TABLES, &*self.acpi),
            (power::RESET_VECTOR, &power::RESET_CODE),
        ];
        for (address, bytes) in firmware {
            memory
                .write_slice(bytes, GuestAddress(address))
                .map_err(|error| KvmError::prepare("write tables")(io::Error::other(error)))?;
        }
        let start = boot::load(image, memory, plan.memory, arguments, acpi::TABLES)?;
        tables::write(memory, start.mode == Mode::Linux64)?;
        self.serial.reset();

        let features = Features::of(&self.kvm)?;
        let count = plan.cpus.get();
        (0..count)
            .map(|number| {
                let cpuid = features.for_cpu(number, count)?;
                let start = (number == 0).then_some(&start);
                cpu::make(&self.vm, number, &cpuid, start)
            })
            .collect()
    }

    /// The machine as it was before its first start. Its processors must be gone.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn reset(self) -> Result<Self, KvmError> {
        self.parts.reset();
        memory::clear(self.vm.memory()).map_err(KvmError::prepare("clear the memory"))?;
        self.board.power.restart();
        Ok(Self {
            vm: self.vm.again(&self.kvm)?,
            ..self
        })
    }

    /// What the processors reach.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The serial port.
    pub fn serial(&self) -> &SerialPort {
        &self.serial
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        // Pressed so often that it can't be counted any more, it is pressed.
        let _ = self.button.write(1);
    }

    /// The window its console is shown in has another size.
    pub fn resize(&self, window: WindowSize) {
        self.parts.resize(window.columns, window.rows);
    }

    /// Takes it apart.
    pub fn finish(self) {
        self.serial.finish();
    }
}

impl Board {
    fn new(power: Arc<Power>, serial: &SerialPort, parts: &Parts) -> Self {
        let registers = Arc::new(PowerRegisters(Arc::clone(&power)));
        let keyboard = Arc::new(KeyboardReset(Arc::clone(&power)));
        let mut board = Self {
            ports: Bus::default(),
            memory: Bus::default(),
            power,
        };
        let mut is_free =
            board
                .ports
                .insert(serial::PORT.into(), serial::PORTS, serial.registers());
        is_free &= board
            .ports
            .insert(power::PORT.into(), power::PORTS, registers);
        is_free &= board.ports.insert(power::KEYBOARD.into(), 1, keyboard);
        is_free &= board.ports.insert(
            pci::PORT.into(),
            pci::PORTS,
            Arc::new(Configuration::default()),
        );
        for (place, registers) in parts.placed() {
            is_free &= board.memory.insert(place.address, place.size, registers);
        }
        debug_assert!(is_free, "two devices in one place: {board:?}");
        board
    }
}
