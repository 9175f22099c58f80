//! A guest as a QEMU command line.
//!
//! Whatever comes from the user goes into JSON, or is a word of its own: no comma in a file name
//! becomes an option. Whatever comes from us is a descriptor QEMU inherits under the number it has
//! here.
//!
//! # The machine
//!
//! `q35`: any stock kernel runs on it, and it has PCI Express, power-off and reset by ACPI.
//! Measured with Debian's 6.1 cloud kernel and a busybox initramfs, under TCG, to its first
//! user-space line: `q35` and `pc` 2.9–3.4 s alike, `microvm` (with ACPI and PCI Express) 2.6 s when
//! it came up, but in QEMU 7.2 one start in three hung before the kernel's first line. The
//! devices nobody asked for are left out (`sata=off` …), qboot in place of SeaBIOS gained nothing.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use lgswitch::plug::vhost_user::{self, Service};
use serde_json::{Value, json};

use super::QemuError;
use super::pci::{self, PciAddress};
use super::process::Channels;
use super::rendezvous::Rendezvous;
use crate::backend::Device;
use crate::backend::block::Disk;
use crate::backend::block::layers::Layer;
use crate::backend::net::{Link, NetDevice};
use crate::image::Image;
use crate::plan::GuestPlan;
use crate::plan::arguments::KernelArguments;
use crate::plan::disk::DiskFormat;
use crate::plan::reset::OnReset;

/// Devices the guest gets without asking: the entropy source.
pub const OWN_DEVICES: usize = 1;

/// Receive and transmit queue sizes, in descriptors. 1024 is the most there is; QEMU serves a
/// tap's transmit queue itself and allows 256.
const QUEUE: u16 = 1024;
const TAP_TRANSMIT_QUEUE: u16 = 256;

/// The command line, and the descriptors that go with it.
#[derive(Debug, Default)]
pub struct CommandLine {
    words: Vec<OsString>,
    inherited: Vec<OwnedFd>,
}

impl CommandLine {
    /// The computer without its devices.
    pub fn machine(
        plan: &GuestPlan,
        image: &Image,
        arguments: &KernelArguments,
        channels: Channels,
    ) -> Self {
        let mut line = Self::default();
        for flag in ["-nodefaults", "-no-user-config", "-S"] {
            line.words.push(flag.into());
        }
        if plan.life.on_reset == OnReset::End {
            line.words.push("-no-reboot".into());
        }
        line.option("-display", "none");
        line.option("-accel", "tcg");
        line.option("-cpu", "max");
        line.option("-smp", plan.cpus.to_string());
        // Shared memory, so that vhost-user services can reach the guest's rings.
        line.option("-m", format!("size={}M", plan.memory.mib()));
        line.option(
            "-object",
            json!({ "qom-type": "memory-backend-memfd", "id": "ram", "size": plan.memory.bytes(), "share": true })
                .to_string(),
        );
        line.option(
            "-machine",
            "q35,memory-backend=ram,vmport=off,sata=off,smbus=off,usb=off",
        );

        line.option("-kernel", &image.kernel.path);
        if let Some(initrd) = &image.initrd {
            line.option("-initrd", &initrd.path);
        }
        line.option("-append", arguments.as_os_str());

        let console = line.inherit(channels.console);
        line.option("-chardev", format!("socket,id=console,fd={console}"));
        line.option("-serial", "chardev:console");
        let control = line.inherit(channels.control);
        line.option("-chardev", format!("socket,id=control,fd={control}"));
        line.option("-mon", "chardev=control,mode=control");
        // The only account QEMU gives of a triple fault is in its log.
        let log = line.inherit(channels.log);
        line.option("-d", "cpu_reset");
        line.option("-D", format!("/proc/self/fd/{log}"));
        line
    }

    /// Adds the devices in their order, then the entropy source. Gives the services behind them,
    /// already waiting for QEMU.
    ///
    /// # Errors
    /// A service's socket or threads can't be made.
    pub fn add_devices(&mut self, devices: Vec<Device>) -> Result<Vec<Service>, QemuError> {
        let mut addresses = pci::addresses(devices.len() + OWN_DEVICES);
        let mut services = Vec::new();
        for (index, (device, address)) in devices.into_iter().zip(&mut addresses).enumerate() {
            match device {
                Device::Net(net) => services.extend(self.add_net(net, index, address)?),
                Device::Block(disk) => self.add_disk(disk, index, address),
            }
        }
        if let Some(address) = addresses.next() {
            self.device("virtio-rng-pci", address, json!({}));
        }
        Ok(services)
    }

