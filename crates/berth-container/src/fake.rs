//! Ownership system calls answered as done (`--remap-root`).
//!
//! With one mapped id, root inside a container may not give a file away or become somebody else: the kernel has no other
//! id to give. Package managers do both all day (`dpkg` unpacks files owned by `man`, `useradd` makes a home for its
//! user) and stop at the first refusal, although nobody needs the result inside such a container. A seccomp filter
//! answers these calls with success and does nothing; everything else passes untouched.
//!
//! What this does *not* do: remember. `stat` shows the real owner (root) afterwards. A program that checks that its
//! request took effect notices; apt is the one known that matters, and is told by its configuration not to switch users
//! (see [`crate::etc`]).
//!
//! The filter is no security boundary. It only ever turns "refused" or "done" into "done", and needs
//! `PR_SET_NO_NEW_PRIVS` so that a set-user-id program outside of the namespace could not be fooled by it.
//!
//! Programs of the other ABIs that a kernel runs (32-bit and x32 on x86-64, 32-bit Arm on aarch64) get the same answers.
//! Since Linux 5.11 the kernel works out once which system calls a filter always allows, so the cost of the filter for
//! all the others is one bit test.
#![allow(unsafe_code)] // prctl(2) with a pointer to the program: no safe wrapper exists.

use std::io;

use libc::sock_filter;

/// A system call ABI, by the value the kernel puts in `seccomp_data.arch` (`AUDIT_ARCH_*` of `linux/audit.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// `AUDIT_ARCH_X86_64`; x32 calls arrive under the same value with bit 30 of the number set.
    X86_64,
    /// `AUDIT_ARCH_I386`: 32-bit programs on x86-64.
    I386,
    /// `AUDIT_ARCH_AARCH64`.
    Aarch64,
    /// `AUDIT_ARCH_ARM`: 32-bit programs on aarch64.
    Arm,
}

impl Abi {
    /// The ABIs that a kernel of this machine runs.
    pub const NATIVE: &[Abi] = if cfg!(target_arch = "x86_64") {
        &[Abi::X86_64, Abi::I386]
    } else if cfg!(target_arch = "aarch64") {
        &[Abi::Aarch64, Abi::Arm]
    } else {
        &[]
    };

    /// The value of `seccomp_data.arch`.
    pub const fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }
}

/// What the filter does with a call of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Success, nothing done.
    Done,
    /// Success for a character or block device; argument `mode_arg` is the file type, the one after it the device.
    DoneForDevices { mode_arg: u8 },
}

/// One row of [`TABLE`]: the number of a call in each ABI ([`NONE`] where it has none).
struct Row {
    #[cfg_attr(not(test), expect(dead_code, reason = "documents the row; tests check it"))]
    name: &'static str,
    x86_64: u32,
    i386: u32,
    aarch64: u32,
    arm: u32,
    answer: Answer,
}

impl Row {
    const fn number(&self, abi: Abi) -> u32 {
        match abi {
            Abi::X86_64 => self.x86_64,
            Abi::I386 => self.i386,
            Abi::Aarch64 => self.aarch64,
            Abi::Arm => self.arm,
        }
    }
}

const NONE: u32 = u32::MAX;

const fn row(name: &'static str, x86_64: u32, i386: u32, aarch64: u32, arm: u32) -> Row {
    Row { name, x86_64, i386, aarch64, arm, answer: Answer::Done }
}

const fn device_row(name: &'static str, numbers: [u32; 4], mode_arg: u8) -> Row {
    let [x86_64, i386, aarch64, arm] = numbers;
    Row { name, x86_64, i386, aarch64, arm, answer: Answer::DoneForDevices { mode_arg } }
}

