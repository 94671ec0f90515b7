//! System call filters: from the rules of a configuration to a program for the kernel.
//!
//! The rules are libseccomp's own language, so libseccomp translates them, as for every other runtime. It is loaded when
//! the first configuration with a filter comes, and nothing depends on it before ([`library`]).
//!
//! What the specification leaves open is done as runc and crun do it:
//! - names of system calls that the library does not know are passed over: profiles name calls of newer kernels;
//! - rules that say what the default says anyway are passed over;
//! - a rule with two conditions on one argument is a rule for each of its conditions (the kernel's programs were once
//!   made so, and profiles rely on it);
//! - calls newer than every call that the profile names are answered with `ENOSYS`, not with the default action
//!   ([`newer`]): a C library then falls back to an older call, where `EPERM` would make it fail;
//! - without flags, the mitigation for speculative store bypass is not turned on (`SPEC_ALLOW`): kernels before 5.16
//!   couple it to every filter, at a price of up to a third of the speed.

mod cache;
mod install;
mod library;
mod newer;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::oci;

pub(crate) use install::kernel_knows;
pub use install::{Agent, Container};
use library::{Condition, FAULT_DOMAIN, FAULT_EXISTS, FAULT_INVALID};
pub use library::{Library, Version};

/// Instructions that a program may have: `BPF_MAXINSNS` of `linux/bpf_common.h`.
const MAX_PROGRAM: usize = 4096;
/// Calls named by all rules together. The largest profiles in use name some 400; libseccomp takes milliseconds for a
/// thousand and holds on to memory for each.
const MAX_NAMES: usize = 8192;
/// Conditions of all rules together, each counted for every call that it is put on; none takes less than an instruction.
const MAX_CONDITIONS: usize = MAX_PROGRAM;
/// Architectures and flags; there are not that many.
const MAX_LIST: usize = 64;
/// No system call has a longer name; the longest that Linux has is half of it.
const MAX_NAME: usize = 64;
/// Arguments of a system call.
const MAX_ARGUMENTS: u32 = 6;
/// `MAX_ERRNO` of `linux/err.h`.
const MAX_ERRNO: u32 = 4095;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const TRACE: u32 = libc::SECCOMP_RET_TRACE;
const LOG: u32 = libc::SECCOMP_RET_LOG;
/// `SECCOMP_RET_USER_NOTIF`.
const NOTIFY: u32 = 0x7fc0_0000;

/// Actions by name, and their values for the kernel, which are libseccomp's too.
pub(crate) const ACTIONS: &[(&str, u32)] = &[
    ("SCMP_ACT_ALLOW", ALLOW),
    ("SCMP_ACT_ERRNO", ERRNO),
    ("SCMP_ACT_KILL", libc::SECCOMP_RET_KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
    ("SCMP_ACT_KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD),
    ("SCMP_ACT_LOG", LOG),
    ("SCMP_ACT_NOTIFY", NOTIFY),
    ("SCMP_ACT_TRACE", TRACE),
    ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
];

/// Operators by name, and their values of `enum scmp_compare`.
pub(crate) const OPERATORS: &[(&str, u32)] = &[
    ("SCMP_CMP_EQ", 4),
    ("SCMP_CMP_GE", 5),
    ("SCMP_CMP_GT", 6),
    ("SCMP_CMP_LE", 3),
    ("SCMP_CMP_LT", 2),
    ("SCMP_CMP_MASKED_EQ", 7),
    ("SCMP_CMP_NE", 1),
];

/// Architectures by name, and libseccomp's names for them.
pub(crate) const ARCHITECTURES: &[(&str, &str)] = &[
    ("SCMP_ARCH_AARCH64", "aarch64"),
    ("SCMP_ARCH_ARM", "arm"),
    ("SCMP_ARCH_LOONGARCH64", "loongarch64"),
    ("SCMP_ARCH_M68K", "m68k"),
    ("SCMP_ARCH_MIPS", "mips"),
    ("SCMP_ARCH_MIPS64", "mips64"),
    ("SCMP_ARCH_MIPS64N32", "mips64n32"),
    ("SCMP_ARCH_MIPSEL", "mipsel"),
    ("SCMP_ARCH_MIPSEL64", "mipsel64"),
    ("SCMP_ARCH_MIPSEL64N32", "mipsel64n32"),
    ("SCMP_ARCH_PARISC", "parisc"),
    ("SCMP_ARCH_PARISC64", "parisc64"),
    ("SCMP_ARCH_PPC", "ppc"),
    ("SCMP_ARCH_PPC64", "ppc64"),
    ("SCMP_ARCH_PPC64LE", "ppc64le"),
    ("SCMP_ARCH_RISCV64", "riscv64"),
    ("SCMP_ARCH_S390", "s390"),
    ("SCMP_ARCH_S390X", "s390x"),
    ("SCMP_ARCH_SH", "sh"),
    ("SCMP_ARCH_SHEB", "sheb"),
    ("SCMP_ARCH_X32", "x32"),
    ("SCMP_ARCH_X86", "x86"),
    ("SCMP_ARCH_X86_64", "x86_64"),
];

const FLAG_TSYNC: u32 = 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
pub(crate) const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Flags of seccomp(2) by name.
pub(crate) const FLAGS: &[(&str, u32)] = &[
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", FLAG_TSYNC),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", FLAG_WAIT_KILLABLE_RECV),
];

/// A filter, ready to be installed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The program.
    pub program: Vec<libc::sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
    pub flags: u32,
    /// Who answers calls with the action `SCMP_ACT_NOTIFY`.
    pub listener: Option<Listener>,
}

