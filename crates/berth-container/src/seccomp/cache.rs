//! Programs kept for the next container with the same rules.
//!
//! An engine's default profile takes libseccomp some 15 ms, several times what the rest of a start takes, and every container
//! of the engine has the same. A program is used again only if everything that it was made from is the same, byte by byte:
//! no digest decides, so nobody can make rules that are taken for others.
//!
//! ```text
//! DIR/SLOT     rules (as JSON), kernel, our version │ the library's file: path, device, inode, size, times │ program
//! ```
//!
//! The slot is computed from the rules; two that meet there push each other out, which bounds the directory. Only a
//! directory and files are believed that belong to the user and nobody else may write. Whatever is wrong with them, the
//! rules are compiled: nothing here is an error.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::sock_filter;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat};

use super::MAX_PROGRAM;
use crate::oci;

/// Changes with what is in the files.
const FORMAT: &str = concat!("berth seccomp 1 ", env!("CARGO_PKG_VERSION"), "\n");
const SLOTS: u64 = 64;
/// A profile with its program has some 40 KB.
const MAX_FILE: usize = 1 << 20;
/// Path, and five numbers.
const MAX_LIBRARY: usize = libc::PATH_MAX as usize + 5 * 8;
const INSTRUCTION: usize = size_of::<sock_filter>();

/// A place for the program of these rules.
#[derive(Debug)]
pub struct Slot {
    dir: OwnedFd,
    name: String,
    key: Vec<u8>,
}

impl Slot {
    /// The place in this directory, which is made.
    pub fn of(rules: &oci::Seccomp, dir: &Path) -> Option<Slot> {
        let system = rustix::system::uname();
        let mut key = FORMAT.as_bytes().to_vec();
        for part in [system.release(), system.version(), system.machine()] {
            key.extend(part.to_bytes_with_nul());
        }
        serde_json::to_writer(&mut key, rules).ok()?;
        if key.len() > MAX_FILE / 2 {
            return None;
        }
        let name = format!("{:02x}", hash(&key) % SLOTS);
        let open = || openat(CWD, dir, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let dir = match open() {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(CWD, dir, Mode::RWXU).ok()?;
                open().ok()?
            }
            other => other.ok()?,
        };
        is_ours(&dir, FileType::Directory).then_some(Slot { dir, name, key })
    }

    /// The program, if it is there.
    pub fn read(&self) -> Option<Vec<sock_filter>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.dir, &self.name, flags, Mode::empty()).ok()?;
        if !is_ours(&file, FileType::RegularFile) {
            return None;
        }
        let mut text = Vec::with_capacity(self.key.len() + MAX_FILE / 16);
        File::from(file).take(MAX_FILE as u64 + 1).read_to_end(&mut text).ok()?;
        let (key, rest) = part(&text, MAX_FILE)?;
        let (library, rest) = part(rest, MAX_LIBRARY)?;
        let (program, rest) = part(rest, MAX_PROGRAM * INSTRUCTION)?;
        let whole = rest.is_empty() && !program.is_empty() && program.len().is_multiple_of(INSTRUCTION);
        if !whole || key != self.key || !is_there(library) {
            return None;
        }
        Some(super::library::instructions(program).collect())
    }

    /// Keeps the program, made by the library in this file.
    pub fn write(&self, program: &[sock_filter], library: &Path) {
        let Some(library) = identity(library) else { return };
        let instructions = program.iter().flat_map(|instruction| {
            let [c0, c1] = instruction.code.to_ne_bytes();
            let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
            [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
        });
        let mut text = Vec::new();
        for part in [&self.key, &library, &instructions.collect()] {
            text.extend((part.len() as u64).to_ne_bytes());
            text.extend(part);
        }
        // Another process may do the same; a name of its own, which one that was killed may have left.
        let name = format!("{}.{}", self.name, std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let _ = unlinkat(&self.dir, &name, AtFlags::empty());
        let written = openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(std::io::Error::from)
            .and_then(|file| File::from(file).write_all(&text))
            .and_then(|()| Ok(renameat(&self.dir, &name, &self.dir, &self.name)?));
        if written.is_err() {
            let _ = unlinkat(&self.dir, &name, AtFlags::empty());
        }
    }
}

/// Splits a part off that has its length before it.
fn part(text: &[u8], most: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = text.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_ne_bytes(*length)).ok().filter(|length| *length <= most)?;
    rest.split_at_checked(length)
}

/// Whether nobody else can have written it.
fn is_ours(file: &impl AsFd, kind: FileType) -> bool {
    fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == kind
            && stat.st_uid == rustix::process::geteuid().as_raw()
            && stat.st_mode & 0o022 == 0
    })
}