/// The calls that are answered. Numbers from the kernel's `asm/unistd_64.h`, `asm/unistd_32.h`, `asm-generic/unistd.h` and
/// `arch/arm/tools/syscall.tbl`. The `32` calls are those with 32-bit ids of ABIs whose first ones had 16 bits.
#[rustfmt::skip] // One row a line.
const TABLE: &[Row] = &[
    //   name          x86_64  i386  aarch64  arm
    row("chown",           92,  182,    NONE, 182),
    row("fchown",          93,   95,      55,  95),
    row("lchown",          94,   16,    NONE,  16),
    row("fchownat",       260,  298,      54, 325),
    row("chown32",       NONE,  212,    NONE, 212),
    row("fchown32",      NONE,  207,    NONE, 207),
    row("lchown32",      NONE,  198,    NONE, 198),
    row("setuid",         105,   23,     146,  23),
    row("setgid",         106,   46,     144,  46),
    row("setreuid",       113,   70,     145,  70),
    row("setregid",       114,   71,     143,  71),
    row("setresuid",      117,  164,     147, 164),
    row("setresgid",      119,  170,     149, 170),
    row("setfsuid",       122,  138,     151, 138),
    row("setfsgid",       123,  139,     152, 139),
    row("setgroups",      116,   81,     159,  81),
    row("setuid32",      NONE,  213,    NONE, 213),
    row("setgid32",      NONE,  214,    NONE, 214),
    row("setreuid32",    NONE,  203,    NONE, 203),
    row("setregid32",    NONE,  204,    NONE, 204),
    row("setresuid32",   NONE,  208,    NONE, 208),
    row("setresgid32",   NONE,  210,    NONE, 210),
    row("setfsuid32",    NONE,  215,    NONE, 215),
    row("setfsgid32",    NONE,  216,    NONE, 216),
    row("setgroups32",   NONE,  206,    NONE, 206),
    // A daemon that drops capabilities it does not need: refused for those outside of its bounding set.
    row("capset",         126,  185,      91, 185),
    device_row("mknod",   [133,  14,    NONE,  14], 1),
    device_row("mknodat", [259, 297,      33, 324], 2),
];

// Offsets in `struct seccomp_data` (linux/seccomp.h); the low half of a 64-bit argument on a little-endian machine.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const fn offset_argument(index: u8) -> u32 {
    16 + 8 * index as u32
}

/// Marks an x32 call (`__X32_SYSCALL_BIT`); the calls of the table have the same numbers there as in x86-64.
const X32_BIT: u32 = 0x4000_0000;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
/// `SECCOMP_RET_ERRNO` with errno 0: the call returns 0.
const DONE: u32 = libc::SECCOMP_RET_ERRNO;

/// The program that answers the ownership calls of `abis`.
///
/// One block an ABI: it is left by a `ret`, or skipped whole when the ABI is another. A call of an ABI that isn't listed is
/// allowed.
pub fn program(abis: &[Abi]) -> Vec<sock_filter> {
    let mut program = Vec::with_capacity(48 * abis.len() + 2);
    program.push(load(OFFSET_ARCH));
    for &abi in abis {
        let block = block(abi);
        program.push(jump_if_equal(abi.audit_arch(), 0, short(block.len())));
        program.extend(block);
    }
    program.push(ret(ALLOW));
    program
}

/// The checks of one ABI. Written back to front in thought: the tails that the comparisons jump to come last, so that all jumps
/// go forward, as BPF demands.
fn block(abi: Abi) -> Vec<sock_filter> {
    let rows: Vec<&Row> = TABLE.iter().filter(|row| row.number(abi) != NONE).collect();
    // Tails, in order: allow, done, then one device check for each place that the mode can have.
    let devices: Vec<u8> = [1, 2]
        .into_iter()
        .filter(|&mode_arg| rows.iter().any(|row| row.answer == Answer::DoneForDevices { mode_arg }))
        .collect();

    let mut block = vec![load(OFFSET_NUMBER)];
    if abi == Abi::X86_64 {
        block.push(and(!X32_BIT));
    }
    for (index, row) in rows.iter().enumerate() {
        let to_tails = rows.len() - index - 1;
        let tail = match row.answer {
            Answer::Done => 1,
            Answer::DoneForDevices { mode_arg } => {
                let nth = devices.iter().position(|&arg| arg == mode_arg).unwrap_or(0);
                2 + nth * DEVICE_CHECK_LEN
            }
        };
        block.push(jump_if_equal(row.number(abi), short(to_tails + tail), 0));
    }
    block.push(ret(ALLOW));
    block.push(ret(DONE));
    for mode_arg in devices {
        block.extend(device_check(mode_arg));
    }
    block
}