/// An agent that answers system calls in the kernel's stead.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its socket.
    pub path: PathBuf,
    /// What it is told beside the container's state.
    pub metadata: Option<String>,
}

/// Compiles the rules; `None` where they allow everything.
///
/// # Errors
/// [`Error::BadSpec`] for what the specification does not know, and for calls that two rules answer differently;
/// [`Error::System`] if libseccomp is not there or too old.
pub fn compile(seccomp: &oci::Seccomp) -> Result<Option<Filter>> {
    compile_kept(seccomp, None)
}

/// The same, with a directory of the user's own that keeps what was compiled ([`cache`]); it is made, its parent is not.
pub fn compile_kept(seccomp: &oci::Seccomp, kept: Option<&Path>) -> Result<Option<Filter>> {
    // An empty object means "no filter" to the engines that write one.
    if seccomp.default_action.is_empty() && seccomp.syscalls.is_empty() {
        return Ok(None);
    }
    let rules = Rules::read(seccomp)?;
    if rules.default == ALLOW && rules.rules.is_empty() {
        return Ok(None);
    }
    let slot = kept.and_then(|dir| cache::Slot::of(seccomp, dir));
    if let Some(program) = slot.as_ref().and_then(cache::Slot::read) {
        return Ok(Some(Filter { program, flags: rules.flags, listener: rules.listener }));
    }
    let library = Library::load()?;
    let filter = rules.translate(&library)?;
    if let (Some(slot), Some(file)) = (slot, library.file()) {
        slot.write(&filter.program, &file);
    }
    Ok(Some(filter))
}

/// Rules that were read and found good, as far as that can be told without the library.
#[derive(Debug)]
struct Rules<'a> {
    default: u32,
    architectures: Vec<(&'static str, &'static str)>,
    flags: u32,
    listener: Option<Listener>,
    /// Without those that say what the default says.
    rules: Vec<Rule<'a>>,
}

#[derive(Debug)]
struct Rule<'a> {
    /// Where in the configuration.
    index: usize,
    names: &'a [String],
    action: u32,
    /// Sets of conditions, each a rule of its own for the library.
    conditions: Vec<Vec<Condition>>,
}

