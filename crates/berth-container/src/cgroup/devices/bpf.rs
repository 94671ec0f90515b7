//! The program that cgroup v2 asks about each use of a device, made, loaded and attached.

#![allow(unsafe_code)] // bpf(2) has no safe wrapper.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{ALL, Rule};

/// An instruction of BPF, see `linux/bpf.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cgroup) struct Instruction {
    pub(super) code: u8,
    /// Destination in the low half, source in the high one (little endian).
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// Registers: the answer, the question, and what is asked for.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `r = *(u32 *)(source + offset)`.
pub(super) const LOAD: u8 = 0x61;
/// `r &= immediate`, of 32 bits.
pub(super) const AND: u8 = 0x54;
/// `r >>= immediate`, of 32 bits.
pub(super) const SHIFT: u8 = 0x74;
/// `r = immediate`.
pub(super) const MOVE: u8 = 0xb7;
/// Jumps if not equal.
pub(super) const JUMP_UNEQUAL: u8 = 0x55;
/// Jumps if any of the bits is set.
pub(super) const JUMP_SET: u8 = 0x45;
/// Jumps.
pub(super) const JUMP: u8 = 0x05;
pub(super) const EXIT: u8 = 0x95;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    Instruction { code, registers, offset, immediate }
}

/// The program for the rules. It reads them from the last to the first: a rule that refuses any of what is asked for ends it,
/// one that allows takes away what it allows, and when nothing is left to be allowed, all is.
pub(in crate::cgroup) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        // access_type: what kind of device in the low half, what to do with it in the high one.
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD, ACCESS, CONTEXT, 0, 0),
        instruction(SHIFT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        if answer_to_rest(rule, &mut program) {
            return program;
        }
    }
    program.extend(answer(0));
    program
}

const fn answer(allowed: i32) -> [Instruction; 2] {
    [instruction(MOVE, ANSWER, 0, 0, allowed), instruction(EXIT, 0, 0, 0, 0)]
}

/// Appends a rule; whether nothing after it would ever be reached.
fn answer_to_rest(rule: &Rule, program: &mut Vec<Instruction>) -> bool {
    let mut action = Vec::new();
    match (rule.allow, rule.access) {
        (allow, ALL) => action.extend(answer(allow.into())),
        (true, access) => {
            action.push(instruction(AND, ACCESS, 0, 0, i32::from(ALL & !access)));
            action.push(instruction(JUMP_UNEQUAL, ACCESS, 0, 2, 0));
            action.extend(answer(1));
        }
        (false, access) => {
            action.push(instruction(JUMP_SET, ACCESS, 0, 1, access.into()));
            action.push(instruction(JUMP, 0, 0, 2, 0));
            action.extend(answer(0));
        }
    }
    let kind = match rule.kind {
        'b' => Some((KIND, 1)),
        'c' => Some((KIND, 2)),
        _ => None,
    };
    let conditions: Vec<(u8, i32)> = kind
        .into_iter()
        .chain(rule.major.map(|major| (MAJOR, major.cast_signed())))
        .chain(rule.minor.map(|minor| (MINOR, minor.cast_signed())))
        .collect();
    for (index, &(register, value)) in conditions.iter().enumerate() {
        // At most two further conditions and four instructions are skipped.
        let skipped = (conditions.len() - index - 1 + action.len()) as i16;
        program.push(instruction(JUMP_UNEQUAL, register, 0, skipped, value));
    }
    program.extend(action);
    conditions.is_empty() && rule.access == ALL
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The kernel allows no more in one group.
const MAX_PROGRAMS: usize = 64;

/// The beginning of what `BPF_PROG_LOAD` takes.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// What `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` take.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
    padding: u32,
}

/// The beginning of what `BPF_PROG_QUERY` takes.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attached_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// What `BPF_PROG_GET_FD_BY_ID` takes.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// # Safety
/// `T` must be the structure that the command takes, without padding, and the addresses in it must be valid for what the
/// command does with them.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes of `attributes`; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// Loads and attaches the program of the rules to a group, in place of those that were there.
pub(in crate::cgroup) fn attach(group: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    let program = load(&program(rules))?;
    let before = attached(group).unwrap_or_default();
    change(PROG_ATTACH, group, program.as_fd(), ALLOW_MULTI)?;
    for id in before {
        // One that vanished meanwhile refuses nothing any more.
        if let Ok(old) = by_id(id) {
            change(PROG_DETACH, group, old.as_fd(), 0)?;
        }
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        name: *b"berth_devices\0\0\0",
        ..Load::default()
    };
    // SAFETY: instructions and license outlive the call, and the count is that of the instructions.
    let fd = unsafe { bpf(PROG_LOAD, &mut attributes)? };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn change(command: libc::c_long, group: BorrowedFd<'_>, program: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    let mut attributes = Attach {
        target: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags,
        ..Attach::default()
    };
    // SAFETY: the structure has no addresses.
    unsafe { bpf(command, &mut attributes) }.map(drop)
}

/// The programs of a group.
pub(in crate::cgroup) fn attached(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attributes = Query {
        target: group.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes at most `count` ids, and the array has as many and outlives the call.
    unsafe { bpf(PROG_QUERY, &mut attributes)? };
    Ok(ids.iter().copied().take(attributes.count as usize).collect())
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById { id, ..ById::default() };
    // SAFETY: the structure has no addresses.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes)? };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
