//! Mount options as words, and what they mean to the kernel.

use super::sys::{MountAttr, attr};

/// What a word does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// A flag of mount(2) and the attribute of mount_setattr(2) that is the same thing.
    Set(libc::c_ulong, u64),
    /// The opposite of such a flag: takes back an earlier word and, where the kernel allows that, what the source of a bind
    /// mount forbids.
    Clear(libc::c_ulong, u64),
    /// An attribute for this mount and those below it.
    SetBelow(u64),
    /// The opposite.
    ClearBelow(u64),
    /// An access time setting, which takes the place of any other; true for the mounts below too.
    Atime(libc::c_ulong, u64, bool),
    /// A propagation type; true for those below too.
    Propagate(libc::c_ulong, bool),
    /// A bind mount; true with what is mounted below.
    Bind(bool),
    /// An id-mapped mount; true with what is mounted below.
    IdMapped(bool),
    /// A tmpfs starts with a copy of what is at its place.
    CopyUp,
    /// Says what is so anyway.
    Nothing,
}
use Effect::{Atime, Bind, Clear, ClearBelow, CopyUp, IdMapped, Nothing, Propagate, Set, SetBelow};

/// `MS_NOSYMFOLLOW`, which libc lacks.
const MS_NOSYMFOLLOW: libc::c_ulong = 256;

/// The flags that say when access times are written.
const ATIME_FLAGS: libc::c_ulong = libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;

/// All words, sorted.
#[rustfmt::skip]
const WORDS: &[(&str, Effect)] = &[
    ("async",         Clear(libc::MS_SYNCHRONOUS, 0)),
    ("atime",         Clear(libc::MS_NOATIME, attr::NOATIME)),
    ("bind",          Bind(false)),
    ("defaults",      Nothing),
    ("dev",           Clear(libc::MS_NODEV, attr::NODEV)),
    ("diratime",      Clear(libc::MS_NODIRATIME, attr::NODIRATIME)),
    ("dirsync",       Set(libc::MS_DIRSYNC, 0)),
    ("exec",          Clear(libc::MS_NOEXEC, attr::NOEXEC)),
    ("idmap",         IdMapped(false)),
    ("iversion",      Set(libc::MS_I_VERSION, 0)),
    ("lazytime",      Set(libc::MS_LAZYTIME, 0)),
    ("loud",          Clear(libc::MS_SILENT, 0)),
    ("mand",          Nothing),
    ("noatime",       Atime(libc::MS_NOATIME, attr::NOATIME, false)),
    ("nodev",         Set(libc::MS_NODEV, attr::NODEV)),
    ("nodiratime",    Set(libc::MS_NODIRATIME, attr::NODIRATIME)),
    ("noexec",        Set(libc::MS_NOEXEC, attr::NOEXEC)),
    ("noiversion",    Clear(libc::MS_I_VERSION, 0)),
    ("nolazytime",    Clear(libc::MS_LAZYTIME, 0)),
    ("nomand",        Nothing),
    ("norelatime",    Clear(libc::MS_RELATIME, 0)),
    ("nostrictatime", Clear(libc::MS_STRICTATIME, attr::STRICTATIME)),
    ("nosuid",        Set(libc::MS_NOSUID, attr::NOSUID)),
    ("nosymfollow",   Set(MS_NOSYMFOLLOW, attr::NOSYMFOLLOW)),
    ("notmpcopyup",   Nothing),
    ("private",       Propagate(libc::MS_PRIVATE, false)),
    ("ratime",        ClearBelow(attr::NOATIME)),
    ("rbind",         Bind(true)),
    ("rdev",          ClearBelow(attr::NODEV)),
    ("rdiratime",     ClearBelow(attr::NODIRATIME)),
    ("relatime",      Atime(libc::MS_RELATIME, 0, false)),
    ("rexec",         ClearBelow(attr::NOEXEC)),
    ("ridmap",        IdMapped(true)),
    ("rnoatime",      Atime(0, attr::NOATIME, true)),
    ("rnodev",        SetBelow(attr::NODEV)),
    ("rnodiratime",   SetBelow(attr::NODIRATIME)),
    ("rnoexec",       SetBelow(attr::NOEXEC)),
    ("rnorelatime",   Nothing),
    ("rnostrictatime", ClearBelow(attr::STRICTATIME)),
    ("rnosuid",       SetBelow(attr::NOSUID)),
    ("rnosymfollow",  SetBelow(attr::NOSYMFOLLOW)),
    ("ro",            Set(libc::MS_RDONLY, attr::RDONLY)),
    ("rprivate",      Propagate(libc::MS_PRIVATE, true)),
    ("rrelatime",     Atime(0, 0, true)),
    ("rro",           SetBelow(attr::RDONLY)),
    ("rrw",           ClearBelow(attr::RDONLY)),
    ("rshared",       Propagate(libc::MS_SHARED, true)),
    ("rslave",        Propagate(libc::MS_SLAVE, true)),
    ("rstrictatime",  Atime(0, attr::STRICTATIME, true)),
    ("rsuid",         ClearBelow(attr::NOSUID)),
    ("rsymfollow",    ClearBelow(attr::NOSYMFOLLOW)),
    ("runbindable",   Propagate(libc::MS_UNBINDABLE, true)),
    ("rw",            Clear(libc::MS_RDONLY, attr::RDONLY)),
    ("shared",        Propagate(libc::MS_SHARED, false)),
    ("silent",        Set(libc::MS_SILENT, 0)),
    ("slave",         Propagate(libc::MS_SLAVE, false)),
    ("strictatime",   Atime(libc::MS_STRICTATIME, attr::STRICTATIME, false)),
    ("suid",          Clear(libc::MS_NOSUID, attr::NOSUID)),
    ("symfollow",     Clear(MS_NOSYMFOLLOW, attr::NOSYMFOLLOW)),
    ("sync",          Set(libc::MS_SYNCHRONOUS, 0)),
    ("tmpcopyup",     CopyUp),
    ("unbindable",    Propagate(libc::MS_UNBINDABLE, false)),
];