    fn add_net(
        &mut self,
        net: NetDevice,
        index: usize,
        address: PciAddress,
    ) -> Result<Option<Service>, QemuError> {
        let id = format!("net{index}");
        let is_tap = matches!(net.link, Link::Tap(_));
        let service = match net.link {
            Link::Sharenet(port) => {
                let prepare = |action| move |error| QemuError::Prepare { action, error };
                let place = Rendezvous::new().map_err(prepare("make a vhost-user socket"))?;
                let label = format!("{id} on {}", port.segment().path().display());
                let path = place.path();
                let service =
                    vhost_user::serve(*port, place.listener, vhost_user::Options::new(label))
                        .map_err(prepare("serve a sharenet's port"))?;
                self.inherit(place.inode);
                self.option("-chardev", format!("socket,id={id},path={path}"));
                self.netdev(json!({ "type": "vhost-user", "id": id, "chardev": id, "queues": 1 }));
                Some(service)
            }
            Link::Tap(tap) => {
                // One queue was asked for.
                let fd = tap
                    .queues
                    .into_iter()
                    .next()
                    .map(|queue| self.inherit(queue));
                let fd = fd.map(|fd| fd.to_string()).unwrap_or_default();
                self.netdev(json!({ "type": "tap", "id": id, "fd": fd, "vhost": false }));
                None
            }
        };
        self.device(
            "virtio-net-pci",
            address,
            json!({
                "netdev": id,
                "mac": net.mac.to_string(),
                "host_mtu": net.mtu,
                "rx_queue_size": QUEUE,
                "tx_queue_size": if is_tap { TAP_TRANSMIT_QUEUE } else { QUEUE },
                // No network boot.
                "romfile": "",
                // QEMU 7.2 under TCG crashes when a vhost-user card uses MSI-X (it takes its
                // vectors to be KVM's), so such a card has none and interrupts by its pin.
                "vectors": if is_tap { 4 } else { 0 },
            }),
        );
        Ok(service)
    }

    fn add_disk(&mut self, disk: Disk, index: usize, address: PciAddress) {
        let id = format!("disk{index}");
        let layers = match disk.layers.is_empty() {
            false => disk.layers,
            true => vec![Layer {
                path: disk.path,
                file: disk.file,
                direct: disk.direct,
                is_device: disk.is_device,
                format: DiskFormat::Raw,
            }],
        };
        // From the bottom up. What an image itself says it stands on is never looked at.
        let mut node = Value::Null;
        for (depth, layer) in layers.into_iter().enumerate().rev() {
            node = self.layer(layer, disk.read_only || depth > 0, node);
        }
        node["node-name"] = id.clone().into();
        self.option("-blockdev", node.to_string());
        // An error is told to the guest, as a disk does. QEMU's default would stop the whole
        // guest when the host's filesystem is full.
        let mut properties = json!({ "drive": id, "werror": "report", "rerror": "report" });
        if let Some(serial) = disk.serial {
            properties["serial"] = serial.as_str().into();
        }
        self.device("virtio-blk-pci", address, properties);
    }

    /// A layer of a disk, as a node of QEMU's, on the one below it.
    fn layer(&mut self, layer: Layer, read_only: bool, below: Value) -> Value {
        // By name, so that QEMU's messages name it; JSON has no way to say a name that is not UTF-8.
        let name = match layer.path.to_str() {
            Some(name) => name.to_owned(),
            None => format!("/proc/self/fd/{}", self.inherit(layer.file.into())),
        };
        let cache = json!({ "direct": layer.direct });
        let mut node = json!({
            // Never guessed from its contents, which are the guest's to write.
            "driver": "raw",
            "read-only": read_only,
            "cache": cache,
            "discard": "unmap",
            "file": {
                "driver": if layer.is_device { "host_device" } else { "file" },
                "filename": name,
                "read-only": read_only,
                "cache": cache,
                "discard": "unmap",
            },
        });
        if layer.format == DiskFormat::Qcow2 {
            node["driver"] = "qcow2".into();
            node["backing"] = below;
        }
        node
    }

    fn netdev(&mut self, properties: Value) {
        self.option("-netdev", properties.to_string());
    }

    fn device(&mut self, driver: &str, address: PciAddress, mut properties: Value) {
        properties["driver"] = driver.into();
        properties["bus"] = "pcie.0".into();
        properties["addr"] = address.to_string().into();
        if address.multifunction {
            properties["multifunction"] = true.into();
        }
        self.option("-device", properties.to_string());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.words.push(name.into());
        self.words.push(value.into());
    }

    /// Keeps a descriptor for QEMU. It will have the same number there.
    fn inherit(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }

    /// The words after the program's name.
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// The descriptors QEMU is to inherit; they are closed here when this is dropped.
    pub fn inherited(&self) -> &[OwnedFd] {
        &self.inherited
    }
}
