//! What Slurm has for plugins, in Rust.
//!
//! The numbers and signatures are the same in all releases from 22.05 to 26.05; what is newer than 22.05 is not used.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

unsafe extern "C" {
    fn spank_context() -> c_int;
    fn spank_get_item(spank: *mut c_void, item: c_int, ...) -> c_int;
    fn spank_getenv(spank: *mut c_void, name: *const c_char, buffer: *mut c_char, length: c_int) -> c_int;
    fn spank_setenv(spank: *mut c_void, name: *const c_char, value: *const c_char, overwrite: c_int) -> c_int;
    fn spank_unsetenv(spank: *mut c_void, name: *const c_char) -> c_int;
    fn spank_option_register(spank: *mut c_void, option: *mut SpankOption) -> c_int;
    fn slurm_error(format: *const c_char, ...) -> c_int;
    fn slurm_info(format: *const c_char, ...);
}

/// An option, as Slurm keeps it. It keeps the pointers: what they point to lives as long as the program.
#[repr(C)]
pub struct SpankOption {
    /// Without `--`.
    pub name: *const c_char,
    /// Its value's name in the help.
    pub argument: *const c_char,
    /// Its line in the help.
    pub usage: *const c_char,
    /// 0 for no value, 1 for one.
    pub has_argument: c_int,
    /// Handed to the function.
    pub value: c_int,
    /// Called when the option is met; `remote` is 1 in slurmstepd.
    pub callback: extern "C" fn(c_int, *const c_char, c_int) -> c_int,
}

/// Items of [`Spank`], by Slurm's numbers.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum Item {
    /// uid_t of the job.
    Uid = 0,
    /// gid_t of the job.
    Gid = 1,
    /// u32.
    Job = 2,
    /// u32.
    Step = 3,
    /// u32.
    LocalTasks = 6,
}

/// Items without a simple type.
const ITEM_ARGV: c_int = 9;
const ITEM_ENV: c_int = 10;

/// Which program has loaded the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// `srun`.
    Local,
    /// `slurmstepd`.
    Remote,
    /// `sbatch`, `salloc`.
    Allocator,
    /// `slurmd`.
    Slurmd,
    /// Prolog and epilog.
    JobScript,
    /// None of them.
    Other,
}

/// Slurm's handle for one call of the plugin.
#[derive(Debug)]
pub struct Spank(*mut c_void);

impl Spank {
    /// # Safety
    /// `handle` is what Slurm has passed to the present call.
    pub unsafe fn new(handle: *mut c_void) -> Spank {
        Spank(handle)
    }

    /// Which program this is.
    pub fn context(&self) -> Context {
        // SAFETY: it takes nothing and reads a number.
        match unsafe { spank_context() } {
            1 => Context::Local,
            2 => Context::Remote,
            3 => Context::Allocator,
            4 => Context::Slurmd,
            5 => Context::JobScript,
            _ => Context::Other,
        }
    }

    /// A number of the job or step, if there is one here.
    pub fn number(&self, item: Item) -> Option<u32> {
        let mut value: u32 = 0;
        // SAFETY: each item of `Item` is written as 32 bits (uid_t, gid_t and uint32_t).
        let rc = unsafe { spank_get_item(self.0, item as c_int, &raw mut value) };
        (rc == 0).then_some(value)
    }

    /// The task's command.
    pub fn argv(&self) -> Vec<Vec<u8>> {
        let (mut count, mut words): (c_int, *const *const c_char) = (0, std::ptr::null());
        // SAFETY: S_JOB_ARGV takes an int and a char**.
        let rc = unsafe { spank_get_item(self.0, ITEM_ARGV, &raw mut count, &raw mut words) };
        if rc != 0 {
            return Vec::new();
        }
        // SAFETY: Slurm says how many strings there are.
        unsafe { strings(count, words) }.iter().map(|word| word.to_bytes().to_vec()).collect()
    }

    /// The job's environment, each variable as `NAME=VALUE`.
    pub fn environment(&self) -> Vec<CString> {
        let mut entries: *const *const c_char = std::ptr::null();
        // SAFETY: S_JOB_ENV takes a char***.
        let rc = unsafe { spank_get_item(self.0, ITEM_ENV, &raw mut entries) };
        let mut environment = Vec::new();
        if rc != 0 || entries.is_null() {
            return environment;
        }
        // SAFETY: the list ends with a null pointer, and each other one is a C string that Slurm owns during this call.
        unsafe {
            while !(*entries).is_null() {
                environment.push(CStr::from_ptr(*entries).to_owned());
                entries = entries.add(1);
            }
        }
        environment
    }