/// The words themselves, sorted.
pub(crate) fn words() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|row| row.0)
}

/// The options of a mount, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `Some(true)` for `rbind`, `Some(false)` for `bind`.
    pub bind: Option<bool>,
    /// Flags for mount(2).
    pub flags: libc::c_ulong,
    /// Attributes of this mount alone.
    pub here: u64,
    /// Attributes that this mount shall not have.
    pub not_here: u64,
    /// Attributes of this mount and those below.
    pub below: u64,
    /// Attributes that none of them shall have.
    pub not_below: u64,
    /// `Some(true)` for `ridmap`, `Some(false)` for `idmap`.
    pub id_mapped: Option<bool>,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// Propagation type (`MS_*`) and whether it holds for those below too.
    pub propagation: Option<(libc::c_ulong, bool)>,
    /// Words that are not in the table: for the file system itself.
    pub data: Vec<String>,
}

impl Options {
    /// Understands the words, a later one winning over an earlier.
    pub fn parse<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Options {
        let mut options = Options::default();
        for word in words {
            let word = word.as_ref();
            let Ok(row) = WORDS.binary_search_by(|(name, _)| (*name).cmp(word)) else {
                options.data.push(word.to_owned());
                continue;
            };
            match WORDS[row].1 {
                Set(flag, attribute) => {
                    options.flags |= flag;
                    options.here |= attribute;
                    options.not_here &= !attribute;
                }
                Clear(flag, attribute) => {
                    options.flags &= !flag;
                    options.here &= !attribute;
                    options.not_here |= attribute;
                }
                SetBelow(attribute) => {
                    options.below |= attribute;
                    options.not_below &= !attribute;
                }
                ClearBelow(attribute) => {
                    options.below &= !attribute;
                    options.not_below |= attribute;
                }
                Atime(flag, attribute, false) => {
                    options.flags = options.flags & !ATIME_FLAGS | flag;
                    options.here = options.here & !attr::ATIME | attribute;
                    options.not_here |= attr::ATIME;
                }
                Atime(_, attribute, true) => {
                    options.below = options.below & !attr::ATIME | attribute;
                    options.not_below |= attr::ATIME;
                }
                IdMapped(recursive) => options.id_mapped = Some(recursive),
                CopyUp => options.copy_up = true,
                Propagate(kind, below) => options.propagation = Some((kind, below)),
                Bind(recursive) => options.bind = Some(recursive),
                Nothing => {}
            }
        }
        options
    }

    /// The calls of mount_setattr(2) that put the options in force: at most one for the tree and one for its top.
    pub fn changes(&self) -> Vec<(bool, MountAttr)> {
        let mut changes = Vec::new();
        for recursive in [true, false] {
            let (set, not) = if recursive { (self.below, self.not_below) } else { (self.here, self.not_here) };
            let propagation = match self.propagation {
                Some((kind, below)) if below == recursive => kind,
                _ => 0,
            };
            if set != 0 || not != 0 || propagation != 0 {
                // The access time setting is a value: the kernel wants all its bits cleared where one is set.
                let clear = if (set | not) & attr::ATIME != 0 { not | attr::ATIME } else { not };
                changes.push((recursive, MountAttr { set, clear, propagation, userns_fd: 0 }));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(WORDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_later_word_wins() {
        assert_eq!(Options::parse(["ro", "rw"]).here, 0);
        assert_eq!(Options::parse(["rw", "ro"]).here, attr::RDONLY);
        assert_eq!(Options::parse(["ro", "rw", "ro"]).flags, libc::MS_RDONLY);
    }

    #[test]
    fn unknown_words_are_for_the_file_system() {
        let options = Options::parse(["nosuid", "size=64m", "mode=1777"]);
        assert_eq!(options.data, ["size=64m", "mode=1777"]);
        assert_eq!(options.flags, libc::MS_NOSUID);
    }

    #[test]
    fn recursive_and_plain_attributes_become_two_changes() {
        let options = Options::parse(["rbind", "rro", "nosuid", "rslave"]);
        assert_eq!(options.bind, Some(true));
        let tree = MountAttr { set: attr::RDONLY, clear: 0, propagation: libc::MS_SLAVE, userns_fd: 0 };
        let top = MountAttr { set: attr::NOSUID, ..MountAttr::default() };
        assert_eq!(options.changes(), [(true, tree), (false, top)]);
        assert!(Options::parse(["rbind"]).changes().is_empty());
    }

    #[test]
    fn access_time_settings_clear_the_others() {
        assert_eq!(Options::parse(["noatime"]).changes()[0].1.clear, attr::ATIME);
    }
}