impl<'a> Rules<'a> {
    fn read(seccomp: &'a oci::Seccomp) -> Result<Rules<'a>> {
        let default = action(&seccomp.default_action, seccomp.default_errno_ret, || field("defaultAction"))?;
        if default == NOTIFY {
            let reason =
                "SCMP_ACT_NOTIFY cannot be the default: the agent gets its descriptor by calls of the container";
            return Err(Error::bad_spec(field("defaultAction"), reason));
        }
        for (name, length) in [("architectures", seccomp.architectures.len()), ("flags", seccomp.flags.len())] {
            within(length, MAX_LIST, || field(name))?;
        }
        let architectures = seccomp
            .architectures
            .iter()
            .map(|name| {
                let row = ARCHITECTURES.iter().find(|row| row.0 == name);
                row.copied().ok_or_else(|| unknown(field("architectures"), name))
            })
            .collect::<Result<_>>()?;

        let mut rules = Vec::with_capacity(seccomp.syscalls.len().min(MAX_NAMES));
        let (mut names, mut conditions, mut notifies) = (0, 0, false);
        for (index, rule) in seccomp.syscalls.iter().enumerate() {
            let action = action(&rule.action, rule.errno_ret, || rule_field(index, "action"))?;
            names += rule.names.len();
            within(names, MAX_NAMES, || field("syscalls"))?;
            conditions += rule.names.len() * rule.args.len();
            within(conditions, MAX_CONDITIONS, || field("syscalls"))?;
            let sets = condition_sets(&rule.args, index)?;
            if action == NOTIFY {
                notifies = true;
                if rule.names.iter().any(|name| name == "sendmsg") {
                    let reason = "SCMP_ACT_NOTIFY cannot be used for sendmsg, by which the agent gets its descriptor";
                    return Err(Error::bad_spec(rule_field(index, "names"), reason));
                }
            }
            if action != default {
                rules.push(Rule { index, names: &rule.names, action, conditions: sets });
            }
        }
        Ok(Rules {
            default,
            architectures,
            flags: flags(&seccomp.flags, notifies)?,
            listener: listener(seccomp, notifies)?,
            rules,
        })
    }

    fn translate(self, library: &Library) -> Result<Filter> {
        let mut architectures = vec![library.native_architecture()];
        for (name, known_as) in &self.architectures {
            match library.architecture(known_as) {
                Some(token) if !architectures.contains(&token) => architectures.push(token),
                Some(_) => {}
                None => {
                    let reason = format!("`{name}` is not known to libseccomp {}", library.version());
                    return Err(Error::bad_spec(field("architectures"), reason));
                }
            }
        }
        let mut context = library.context(self.default)?;
        for &token in &architectures[1..] {
            context.add_architecture(token).map_err(|source| match source.raw_os_error() {
                Some(FAULT_DOMAIN) => {
                    Error::bad_spec(field("architectures"), "little and big endian ones cannot be in one filter")
                }
                _ => Error::system("add an architecture to the system call filter", source),
            })?;
        }
        // Up to here a list is the shorter way, and the tree of libseccomp 2.5 is wrong where it has no rule at all.
        const TREE_FROM: usize = 32;
        if self.rules.iter().map(|rule| rule.names.len()).sum::<usize>() > TREE_FROM {
            context.use_tree();
        }

        let mut newest = newer::Newest::new(&architectures);
        for rule in &self.rules {
            for name in rule.names {
                let Some(text) = c_name(name) else { continue };
                let Some(number) = library.call(&text) else { continue };
                newest.note(library, &text);
                for set in &rule.conditions {
                    context
                        .add_rule(rule.action, number, set)
                        .map_err(|source| refused(rule.index, name, source, library))?;
                }
            }
        }

        let mut program = if denies(self.default) { newest.program() } else { Vec::new() };
        context.export(&mut program, MAX_PROGRAM)?;
        if program.len() > MAX_PROGRAM {
            let reason = format!("the rules need more than the {MAX_PROGRAM} instructions that the kernel takes");
            return Err(Error::bad_spec(field("syscalls"), reason));
        }
        Ok(Filter { program, flags: self.flags, listener: self.listener })
    }
}

/// Whether calls that a profile doesn't name are kept from happening. Tracers are for them to answer.
fn denies(default: u32) -> bool {
    !matches!(default & libc::SECCOMP_RET_ACTION_FULL, ALLOW | LOG | TRACE) && default != ERRNO | libc::ENOSYS as u32
}

fn action(name: &str, errno: Option<u32>, at: impl Fn() -> String) -> Result<u32> {
    let row = ACTIONS.iter().find(|row| row.0 == name).ok_or_else(|| unknown(at(), name))?;
    let most = match row.1 {
        ERRNO => MAX_ERRNO,
        TRACE => libc::SECCOMP_RET_DATA,
        _ if errno.is_some() => {
            return Err(Error::bad_spec(at(), format!("`{name}` has no error number")));
        }
        value => return Ok(value),
    };
    match errno.unwrap_or(libc::EPERM as u32) {
        errno if errno <= most => Ok(row.1 | errno),
        errno => Err(Error::bad_spec(at(), format!("the error number {errno} is above {most}"))),
    }
}

/// One set with all conditions, or a set for each where two are on the same argument; one empty set for no condition.
fn condition_sets(args: &[oci::SeccompArg], index: usize) -> Result<Vec<Vec<Condition>>> {
    let (mut seen, mut twice) = (0u32, false);
    let conditions = args
        .iter()
        .map(|arg| {
            if arg.index >= MAX_ARGUMENTS {
                let reason = format!("system calls have the arguments 0 to {}", MAX_ARGUMENTS - 1);
                return Err(Error::bad_spec(rule_field(index, "args"), reason));
            }
            let row = OPERATORS.iter().find(|row| row.0 == arg.op);
            let operator = row.ok_or_else(|| unknown(rule_field(index, "args"), &arg.op))?.1;
            twice |= seen & (1 << arg.index) != 0;
            seen |= 1 << arg.index;
            Ok(Condition::new(arg.index, operator, arg.value, arg.value_two))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(if twice { conditions.into_iter().map(|condition| vec![condition]).collect() } else { vec![conditions] })
}

fn flags(names: &[String], notifies: bool) -> Result<u32> {
    if names.is_empty() {
        return Ok(FLAG_SPEC_ALLOW | if notifies { FLAG_NEW_LISTENER } else { 0 });
    }
    let mut flags = 0;
    for name in names {
        flags |= FLAGS.iter().find(|row| row.0 == name).ok_or_else(|| unknown(field("flags"), name))?.1;
    }
    if notifies {
        flags |= FLAG_NEW_LISTENER;
        if flags & FLAG_TSYNC != 0 {
            // Both want to say something by the call's result.
            flags |= FLAG_TSYNC_ESRCH;
        }
    } else {
        // The kernel refuses it where nobody is ever waited for.
        flags &= !FLAG_WAIT_KILLABLE_RECV;
    }
    Ok(flags)
}

fn listener(seccomp: &oci::Seccomp, notifies: bool) -> Result<Option<Listener>> {
    let metadata = &seccomp.listener_metadata;
    match &seccomp.listener_path {
        // Engines may write an empty one for none.
        Some(path) if !path.as_os_str().is_empty() => {
            Ok(notifies.then(|| Listener { path: path.clone(), metadata: metadata.clone() }))
        }
        _ if notifies => Err(Error::bad_spec(field("listenerPath"), "missing: a rule has the action SCMP_ACT_NOTIFY")),
        _ if metadata.as_ref().is_some_and(|text| !text.is_empty()) => {
            Err(Error::bad_spec(field("listenerMetadata"), "is for a listener, but there is no listenerPath"))
        }
        _ => Ok(None),
    }
}

/// The name for the library; `None` for one that no system call can have.
fn c_name(name: &str) -> Option<std::ffi::CString> {
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    std::ffi::CString::new(name).ok()
}

fn refused(index: usize, name: &str, source: std::io::Error, library: &Library) -> Error {
    let reason = match source.raw_os_error() {
        Some(FAULT_EXISTS) => "another rule answers the same calls differently".to_owned(),
        Some(FAULT_INVALID) => {
            format!("libseccomp {} or this kernel does not know the action or a condition", library.version())
        }
        _ => source.to_string(),
    };
    Error::bad_spec(rule_field(index, "names"), format!("`{name}`: {reason}"))
}

fn within(length: usize, limit: usize, at: impl Fn() -> String) -> Result<()> {
    if length <= limit { Ok(()) } else { Err(Error::bad_spec(at(), format!("more than {limit} entries"))) }
}

fn unknown(at: String, name: &str) -> Error {
    // What is unknown may be of any length.
    let shown: String = name.chars().take(MAX_NAME).collect();
    Error::bad_spec(at, format!("unknown name `{shown}`"))
}

fn field(name: &str) -> String {
    format!("linux.seccomp.{name}")
}

fn rule_field(index: usize, name: &str) -> String {
    format!("linux.seccomp.syscalls[{index}].{name}")
}
