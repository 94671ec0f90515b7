//! The locks of the shadow tools, so that useradd(8), usermod(8) and we never write at the same time.
//!
//! ```text
//! /etc/.pwd.lock      a record lock of fcntl(2), as lckpwdf(3) takes it; for the system's own files only
//! FILE.PID            our process id as text; linked to
//! FILE.lock           the lock: whoever makes the link has it. One of a process that is gone is removed
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::Pid;

/// As long as the shadow tools wait.
const WAIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// The lock of one file, released when dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Its closing releases the record lock.
    _accounts: Option<File>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum LockError {
    #[error("cannot make the lock {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is held by process {pid} since more than {} seconds", path.display(), WAIT.as_secs())]
    Held { path: PathBuf, pid: i32 },
    #[error("{} is held by another program since more than {} seconds", path.display(), WAIT.as_secs())]
    AccountsHeld { path: PathBuf },
    #[error("{} holds no process id: if nothing is changing accounts just now, remove it", path.display())]
    Garbled { path: PathBuf },
}

impl Lock {
    /// Waits for the lock of a file. With `accounts`, the lock of all account files in the same directory is taken first.
    ///
    /// # Errors
    /// The lock cannot be made, or is held for too long.
    pub fn take(file: &Path, accounts: bool) -> Result<Lock, LockError> {
        let deadline = Instant::now() + WAIT;
        let accounts = if accounts { Some(lock_accounts(&file.with_file_name(".pwd.lock"), deadline)?) } else { None };
        let path = with_suffix(file, ".lock");
        let own = with_suffix(file, &format!(".{}", std::process::id()));
        loop {
            match try_link(&own, &path)? {
                None => return Ok(Lock { path, _accounts: accounts }),
                Some(pid) if Instant::now() > deadline => return Err(LockError::Held { path, pid }),
                Some(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nothing can be done about a lock that cannot be removed; the next who wants it sees that its process is gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// A path with something appended to its last part.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

fn lock_accounts(path: &Path, deadline: Instant) -> Result<File, LockError> {
    let failed = |source: io::Error| LockError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    loop {
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) if Instant::now() > deadline => {
                return Err(LockError::AccountsHeld { path: path.to_owned() });
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => std::thread::sleep(PAUSE),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// One try: nothing if the lock is ours now, or else who has it.
fn try_link(own: &Path, lock: &Path) -> Result<Option<i32>, LockError> {
    let failed = |path: &Path, source: io::Error| LockError::Io { path: path.to_owned(), source };
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(own)?;
        // The tools write the end of the string, too.
        file.write_all(format!("{}\0", std::process::id()).as_bytes())?;
        file.sync_data()
    };
    let result = write().map_err(|source| failed(own, source)).and_then(|()| {
        for _ in 0..2 {
            match fs::hard_link(own, lock) {
                // Over NFS the answer may be lost, but the number of links is not.
                Ok(()) if fs::metadata(own).is_ok_and(|file| file.nlink() == 2) => return Ok(None),
                Ok(()) => return Err(failed(lock, io::Error::other("the file system makes no hard links"))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(lock, error)),
            }
            match holder(lock)? {
                Some(pid) if is_alive(pid) => return Ok(Some(pid)),
                // Its process is gone (or it was removed just now): the lock goes the same way.
                Some(_) => match fs::remove_file(lock) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(lock, error)),
                    _ => {}
                },
                None => {}
            }
        }
        // Somebody was faster, twice.
        Ok(Some(holder(lock)?.unwrap_or(0)))
    });
    let _ = fs::remove_file(own);
    result
}

/// The process that a lock names; nothing if there is no lock any more.
fn holder(lock: &Path) -> Result<Option<i32>, LockError> {
    let mut text = String::new();
    match File::open(lock).and_then(|file| file.take(32).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LockError::Io { path: lock.to_owned(), source }),
    }
    let pid = text.trim_end_matches(['\0', '\n']).parse().ok().filter(|pid| *pid > 0);
    pid.map(Some).ok_or_else(|| LockError::Garbled { path: lock.to_owned() })
}

fn is_alive(pid: i32) -> bool {
    // A process of somebody else's is one, too.
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_the_process_id_and_is_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("subuid");
        let lock = Lock::take(&file, true).unwrap();
        let text = fs::read(dir.path().join("subuid.lock")).unwrap();
        assert_eq!(text, format!("{}\0", std::process::id()).into_bytes());
        drop(lock);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".pwd.lock"]);
    }

    #[test]
    fn the_lock_of_a_living_process_is_respected_and_that_of_a_dead_one_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (file, lock) = (dir.path().join("subuid"), dir.path().join("subuid.lock"));
        let own = dir.path().join("subuid.own");
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(&lock, child.id().to_string()).unwrap();
        assert_eq!(try_link(&own, &lock).unwrap(), Some(child.id() as i32));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(try_link(&own, &lock).unwrap(), None);
        assert!(!own.exists());
        fs::remove_file(&lock).unwrap();
        drop(Lock::take(&file, false).unwrap());
        assert!(!lock.exists());
    }

    #[test]
    fn a_lock_without_a_process_id_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("subuid.lock"), "").unwrap();
        assert!(matches!(Lock::take(&dir.path().join("subuid"), false), Err(LockError::Garbled { .. })));
    }
}
