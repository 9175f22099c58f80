//! Why the processor came back to the host.

/// What the guest did that takes the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// `int n`, `int3` or `into`. eip is behind the instruction. Whether the guest may use the
    /// vector from its ring is for the host to say, which knows the gates.
    Interrupt {
        /// n.
        vector: u8,
        /// Where the instruction itself is, to go back to if the host makes it a fault.
        at: u32,
    },
    /// An exception. eip is at the instruction that faulted, and the guest is as if that had not
    /// begun; after a single step (vector 1), eip is behind the instruction.
    Fault {
        /// 0 to 31.
        vector: u8,
        /// For the vectors that have one.
        error: Option<u32>,
        /// The linear address of a page fault, otherwise 0.
        cr2: u32,
    },
    /// The budget is used up.
    Budget,
    /// Somebody wants it to stop.
    Stopped,
    /// The guest can't go on.
    Broken(Broken),
}

/// What a guest can't be told of, because its page tables or stacks are broken: it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Flags other than P, RW, US, A and D, or a table beyond memory.
    #[error("bad page directory entry {entry:#010x} for address {linear:#010x}")]
    DirectoryEntry {
        /// The entry.
        entry: u32,
        /// What was looked up.
        linear: u32,
    },
    /// PWT or PSE set, or a frame beyond memory.
    #[error("bad page table entry {entry:#010x} for address {linear:#010x}")]
    TableEntry {
        /// The entry.
        entry: u32,
        /// What was looked up.
        linear: u32,
    },
    /// The page directory itself is beyond memory.
    #[error("page directory {directory:#x} beyond the guest's memory")]
    Directory {
        /// Where it should be.
        directory: u32,
    },
    /// The top 4 MiB, which the host's switcher has.
    #[error("attempt to access switcher pages at {linear:#010x}")]
    SwitcherPages {
        /// What was accessed.
        linear: u32,
    },
    /// There is no stack to tell the guest on.
    #[error("bad stack at {esp:#010x} for a trap")]
    Stack {
        /// Where the frame would have begun.
        esp: u32,
    },
    /// A trap's segment can't be loaded.
    #[error("bad segment selector {selector:#06x} for a trap")]
    Selector {
        /// Which.
        selector: u16,
    },
}
