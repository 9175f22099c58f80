//! Guests' code, instruction by instruction. All of it does the same in 64-bit and in 32-bit mode:
//! no prefixes, and no addresses above 4 GiB.

/// Ports a guest writes to.
#[derive(Clone, Copy)]
pub enum Port {
    /// The serial port's data.
    Serial = 0x3f8,
    /// The serial port's interrupt enable register.
    SerialInterrupts = 0x3f9,
    /// The serial port's line status.
    SerialStatus = 0x3fd,
    /// ACPI's sleep control register.
    Sleep = 0x600,
    /// ACPI's reset register.
    Reset = 0x602,
    /// The keyboard controller's commands.
    Keyboard = 0x64,
}

/// A guest's code.
#[derive(Debug, Clone, Default)]
pub struct Code(Vec<u8>);

impl Code {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `mov edx, port`
    fn port(self, port: Port) -> Self {
        self.put(&[0xba]).put(&(port as u32).to_le_bytes())
    }

    /// Writes a byte to a port.
    pub fn out(self, port: Port, byte: u8) -> Self {
        // mov al, byte; out dx, al
        self.port(port).put(&[0xb0, byte, 0xee])
    }

    /// Prints a text on the serial port.
    pub fn print(self, text: &str) -> Self {
        text.bytes()
            .fold(self, |code, byte| code.out(Port::Serial, byte))
    }

    /// Prints the command line that the zero page, at ESI, points to.
    pub fn print_command_line(self) -> Self {
        // mov esi, [esi + 0x228]
        let code = self.put(&[0x8b, 0xb6]).put(&0x228u32.to_le_bytes());
        // next: mov al, [esi]; test al, al; jz end; out dx, al; add esi, 1; jmp next
        code.port(Port::Serial).put(&[
            0x8a, 0x06, 0x84, 0xc0, 0x74, 0x06, 0xee, 0x83, 0xc6, 0x01, 0xeb, 0xf4,
        ])
    }

    /// Prints the four bytes at an address.
    pub fn print_memory(self, address: u32) -> Self {
        // mov ebx, address; mov ebx, [ebx]
        let code = self
            .put(&[0xbb])
            .put(&address.to_le_bytes())
            .put(&[0x8b, 0x1b])
            .port(Port::Serial);
        // mov eax, ebx; out dx, al; shr ebx, 8
        (0..4).fold(code, |code, _| {
            code.put(&[0x89, 0xd8, 0xee, 0xc1, 0xeb, 0x08])
        })
    }

    /// Adds one to the byte at an address, and prints it as a digit.
    pub fn count_in_memory(self, address: u32) -> Self {
        // mov ebx, address; add byte [ebx], 1; mov al, [ebx]; add al, '0'
        let code = self
            .put(&[0xbb])
            .put(&address.to_le_bytes())
            .put(&[0x80, 0x03, 0x01, 0x8a, 0x03, 0x04, b'0']);
        code.port(Port::Serial).put(&[0xee])
    }

    /// Listens on the serial port, and prints what it hears, up to a byte.
    pub fn echo_until(self, last: u8) -> Self {
        let code = self.out(Port::SerialInterrupts, 1);
        let start = code.0.len();
        // next: in al, dx; test al, 1; jz next
        let code = code
            .port(Port::SerialStatus)
            .put(&[0xec, 0xa8, 0x01, 0x74, 0xfb]);
        // in al, dx; out dx, al; cmp al, last; jne start
        let code = code.port(Port::Serial).put(&[0xec, 0xee, 0x3c, last]);
        let back = start as i64 - (code.0.len() as i64 + 2);
        code.put(&[0x75, i8::try_from(back).unwrap() as u8])
    }

    /// Hangs if the processor pages: a PVH kernel begins without.
    pub fn check_protected_mode(self) -> Self {
        // mov eax, cr0; test eax, eax; js itself
        self.put(&[0x0f, 0x20, 0xc0, 0x85, 0xc0, 0x78, 0xfe])
    }

    /// Switches the machine off.
    pub fn power_off(self) -> Self {
        self.out(Port::Sleep, 5 << 2 | 1 << 5).hang()
    }

    /// A fault nobody handles: `ud2`.
    pub fn fault(self) -> Self {
        self.put(&[0x0f, 0x0b])
    }

    /// `jmp` to itself.
    pub fn hang(self) -> Self {
        self.put(&[0xeb, 0xfe])
    }
}
