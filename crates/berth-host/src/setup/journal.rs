//! Writing a plan, and taking it back. See the module above for what lies where.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use super::Error;
use super::Plan;
use crate::doctor::Host;

/// The journal's file.
const NAME: &str = "journal.json";

/// What was done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Journal {
    files: Vec<Entry>,
    /// Folders that were made, in the order in which they were.
    folders: Vec<String>,
}

/// A file that was written.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    path: String,
    /// What it was; `None` where it was not there.
    before: Option<Before>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Before {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Writes what differs from the plan; gives the paths. `dir` is the folder of journals.
///
/// # Errors
/// What could not be written. What was written before is in the journal.
pub fn write(host: &Host, plan: &Plan, dir: &str) -> Result<Vec<String>, Error> {
    let dir = host.path(dir).join(plan.name);
    let mut journal = load(&dir)?;
    let mut written = Vec::new();
    let mut steps = Vec::new();
    for (path, mode) in &plan.folders {
        if !host.exists(path) {
            note_folders(host, path, &mut journal);
            steps.push((path.clone(), None, *mode));
        }
    }
    for change in &plan.changes {
        let target = real(host, &change.path);
        let found = read(&target).map_err(|source| Error::Write { path: change.path.clone(), source })?;
        if found.as_deref() == Some(change.content.as_bytes()) {
            continue;
        }
        let known = journal.files.iter().position(|entry| entry.path == change.path);
        let at = known.unwrap_or(journal.files.len());
        if known.is_none() {
            let before = fs::metadata(&target).ok().map(|meta| Before {
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
            });
            keep(&dir, at, "before", found.as_deref().unwrap_or_default())?;
            journal.files.push(Entry { path: change.path.clone(), before });
        }
        keep(&dir, at, "after", change.content.as_bytes())?;
        let parent = change.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        note_folders(host, parent, &mut journal);
        steps.push((change.path.clone(), Some(change.content.as_bytes()), change.mode));
    }
    if steps.is_empty() {
        return Ok(written);
    }
    save(&dir, &journal)?;
    for (path, content, mode) in steps {
        let done = match content {
            Some(content) => replace(&real(host, &path), content, None, mode),
            None => make_folder(&host.path(&path), mode),
        };
        done.map_err(|source| Error::Write { path: path.clone(), source })?;
        written.push(path);
    }
    Ok(written)
}

/// Restores every file that was written, and removes what was made; gives the paths.
///
/// # Errors
/// [`Error::Changed`] where somebody else changed a file since: nothing is done then.
pub fn undo(host: &Host, name: &str, dir: &str) -> Result<Vec<String>, Error> {
    let dir = host.path(dir).join(name);
    let journal = load(&dir)?;
    let mut changed = Vec::new();
    for (at, entry) in journal.files.iter().enumerate() {
        let now = read(&real(host, &entry.path)).map_err(|source| Error::Write { path: entry.path.clone(), source })?;
        let after = kept(&dir, at, "after")?;
        let before = entry.before.map(|_| kept(&dir, at, "before")).transpose()?;
        // A write that was interrupted has left some files as they were.
        if now.as_ref() != Some(&after) && now != before {
            changed.push(entry.path.clone());
        }
    }
    if !changed.is_empty() {
        return Err(Error::Changed(changed));
    }
    let mut restored = Vec::new();
    for (at, entry) in journal.files.iter().enumerate() {
        let target = real(host, &entry.path);
        let done = match entry.before {
            Some(before) => replace(&target, &kept(&dir, at, "before")?, Some(before), before.mode),
            None => absent(fs::remove_file(&target)),
        };
        done.map_err(|source| Error::Write { path: entry.path.clone(), source })?;
        restored.push(entry.path.clone());
    }
    for folder in journal.folders.iter().rev() {
        // Somebody may keep something else in it by now.
        let _ = fs::remove_dir(host.path(folder));
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|source| Error::Journal { path: dir.display().to_string(), source })?;
        // Journals of other plans may lie beside it.
        let _ = dir.parent().map(fs::remove_dir);
    }
    Ok(restored)
}

/// Behind links, so that a link stays one.
fn real(host: &Host, path: &str) -> PathBuf {
    let path = host.path(path);
    fs::canonicalize(&path).unwrap_or(path)
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Puts a file in the place of another by one rename. Permissions and owner are those of before, or those of the file that
/// is there, or `mode`.
fn replace(target: &Path, content: &[u8], before: Option<Before>, mode: u32) -> io::Result<()> {
    let parent = target.parent().ok_or_else(|| io::Error::other("it has no folder"))?;
    fs::create_dir_all(parent)?;
    let there =
        fs::metadata(target).ok().map(|meta| Before { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid() });
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let part = parent.join(format!(".{name}.berth-{}", std::process::id()));
    let result = (|| {
        let mut file = File::options().write(true).create_new(true).open(&part)?;
        file.write_all(content)?;
        let kept = before.or(there);
        if let Some(kept) = kept.filter(|_| rustix::process::geteuid().is_root()) {
            chown(&part, Some(kept.uid), Some(kept.gid))?;
        }
        fs::set_permissions(&part, fs::Permissions::from_mode(kept.map_or(mode, |kept| kept.mode)))?;
        file.sync_all()?;
        fs::rename(&part, target)
    })();
    if result.is_err() {
        // The error says what went wrong; this only tidies up.
        let _ = fs::remove_file(&part);
    }
    result
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Notes each folder on the way that is not there yet.
fn note_folders(host: &Host, path: &str, journal: &mut Journal) {
    let missing = Path::new(path).ancestors().filter(|folder| !host.path(&folder.to_string_lossy()).exists());
    let missing: Vec<String> = missing.map(|folder| folder.to_string_lossy().into_owned()).collect();
    for folder in missing.into_iter().rev() {
        if !journal.folders.contains(&folder) {
            journal.folders.push(folder);
        }
    }
}

fn load(dir: &Path) -> Result<Journal, Error> {
    let path = dir.join(NAME);
    let failed = |source| Error::Journal { path: path.display().to_string(), source };
    match read(&path).map_err(failed)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(io::Error::other(error))),
        None => Ok(Journal::default()),
    }
}

fn save(dir: &Path, journal: &Journal) -> Result<(), Error> {
    let path = dir.join(NAME);
    let bytes = serde_json::to_vec_pretty(journal).map_err(io::Error::other);
    let saved = bytes.and_then(|bytes| replace(&path, &bytes, None, 0o600));
    saved.map_err(|source| Error::Journal { path: path.display().to_string(), source })
}

/// Keeps a text beside the journal. What was there may hold secrets: only root reads it.
fn keep(dir: &Path, at: usize, kind: &str, content: &[u8]) -> Result<(), Error> {
    let path = dir.join(format!("{at}.{kind}"));
    replace(&path, content, None, 0o600).map_err(|source| Error::Journal { path: path.display().to_string(), source })
}

fn kept(dir: &Path, at: usize, kind: &str) -> Result<Vec<u8>, Error> {
    let path = dir.join(format!("{at}.{kind}"));
    fs::read(&path).map_err(|source| Error::Journal { path: path.display().to_string(), source })
}