/// A file as it is now: an update of the library changes it.
fn identity(path: &Path) -> Option<Vec<u8>> {
    let stat = rustix::fs::stat(path).ok()?;
    let mut identity = path.as_os_str().as_bytes().to_vec();
    let changed = stat.st_ctime as u64;
    for number in [stat.st_dev as u64, stat.st_ino as u64, stat.st_size as u64, stat.st_mtime as u64, changed] {
        identity.extend(number.to_ne_bytes());
    }
    (identity.len() <= MAX_LIBRARY).then_some(identity)
}

fn is_there(library: &[u8]) -> bool {
    let Some(length) = library.len().checked_sub(5 * 8) else { return false };
    let path = Path::new(std::ffi::OsStr::from_bytes(&library[..length]));
    path.is_absolute() && identity(path).as_deref() == Some(library)
}

/// FNV-1a: only to spread over the slots.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::oci::{Seccomp, SeccompRule};
    use crate::seccomp::compile_kept;

    fn rules(name: &str) -> Seccomp {
        let rule =
            SeccompRule { names: vec![name.to_owned()], action: "SCMP_ACT_ERRNO".to_owned(), ..SeccompRule::default() };
        Seccomp { default_action: "SCMP_ACT_ALLOW".to_owned(), syscalls: vec![rule], ..Seccomp::default() }
    }

    fn program(rules: &Seccomp, dir: &Path) -> Vec<u32> {
        compile_kept(rules, Some(dir)).unwrap().unwrap().program.iter().map(|instruction| instruction.k).collect()
    }

    /// Puts a program into the file that could not have come from the rules; true if it is used.
    fn is_used(rules: &Seccomp, dir: &Path) -> bool {
        let marked = sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 };
        let library = super::super::Library::load().unwrap().file().unwrap();
        Slot::of(rules, dir).unwrap().write(&[marked], &library);
        program(rules, dir) == [marked.k]
    }

    #[test]
    fn a_program_is_kept_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("kept");
        let first = program(&rules("mkdir"), &dir);
        let slot = Slot::of(&rules("mkdir"), &dir).unwrap();
        let kept: Vec<u32> = slot.read().expect("it is kept").iter().map(|instruction| instruction.k).collect();
        assert_eq!(first, kept);
        assert_eq!(program(&rules("mkdir"), &dir), first);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert!(is_used(&rules("mkdir"), &dir));
    }

    #[test]
    fn other_rules_in_the_same_slot_are_not_taken_for_these() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::of(&rules("mkdir"), dir.path()).unwrap();
        program(&rules("rmdir"), dir.path());
        let other = Slot::of(&rules("rmdir"), dir.path()).unwrap();
        std::fs::rename(dir.path().join(&other.name), dir.path().join(&slot.name)).unwrap();
        assert!(slot.read().is_none());
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_used(&rules("mkdir"), dir.path()));
        let file = dir.path().join(Slot::of(&rules("mkdir"), dir.path()).unwrap().name);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o620)).unwrap();
        assert!(program(&rules("mkdir"), dir.path()).len() > 1);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Slot::of(&rules("mkdir"), dir.path()).is_none());
        let linked = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), linked.path().join("link")).unwrap();
        assert!(Slot::of(&rules("mkdir"), &linked.path().join("link")).is_none());
    }

    #[test]
    fn broken_files_and_another_library_mean_that_the_rules_are_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let good = program(&rules("mkdir"), dir.path());
        let slot = Slot::of(&rules("mkdir"), dir.path()).unwrap();
        let file = dir.path().join(&slot.name);
        let text = std::fs::read(&file).unwrap();
        for length in 0..text.len() {
            std::fs::write(&file, &text[..length]).unwrap();
            assert!(slot.read().is_none(), "{length} bytes");
        }
        for at in (0..slot.key.len() + 80).step_by(7) {
            let mut text = text.clone();
            text[at] ^= 0xff;
            std::fs::write(&file, &text).unwrap();
            assert!(slot.read().is_none(), "byte {at}");
        }
        assert_eq!(program(&rules("mkdir"), dir.path()), good);

        let library = dir.path().join("library.so");
        std::fs::write(&library, "1").unwrap();
        slot.write(&[sock_filter { code: 6, jt: 0, jf: 0, k: 0 }], &library);
        assert!(slot.read().is_some());
        std::fs::write(&library, "22").unwrap();
        assert!(slot.read().is_none());
    }
}
