//! libseccomp, loaded when it is needed.
//!
//! Not linked: most containers of a cluster have no filter, and their start would pay for the library's loading; a machine
//! without it can run them too. The functions are those that libseccomp has had since 2.5 (2020), declared by its manual
//! pages.
#![allow(unsafe_code)] // The border to a C library: each block says why it is sound.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libc::{c_char, c_int, c_uint, c_void};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{Error, Result};

/// The library's file name; 2 is the version of its binary interface.
const NAME: &CStr = c"libseccomp.so.2";
/// `SCMP_FLTATR_CTL_OPTIMIZE`.
const OPTIMIZE: c_uint = 8;
/// A tree of numbers, for [`OPTIMIZE`].
const TREE: u32 = 2;
/// `__NR_SCMP_ERROR`: no such name.
const NO_CALL: c_int = -1;

/// The same rule is there with another action.
pub const FAULT_EXISTS: i32 = libc::EEXIST;
/// A value that the library or the kernel does not know.
pub const FAULT_INVALID: i32 = libc::EINVAL;
/// Of another byte order.
pub const FAULT_DOMAIN: i32 = libc::EDOM;

/// A condition on an argument: `struct scmp_arg_cmp`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    argument: c_uint,
    operator: c_uint,
    value: u64,
    value_two: u64,
}

impl Condition {
    /// `operator` is a value of `enum scmp_compare`.
    pub fn new(argument: u32, operator: u32, value: u64, value_two: u64) -> Condition {
        Condition { argument, operator, value, value_two }
    }
}

/// The library's version: `struct scmp_version`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    major: c_uint,
    minor: c_uint,
    micro: c_uint,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

type Filter = *mut c_void;
type GetVersion = unsafe extern "C" fn() -> *const Version;
type Init = unsafe extern "C" fn(u32) -> Filter;
type Release = unsafe extern "C" fn(Filter);
type NativeArch = unsafe extern "C" fn() -> u32;
type ResolveArch = unsafe extern "C" fn(*const c_char) -> u32;
type AddArch = unsafe extern "C" fn(Filter, u32) -> c_int;
type ResolveCall = unsafe extern "C" fn(*const c_char) -> c_int;
type ResolveCallOn = unsafe extern "C" fn(u32, *const c_char) -> c_int;
type SetAttribute = unsafe extern "C" fn(Filter, c_uint, u32) -> c_int;
type AddRule = unsafe extern "C" fn(Filter, u32, c_int, c_uint, *const Condition) -> c_int;
type Export = unsafe extern "C" fn(Filter, c_int) -> c_int;

/// The functions of the loaded library. It stays loaded.
#[derive(Debug, Clone, Copy)]
pub struct Library {
    version: GetVersion,
    init: Init,
    release: Release,
    arch_native: NativeArch,
    arch_resolve_name: ResolveArch,
    arch_add: AddArch,
    syscall_resolve_name: ResolveCall,
    syscall_resolve_name_arch: ResolveCallOn,
    attr_set: SetAttribute,
    rule_add_array: AddRule,
    export_bpf: Export,
}