    /// A variable of the job.
    pub fn variable(&self, name: &str) -> Option<String> {
        let name = CString::new(name).ok()?;
        let mut buffer = vec![0u8; 64 << 10];
        // SAFETY: the buffer has the length that is told.
        let rc = unsafe { spank_getenv(self.0, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len() as c_int) };
        let end = buffer.iter().position(|&byte| byte == 0)?;
        (rc == 0).then(|| String::from_utf8_lossy(&buffer[..end]).into_owned())
    }

    /// Sets a variable of the job.
    pub fn set_variable(&self, name: &CStr, value: &CStr) {
        // SAFETY: two C strings, which Slurm copies.
        unsafe { spank_setenv(self.0, name.as_ptr(), value.as_ptr(), 1) };
    }

    /// Takes a variable of the job away.
    pub fn unset_variable(&self, name: &CStr) {
        // SAFETY: a C string.
        unsafe { spank_unsetenv(self.0, name.as_ptr()) };
    }

    /// Adds an option to the program.
    pub fn register(&self, option: &'static mut SpankOption) -> bool {
        // SAFETY: Slurm copies the structure and keeps its pointers, which live as long as the program.
        unsafe { spank_option_register(self.0, option) == 0 }
    }
}

/// Strings that C code counts.
///
/// # Safety
/// There are `count` of them, and they live as long as the answer is used.
pub unsafe fn strings<'a>(count: c_int, words: *const *const c_char) -> Vec<&'a CStr> {
    if words.is_null() {
        return Vec::new();
    }
    let at = |index: usize| {
        // SAFETY: the caller's promise.
        let word = unsafe { *words.add(index) };
        // SAFETY: a C string where it is none of the null pointers.
        (!word.is_null()).then(|| unsafe { CStr::from_ptr(word) })
    };
    (0..usize::try_from(count).unwrap_or(0)).filter_map(at).collect()
}

fn text(line: &str) -> CString {
    CString::new(line.replace('\0', " ")).unwrap_or_default()
}

/// An error: `srun: error: …` or `slurmstepd: error: …` on the person's terminal.
pub fn error(line: &str) {
    // SAFETY: the format takes one string.
    unsafe { slurm_error(c"%s".as_ptr(), text(line).as_ptr()) };
}

/// For the daemon's log.
pub fn info(line: &str) {
    // SAFETY: the format takes one string.
    unsafe { slurm_info(c"%s".as_ptr(), text(line).as_ptr()) };
}

/// Where the running Slurm has its configuration.
pub fn configuration_directory() -> std::path::PathBuf {
    let named = std::env::var_os("SLURM_CONF").map(std::path::PathBuf::from);
    let directory = named.as_deref().and_then(std::path::Path::parent).map(std::path::Path::to_path_buf);
    directory.unwrap_or_else(|| "/etc/slurm".into())
}

/// What Slurm looks for in the file: a plugin's name, its type, and the release that it is for.
///
/// A release loads only plugins that were made for it. It reads the number after it has loaded the file, and the file's
/// constructor has asked by then which release that is; what the plugin uses is the same in all of them.
mod identity {
    use super::{c_int, c_void};

    /// The plugin's name, which is part of the names of variables that carry its options.
    #[unsafe(no_mangle)]
    pub static plugin_name: [u8; 6] = *b"berth\0";
    /// Its kind.
    #[unsafe(no_mangle)]
    pub static plugin_type: [u8; 6] = *b"spank\0";
    /// The release: 0xMMmm00.
    #[unsafe(no_mangle)]
    pub static mut plugin_version: u32 = 0x16_05_00;
    /// The version of the interface between the two.
    #[unsafe(no_mangle)]
    pub static spank_plugin_version: u32 = 1;

    /// Run by the loader before anybody looks.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static CONSTRUCTOR: extern "C" fn() = find_release;

    extern "C" fn find_release() {
        // SAFETY: a lookup of a name in what is loaded.
        let found: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"slurm_api_version".as_ptr()) };
        if found.is_null() {
            return;
        }
        // SAFETY: `long slurm_api_version(void)` in every release.
        let version: unsafe extern "C" fn() -> std::ffi::c_long = unsafe { std::mem::transmute(found) };
        // SAFETY: it reads a constant.
        let version = unsafe { version() };
        if let Some(release) = release((version >> 16) as c_int & 0xff) {
            // SAFETY: constructors run before any other code of this file, on one thread.
            unsafe { plugin_version = release };
        }
    }

    /// The release of a version of libslurm's interface.
    fn release(interface: c_int) -> Option<u32> {
        let (year, month) = match interface {
            38 => (22, 5),
            39 => (23, 2),
            40 => (23, 11),
            41 => (24, 5),
            42 => (24, 11),
            43 => (25, 5),
            44 => (25, 11),
            45 => (26, 5),
            46 => (26, 11),
            _ => return None,
        };
        Some(year << 16 | month << 8)
    }
}
