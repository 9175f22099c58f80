//! A bus: which device answers at an address. A machine has two, one of memory addresses and one
//! of I/O ports; both work alike.
//!
//! The guest may read and write any address, in any width. Where no device answers it reads all
//! ones, and what it writes is lost, as on a PC.

use std::fmt;
use std::sync::Arc;

/// A device's registers, as the guest's processors reach them. Several processors may at once.
pub trait MmioDevice: Send + Sync {
    /// How many bytes its widest register has, if it is on I/O ports.
    fn width(&self) -> usize {
        1
    }

    /// Fills `data` (1, 2, 4 or 8 bytes) with what stands `offset` bytes into the registers. Bytes
    /// that are no register's are left as they are.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes `data` (1, 2, 4 or 8 bytes), written `offset` bytes into the registers.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    /// In order of their starts; none overlaps another.
    ranges: Vec<Range>,
}

/// A device's place.
struct Range {
    start: u64,
    /// In bytes, or ports.
    size: u64,
    device: Arc<dyn MmioDevice>,
}

impl Bus {
    /// Puts a device at `size` addresses from `start` on. What another device has already stays
    /// that one's: then nothing is done and the answer is false.
    #[must_use]
    pub fn insert(&mut self, start: u64, size: u64, device: Arc<dyn MmioDevice>) -> bool {
        let Some(end) = start.checked_add(size) else {
            return false;
        };
        let at = self.ranges.partition_point(|range| range.start < start);
        let before = at.checked_sub(1).and_then(|at| self.ranges.get(at));
        let after = self.ranges.get(at);
        if size == 0
            || before.is_some_and(|range| range.start + range.size > start)
            || after.is_some_and(|range| range.start < end)
        {
            return false;
        }
        let range = Range {
            start,
            size,
            device,
        };
        self.ranges.insert(at, range);
        true
    }

    /// A guest's read.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.read(offset, data);
        }
    }

    /// A guest's write.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    /// A guest's read of an I/O port. A string instruction reads that one port again and again; so,
    /// in effect, does one that is wider than the register.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        for part in data.chunks_mut(self.width(port)) {
            self.read(port.into(), part);
        }
    }

    /// A guest's write of an I/O port; see [`Bus::read_port`].
    pub fn write_port(&self, port: u16, data: &[u8]) {
        for part in data.chunks(self.width(port)) {
            self.write(port.into(), part);
        }
    }

    /// The width of the registers there.
    fn width(&self, port: u16) -> usize {
        self.find(port.into(), 1)
            .map_or(1, |(device, _)| device.width().max(1))
    }

    /// Who has all of these addresses, and where in its registers they begin.
    fn find(&self, address: u64, len: usize) -> Option<(&dyn MmioDevice, u64)> {
        let at = self.ranges.partition_point(|range| range.start <= address);
        let range = self.ranges.get(at.checked_sub(1)?)?;
        let offset = address - range.start;
        let end = offset.checked_add(len as u64)?;
        (end <= range.size).then_some((&*range.device, offset))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.ranges
                    .iter()
                    .map(|range| range.start..range.start + range.size),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Answers with its name, and notes what is written.
    #[derive(Default)]
    struct Named(u8, Mutex<Vec<(u64, Vec<u8>)>>);

    impl MmioDevice for Named {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + offset as u8);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.1.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn read(bus: &Bus, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn the_device_at_an_address_answers_and_no_other() {
        let (low, high) = (
            Arc::new(Named(10, Mutex::default())),
            Named(20, Mutex::default()),
        );
        let mut bus = Bus::default();
        assert!(bus.insert(0x2000, 0x10, Arc::new(high)));
        assert!(bus.insert(0x1000, 0x10, Arc::clone(&low) as Arc<dyn MmioDevice>));
        assert_eq!(read(&bus, 0x1000, 1), [10]);
        assert_eq!(read(&bus, 0x200c, 4), [32; 4]);
        bus.write(0x1003, &[7]);
        assert_eq!(*low.1.lock().unwrap(), [(3, vec![7])]);
    }

    #[test]
    fn what_no_device_has_whole_reads_as_ones() {
        let mut bus = Bus::default();
        assert!(bus.insert(0x1000, 0x10, Arc::new(Named(0, Mutex::default()))));
        for (address, len) in [(0, 4), (0xfff, 1), (0x100d, 4), (0x1010, 1), (u64::MAX, 8)] {
            assert_eq!(read(&bus, address, len), vec![0xff; len]);
            bus.write(address, &vec![0; len]);
        }
    }

    /// Like [`Named`], with registers of 32 bits.
    struct Wide(Named);

    impl MmioDevice for Wide {
        fn width(&self) -> usize {
            4
        }

        fn read(&self, offset: u64, data: &mut [u8]) {
            self.0.read(offset, data);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.write(offset, data);
        }
    }

    #[test]
    fn a_port_takes_as_much_at_once_as_its_register_is_wide() {
        let (narrow, wide) = (Arc::new(Named::default()), Arc::new(Wide(Named::default())));
        let mut bus = Bus::default();
        assert!(bus.insert(0x10, 1, Arc::clone(&narrow) as Arc<dyn MmioDevice>));
        assert!(bus.insert(0x20, 8, Arc::clone(&wide) as Arc<dyn MmioDevice>));
        // A string, or a wide instruction.
        bus.write_port(0x10, &[1, 2, 3]);
        let written = [1, 2, 3].map(|byte| (0, vec![byte]));
        assert_eq!(*narrow.1.lock().unwrap(), written);
        bus.write_port(0x24, &[1, 2, 3, 4, 5, 6, 7, 8]);
        bus.write_port(0x22, &[1, 2]);
        let written = [
            (4, vec![1, 2, 3, 4]),
            (4, vec![5, 6, 7, 8]),
            (2, vec![1, 2]),
        ];
        assert_eq!(*wide.0.1.lock().unwrap(), written);
        let mut data = [0xff; 3];
        bus.read_port(0x10, &mut data);
        assert_eq!(data, [0; 3]);
        bus.read_port(0x30, &mut data);
        assert_eq!(data, [0xff; 3]);
    }

    #[test]
    fn no_two_devices_share_an_address() {
        let mut bus = Bus::default();
        let device = || Arc::new(Named::default());
        assert!(bus.insert(0x1000, 0x10, device()));
        for (start, size) in [
            (0x1000, 1),
            (0x100f, 1),
            (0xff0, 0x11),
            (0, 0x2000),
            (0x1010, 0),
            (u64::MAX, 2),
        ] {
            assert!(!bus.insert(start, size, device()), "{start:x}");
        }
        assert!(bus.insert(0x1010, 1, device()) && bus.insert(0xfff, 1, device()));
    }
}