impl Library {
    /// Loads it.
    ///
    /// # Errors
    /// [`Error::System`] with advice, if it is not installed or older than 2.5.
    pub fn load() -> Result<Library> {
        // SAFETY: the name is a string ended by NUL; the library's initialisation does nothing but set its own variables.
        let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: dlerror(3) returns null or a string that is valid until the next call of its family.
            let reason = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text)) };
            return Err(unusable(reason.map_or_else(String::new, |text| text.to_string_lossy().into_owned())));
        }
        /// Looks a function up and gives it its type.
        macro_rules! function {
            ($name:literal, $of:ty) => {{
                // SAFETY: the handle is that of a loaded library, and the name is a string ended by NUL.
                let address = unsafe { libc::dlsym(handle, $name.as_ptr()) };
                if address.is_null() {
                    return Err(unusable(format!("it has no {}", $name.to_string_lossy())));
                }
                // SAFETY: functions and data have pointers of one size here, it isn't null, and the type is that
                // of the function in the library's manual.
                unsafe { std::mem::transmute::<*mut c_void, $of>(address) }
            }};
        }
        Ok(Library {
            version: function!(c"seccomp_version", GetVersion),
            init: function!(c"seccomp_init", Init),
            release: function!(c"seccomp_release", Release),
            arch_native: function!(c"seccomp_arch_native", NativeArch),
            arch_resolve_name: function!(c"seccomp_arch_resolve_name", ResolveArch),
            arch_add: function!(c"seccomp_arch_add", AddArch),
            syscall_resolve_name: function!(c"seccomp_syscall_resolve_name", ResolveCall),
            syscall_resolve_name_arch: function!(c"seccomp_syscall_resolve_name_arch", ResolveCallOn),
            attr_set: function!(c"seccomp_attr_set", SetAttribute),
            rule_add_array: function!(c"seccomp_rule_add_array", AddRule),
            export_bpf: function!(c"seccomp_export_bpf", Export),
        })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        // SAFETY: the function takes nothing and returns a pointer to a constant of the library, which stays loaded.
        unsafe { *(self.version)() }
    }

    /// The file that it was loaded from.
    pub fn file(&self) -> Option<PathBuf> {
        // SAFETY: all-zero is valid for the structure of pointers, which the function fills in; the string that it points
        // at is the loader's, ended by NUL, and stays as long as the library.
        let name = unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            if libc::dladdr(self.version as *const c_void, &raw mut info) == 0 || info.dli_fname.is_null() {
                return None;
            }
            CStr::from_ptr(info.dli_fname)
        };
        Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
    }

    /// The token of the machine's own architecture.
    pub fn native_architecture(&self) -> u32 {
        // SAFETY: the function takes nothing.
        unsafe { (self.arch_native)() }
    }

    /// The token of an architecture.
    pub fn architecture(&self, name: &str) -> Option<u32> {
        let name = CString::new(name).ok()?;
        // SAFETY: a live string ended by NUL, which is only read.
        Some(unsafe { (self.arch_resolve_name)(name.as_ptr()) }).filter(|token| *token != 0)
    }

    /// The number by which rules name a call: the machine's own, or a negative one for calls of other architectures.
    pub fn call(&self, name: &CStr) -> Option<c_int> {
        // SAFETY: a live string ended by NUL, which is only read.
        Some(unsafe { (self.syscall_resolve_name)(name.as_ptr()) }).filter(|number| *number != NO_CALL)
    }

    /// The number that a call has on an architecture.
    pub fn call_on(&self, architecture: u32, name: &CStr) -> Option<u32> {
        // SAFETY: a live string ended by NUL, which is only read.
        u32::try_from(unsafe { (self.syscall_resolve_name_arch)(architecture, name.as_ptr()) }).ok()
    }

    /// A filter with this action for every call.
    pub fn context(&self, default: u32) -> Result<Context<'_>> {
        // SAFETY: the function takes an integer; null, its error, is looked for.
        let context = unsafe { (self.init)(default) };
        if context.is_null() {
            let reason = format!("libseccomp {} or this kernel does not know it", self.version());
            return Err(Error::bad_spec("linux.seccomp.defaultAction", reason));
        }
        Ok(Context { library: self, context })
    }
}

fn unusable(reason: String) -> Error {
    Error::System {
        action: "load libseccomp, which the configuration's system call filter needs".to_owned(),
        source: io::Error::other(reason),
        hint: Some("install the package libseccomp2 (libseccomp on other systems), version 2.5 or later".to_owned()),
    }
}

/// A filter that is being made.
#[derive(Debug)]
pub struct Context<'a> {
    library: &'a Library,
    /// From `seccomp_init`, not null, and nobody else's.
    context: *mut c_void,
}

impl Context<'_> {
    /// Makes the rules that follow hold for another architecture too.
    pub fn add_architecture(&mut self, token: u32) -> io::Result<()> {
        // SAFETY: the context is live and this one's own.
        answer(unsafe { (self.library.arch_add)(self.context, token) })
    }

    /// Asks for a program that searches in a tree. A library that has none makes the same program, only slower.
    pub fn use_tree(&mut self) {
        // SAFETY: the context is live and this one's own.
        unsafe { (self.library.attr_set)(self.context, OPTIMIZE, TREE) };
    }

    /// Adds a rule: all of the conditions must hold.
    pub fn add_rule(&mut self, action: u32, call: c_int, conditions: &[Condition]) -> io::Result<()> {
        let count = c_uint::try_from(conditions.len()).map_err(|_| io::Error::from_raw_os_error(FAULT_INVALID))?;
        // SAFETY: the context is live and this one's own; pointer and count are those of one live slice, which is copied.
        answer(unsafe { (self.library.rule_add_array)(self.context, action, call, count, conditions.as_ptr()) })
    }

    /// Appends the program, or more than `most` instructions of it where it is longer.
    pub fn export(&self, program: &mut Vec<libc::sock_filter>, most: usize) -> Result<()> {
        const ACTION: &str = "get the system call filter from libseccomp";
        const SIZE: usize = size_of::<libc::sock_filter>();
        let failed = |source: io::Error| Error::system(ACTION, source);
        let mut file = File::from(memfd_create(c"seccomp", MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?);
        let fd: RawFd = file.as_raw_fd();
        // SAFETY: the context is live and this one's own; the descriptor is open for the time of the call.
        answer(unsafe { (self.library.export_bpf)(self.context, fd) }).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let mut bytes = Vec::new();
        file.take((most as u64 + 1) * SIZE as u64).read_to_end(&mut bytes).map_err(failed)?;
        program.extend(instructions(&bytes));
        Ok(())
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is live, and not used after this.
        unsafe { (self.library.release)(self.context) };
    }
}

/// A program from its bytes.
pub fn instructions(bytes: &[u8]) -> impl Iterator<Item = libc::sock_filter> {
    bytes.chunks_exact(size_of::<libc::sock_filter>()).map(|chunk| libc::sock_filter {
        code: u16::from_ne_bytes([chunk[0], chunk[1]]),
        jt: chunk[2],
        jf: chunk[3],
        k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
    })
}

/// The library's functions return 0, or an error number negated.
fn answer(code: c_int) -> io::Result<()> {
    if code >= 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}