const DEVICE_CHECK_LEN: usize = 8;

/// Success for device nodes. A character device 0:0 is overlayfs' whiteout, which the kernel lets everybody make: a
/// nested container tool that makes one must get a real one, so it passes.
fn device_check(mode_arg: u8) -> [sock_filter; DEVICE_CHECK_LEN] {
    [
        load(offset_argument(mode_arg)),
        and(libc::S_IFMT),
        jump_if_equal(libc::S_IFBLK, 3, 0), // → done
        jump_if_equal(libc::S_IFCHR, 0, 3), // else → allow
        load(offset_argument(mode_arg + 1)),
        jump_if_equal(0, 1, 0), // whiteout → allow
        ret(DONE),
        ret(ALLOW),
    ]
}

/// A jump distance. Blocks are far shorter than the 255 instructions that a conditional jump can skip; the tests run every
/// table through the program.
const fn short(distance: usize) -> u8 {
    assert!(distance <= u8::MAX as usize);
    distance as u8
}

const fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

const fn and(mask: u32) -> sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask)
}

const fn jump_if_equal(value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, if_true, if_false, value)
}

const fn ret(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// Puts the filter on this thread and everything that it will execute, for good.
///
/// Sets `PR_SET_NO_NEW_PRIVS`, without which an ordinary user may not install a filter.
///
/// # Errors
/// `EINVAL` when the kernel was built without seccomp filters or the program is malformed; `ENOMEM` when the filters of
/// the process are too long altogether.
pub fn install(program: &[sock_filter]) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points at `len` instructions that outlive the call; the kernel copies and checks them, and does not
    // write through the pointer.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as libc::c_ulong, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Abi] = &[Abi::X86_64, Abi::I386, Abi::Aarch64, Abi::Arm];

    /// Runs a program over one `struct seccomp_data` as the kernel would, and panics on everything that the kernel would
    /// reject: unknown instructions, jumps out of the program, running past its end.
    fn simulate(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    let offset = k as usize;
                    assert!(offset.is_multiple_of(4) && offset < 64);
                    accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= k,
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += usize::from(if accumulator == k { jt } else { jf });
                }
                c if c == libc::BPF_RET | libc::BPF_K => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn listed(abi: Abi, number: u32) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.number(abi) == number)
    }

    #[test]
    fn every_number_of_every_abi_gets_the_answer_of_the_table() {
        let program = program(ALL);
        for &abi in ALL {
            // Device numbers beside the mode in both places, so that mknod and mknodat both see a real device.
            let block_device = [7, u64::from(libc::S_IFBLK | 0o600), u64::from(libc::S_IFBLK | 0o600), 0x801, 0, 0];
            for number in 0..1024 {
                let expected = if listed(abi, number).is_some() { DONE } else { ALLOW };
                assert_eq!(
                    simulate(&program, abi.audit_arch(), number, block_device),
                    expected,
                    "call {number} of {abi:?}"
                );
            }
        }
    }

    #[test]
    fn x32_calls_are_answered_as_x86_64_calls_and_only_there() {
        let program = program(ALL);
        for row in TABLE.iter().filter(|row| row.x86_64 != NONE && row.answer == Answer::Done) {
            assert_eq!(
                simulate(&program, Abi::X86_64.audit_arch(), row.x86_64 | X32_BIT, [0; 6]),
                DONE,
                "{}",
                row.name
            );
        }
        assert_eq!(simulate(&program, Abi::X86_64.audit_arch(), 39 | X32_BIT, [0; 6]), ALLOW);
        assert_eq!(simulate(&program, Abi::I386.audit_arch(), 212 | X32_BIT, [0; 6]), ALLOW);
        assert_eq!(simulate(&program, Abi::Aarch64.audit_arch(), 54 | X32_BIT, [0; 6]), ALLOW);
    }

    #[test]
    fn only_device_nodes_are_answered_by_mknod() {
        let program = program(ALL);
        let cases = [
            (libc::S_IFBLK, 0x801, DONE),
            (libc::S_IFBLK, 0, DONE),
            (libc::S_IFCHR, 0x103, DONE),
            (libc::S_IFCHR, 0, ALLOW), // A whiteout.
            (libc::S_IFREG, 0, ALLOW),
            (libc::S_IFIFO, 0, ALLOW),
            (libc::S_IFSOCK, 0, ALLOW),
            (0, 0x103, ALLOW), // No type means a regular file.
        ];
        for &abi in ALL {
            for row in TABLE {
                let Answer::DoneForDevices { mode_arg } = row.answer else { continue };
                if row.number(abi) == NONE {
                    continue;
                }
                for (kind, device, expected) in cases {
                    let mut arguments = [u64::MAX; 6];
                    arguments[usize::from(mode_arg)] = u64::from(kind | 0o644);
                    arguments[usize::from(mode_arg) + 1] = device;
                    assert_eq!(
                        simulate(&program, abi.audit_arch(), row.number(abi), arguments),
                        expected,
                        "{} of type {kind:o}, device {device:#x}, {abi:?}",
                        row.name
                    );
                }
            }
        }
    }

    #[test]
    fn an_abi_that_is_not_listed_is_left_alone() {
        let program = program(&[Abi::X86_64]);
        assert_eq!(simulate(&program, Abi::I386.audit_arch(), 212, [0; 6]), ALLOW);
        assert_eq!(simulate(&program, 0x8000_0016, 212, [0; 6]), ALLOW); // s390x
        assert_eq!(simulate(&super::program(&[]), Abi::X86_64.audit_arch(), 92, [0; 6]), ALLOW);
    }

    #[test]
    fn no_jump_leaves_the_program_and_it_ends_with_a_return() {
        let program = program(ALL);
        for (at, instruction) in program.iter().enumerate() {
            let furthest = at + 1 + usize::from(instruction.jt.max(instruction.jf));
            assert!(furthest < program.len() || u32::from(instruction.code) & 7 == libc::BPF_RET);
        }
        assert_eq!(u32::from(program.last().unwrap().code), libc::BPF_RET | libc::BPF_K);
    }

    #[test]
    fn native_numbers_are_those_of_libc() {
        #[rustfmt::skip]
        let native: &[(&str, libc::c_long)] = &[
            ("fchown", libc::SYS_fchown), ("fchownat", libc::SYS_fchownat), ("setuid", libc::SYS_setuid),
            ("setgid", libc::SYS_setgid), ("setreuid", libc::SYS_setreuid), ("setregid", libc::SYS_setregid),
            ("setresuid", libc::SYS_setresuid), ("setresgid", libc::SYS_setresgid), ("setfsuid", libc::SYS_setfsuid),
            ("setfsgid", libc::SYS_setfsgid), ("setgroups", libc::SYS_setgroups), ("capset", libc::SYS_capset),
            ("mknodat", libc::SYS_mknodat),
            #[cfg(target_arch = "x86_64")] ("chown", libc::SYS_chown),
            #[cfg(target_arch = "x86_64")] ("lchown", libc::SYS_lchown),
            #[cfg(target_arch = "x86_64")] ("mknod", libc::SYS_mknod),
        ];
        let listed = TABLE.iter().filter(|row| row.number(Abi::NATIVE[0]) != NONE);
        assert_eq!(listed.count(), native.len(), "a row without a check");
        for (name, number) in native {
            let row = TABLE.iter().find(|row| row.name == *name).unwrap();
            assert_eq!(i64::from(row.number(Abi::NATIVE[0])), *number, "{name}");
        }
    }
}
