//! A [`GuestPlan`]: all that a command line says about a guest, each part checked as far as it can
//! be without looking at the world. Its `Display` is what `--dry-run` prints.

pub mod arguments;
pub mod console;
pub mod cpus;
pub mod device;
pub mod disk;
pub mod life;
pub mod memory;
pub mod reset;

use std::fmt;
use std::path::PathBuf;

use arguments::KernelArguments;
use cpus::CpuCount;
use device::DevicePlan;
use life::LifePlan;
use memory::MemorySize;

/// One guest, as wished for.
#[derive(Debug, Clone)]
pub struct GuestPlan {
    /// How much memory it has.
    pub memory: MemorySize,
    /// How many processors.
    pub cpus: CpuCount,
    /// The file of its kernel.
    pub kernel: PathBuf,
    /// The file of its initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// What the user tells its kernel.
    pub arguments: KernelArguments,
    /// Its devices, in the order it shall find them.
    pub devices: Vec<DevicePlan>,
    /// How its life is attended to.
    pub life: LifePlan,
}

impl fmt::Display for GuestPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory    {}", self.memory)?;
        writeln!(f, "cpus      {}", self.cpus)?;
        writeln!(f, "kernel    {}", self.kernel.display())?;
        if let Some(initrd) = &self.initrd {
            writeln!(f, "initrd    {}", initrd.display())?;
        }
        let (mut nets, mut disks) = (0, 0);
        for device in &self.devices {
            match device {
                DevicePlan::Net(_) => {
                    writeln!(f, "{:<9} {device}", format!("eth{nets}"))?;
                    nets += 1;
                }
                DevicePlan::Block(_) => {
                    writeln!(f, "{:<9} {device}", disk_name(disks))?;
                    disks += 1;
                }
            }
        }
        self.life.fmt(f)
    }
}

/// What Linux calls its disk number `index`: vda … vdz, vdaa …
fn disk_name(mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + (index % 26) as u8));
        match (index / 26).checked_sub(1) {
            Some(rest) => index = rest,
            None => break,
        }
    }
    format!("vd{}", letters.iter().rev().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_linux_does() {
        for (index, name) in [
            (0, "vda"),
            (25, "vdz"),
            (26, "vdaa"),
            (701, "vdzz"),
            (702, "vdaaa"),
        ] {
            assert_eq!(disk_name(index), name);
        }
    }
}
