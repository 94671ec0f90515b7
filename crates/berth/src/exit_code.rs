//! How the process ends.

/// An exit status. Unlike that of `std` its number can be read, which the binary's own entry point must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(u8);

impl ExitCode {
    /// Zero.
    pub const SUCCESS: ExitCode = ExitCode(0);

    /// The number that the kernel gets.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl From<u8> for ExitCode {
    fn from(number: u8) -> ExitCode {
        ExitCode(number)
    }
}
