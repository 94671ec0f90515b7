//! Calls newer than a profile: `ENOSYS` for all numbers above the highest that it names.
//!
//! A profile that allows what it knows refuses what came later, by `EPERM` as a rule. C libraries try a new call first and
//! the old one if the kernel answers `ENOSYS`; `EPERM` they take for an answer. So a program goes before libseccomp's that
//! gives the kernel's own answer of the time when the profile was written. It allows nothing: whatever it does not answer
//! goes on to the profile's rules.

use libc::sock_filter;

use super::ERRNO;
use super::library::Library;
use std::ffi::CStr;

/// Marks an x32 call (`__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;
/// libseccomp's token for x32; the kernel shows such calls as x86-64 ones.
const X32: u32 = 0x4000_003e;
const X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_S390` and `AUDIT_ARCH_S390X`: a number that does not fit into the instruction of the call arrives as 0.
const S390: [u32; 2] = [0x16, 0x8000_0016];

// Offsets in `struct seccomp_data` (linux/seccomp.h).
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// The highest number that a profile names, on each architecture.
#[derive(Debug)]
pub struct Newest(Vec<(u32, Option<u32>)>);

impl Newest {
    /// None named yet, on these.
    pub fn new(architectures: &[u32]) -> Newest {
        Newest(architectures.iter().map(|&token| (token, None)).collect())
    }

    /// The profile names this call.
    pub fn note(&mut self, library: &Library, name: &CStr) {
        for (token, newest) in &mut self.0 {
            // `None` is below every number, and so stays where a call does not exist.
            *newest = (*newest).max(library.call_on(*token, name));
        }
    }

    /// The program that goes before; it ends where the profile's begins.
    pub fn program(&self) -> Vec<sock_filter> {
        let newest = |wanted: u32| self.0.iter().find(|(token, _)| *token == wanted).and_then(|(_, newest)| *newest);
        let mut program = vec![load(OFFSET_ARCH)];
        for &(token, highest) in &self.0 {
            let block = match (token, highest) {
                (X32, _) => continue,
                (X86_64, highest) => x86_block(highest, newest(X32)),
                (_, None) => continue,
                (_, Some(highest)) => block(highest, S390.contains(&token)),
            };
            // All blocks are a few instructions long.
            program.push(jump(libc::BPF_JEQ, token, 0, block.len() as u8));
            program.extend(block);
        }
        if program.len() == 1 {
            return Vec::new();
        }
        // Each block ends with a jump to the end, which is known only now.
        let end = program.len();
        for (at, instruction) in program.iter_mut().enumerate() {
            if u32::from(instruction.code) == libc::BPF_JMP | libc::BPF_JA {
                instruction.k = (end - at - 1) as u32;
            }
        }
        program
    }
}

fn block(highest: u32, multiplexed: bool) -> Vec<sock_filter> {
    let mut block = vec![load(OFFSET_NUMBER)];
    if multiplexed {
        block.extend([jump(libc::BPF_JEQ, 0, 0, 1), unknown()]);
    }
    block.extend(limit(highest));
    block
}

/// Two ABIs under one name.
fn x86_block(highest: Option<u32>, highest_x32: Option<u32>) -> Vec<sock_filter> {
    let part = |highest: Option<u32>| highest.map_or_else(|| vec![go_on()], |highest| limit(highest).to_vec());
    let mut block = vec![load(OFFSET_NUMBER)];
    let own = part(highest);
    block.push(jump(libc::BPF_JSET, X32_BIT, own.len() as u8, 0));
    block.extend(own);
    block.extend(part(highest_x32));
    block
}

fn limit(highest: u32) -> [sock_filter; 3] {
    [jump(libc::BPF_JGT, highest, 0, 1), unknown(), go_on()]
}

fn unknown() -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, ERRNO | libc::ENOSYS as u32)
}

/// To the profile's program; the distance is filled in at the end.
fn go_on() -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0)
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

fn jump(test: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(libc::BPF_JMP | test | libc::BPF_K, if_true, if_false, value)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}
