//! Which names newer layers have, and what they hide of older ones.
//!
//! Layers are numbered from the newest, 0. What a layer hides it hides from those with larger numbers only: in its own
//! layer, a deleted name and a new one of the same path may come in either order.

use std::collections::HashMap;

/// Whether an entry counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Shown,
    Hidden,
}

/// Names of the layers so far.
#[derive(Debug)]
pub(super) struct Index {
    places: Vec<Place>,
    /// See [`Index::take_implied`].
    implied: Option<usize>,
}

/// One name. Of several layers that say something, the newest is noted: it comes first.
#[derive(Debug, Default)]
struct Place {
    children: HashMap<Box<[u8]>, usize>,
    /// The layer in which it is something other than a directory, or deleted.
    closed: Option<u32>,
    /// `closed` stands for a deletion.
    deleted: bool,
    /// The layer in which it is a directory.
    directory: Option<u32>,
    /// The oldest layer so far in which it is a directory.
    last: Option<u32>,
    /// The layer that tells the directory's attributes.
    described: Option<u32>,
    /// The layer in which the directory hides what is below it.
    opaque: Option<u32>,
}

const ROOT: usize = 0;
const FILE_ABOVE: &str = "a file stands where a directory must be";
const BOTH: &str = "the layer has it as a directory first and as something else later";

impl Index {
    pub fn new() -> Index {
        Index { places: vec![Place { directory: Some(0), ..Place::default() }], implied: None }
    }

    /// A directory's entry. Hidden means that its attributes do not count; it may exist all the same.
    pub fn directory(&mut self, path: &[u8], layer: u32) -> Result<Fate, &'static str> {
        let Some(at) = self.reach(path, layer, true)? else { return Ok(Fate::Hidden) };
        self.open(at, layer, true)?;
        let place = &mut self.places[at];
        let described = *place.described.get_or_insert(layer);
        Ok(if described == layer { Fate::Shown } else { Fate::Hidden })
    }

    /// An entry that is no directory.
    pub fn other(&mut self, path: &[u8], layer: u32) -> Result<Fate, &'static str> {
        let Some(at) = self.reach(path, layer, true)? else { return Ok(Fate::Hidden) };
        let place = &mut self.places[at];
        if place.last == Some(layer) {
            // What was in the directory has gone on already.
            return Err(BOTH);
        }
        if place.directory.is_some_and(|newer| newer < layer) {
            // A directory of a newer layer takes its place, and what even older layers have below that name is not seen.
            place.opaque.get_or_insert(layer);
            place.described.get_or_insert(layer);
            return Ok(Fate::Hidden);
        }
        (place.closed, place.deleted) = (Some(layer), false);
        Ok(Fate::Shown)
    }

    /// A deleted name.
    pub fn whiteout(&mut self, path: &[u8], layer: u32) -> Result<(), &'static str> {
        let Some(at) = self.reach(path, layer, false)? else { return Ok(()) };
        let place = &mut self.places[at];
        if place.directory.is_some() {
            place.opaque.get_or_insert(layer);
            place.described.get_or_insert(layer);
        } else if place.closed.is_none() {
            (place.closed, place.deleted) = (Some(layer), true);
        }
        Ok(())
    }

    /// A directory that hides what older layers have in it. Hidden: so is the directory itself.
    pub fn opaque(&mut self, path: &[u8], layer: u32) -> Result<Fate, &'static str> {
        let Some(at) = self.reach(path, layer, true)? else { return Ok(Fate::Hidden) };
        self.open(at, layer, false)?;
        self.places[at].opaque.get_or_insert(layer);
        Ok(Fate::Shown)
    }

    /// How much of the last path is a directory only because of that path, if any of it is. Where the path itself is hidden,
    /// these directories exist all the same.
    pub fn take_implied(&mut self) -> Option<usize> {
        self.implied.take()
    }

    /// Whether a path is something other than a directory in this very layer.
    pub fn is_of(&self, path: &[u8], layer: u32) -> bool {
        self.find(path).is_some_and(|place| place.closed == Some(layer) && !place.deleted)
    }

    /// Whether a path is a directory in this very layer or a newer one.
    pub fn is_directory(&self, path: &[u8], layer: u32) -> bool {
        self.find(path).is_some_and(|place| place.directory.is_some_and(|newer| newer <= layer))
    }

    fn find(&self, path: &[u8]) -> Option<&Place> {
        let mut at = ROOT;
        for name in names(path) {
            at = *self.places[at].children.get(name)?;
        }
        Some(&self.places[at])
    }

    /// Goes to a path; `None` if a newer layer hides it. `make`: what leads there becomes directories. What only deletes
    /// makes none.
    fn reach(&mut self, path: &[u8], layer: u32, make: bool) -> Result<Option<usize>, &'static str> {
        self.implied = None;
        let (mut at, mut end) = (ROOT, 0);
        let mut names = names(path).peekable();
        while let Some(name) = names.next() {
            if self.places[at].opaque.is_some_and(|newer| newer < layer) {
                return Ok(None);
            }
            let known = self.places[at].children.get(name).copied();
            at = match known {
                Some(child) => child,
                None => {
                    self.places.push(Place::default());
                    let child = self.places.len() - 1;
                    self.places[at].children.insert(name.into(), child);
                    child
                }
            };
            if self.places[at].closed.is_some_and(|newer| newer < layer) && self.places[at].directory.is_none() {
                return Ok(None);
            }
            end += name.len();
            if make && names.peek().is_some() {
                if self.places[at].directory.is_none() {
                    self.implied = Some(end);
                }
                self.open(at, layer, false)?;
            }
            end += 1;
        }
        Ok(Some(at))
    }

    /// Makes a place a directory, if it is none. `replace`: even if a file of the same layer stands there.
    fn open(&mut self, at: usize, layer: u32, replace: bool) -> Result<(), &'static str> {
        let place = &mut self.places[at];
        if place.closed == Some(layer) && place.directory.is_none() {
            if !place.deleted && !replace {
                return Err(FILE_ABOVE);
            }
            // The layer both has or deletes the name and makes a directory of it: older ones have no say in that.
            place.opaque.get_or_insert(layer);
            place.described.get_or_insert(layer);
            (place.closed, place.deleted) = (None, false);
        }
        place.directory.get_or_insert(layer);
        place.last = Some(layer);
        Ok(())
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_layer_hides_what_it_replaces() {
        let mut index = Index::new();
        assert_eq!(index.other(b"a/file", 0), Ok(Fate::Shown));
        assert_eq!(index.directory(b"dir", 0), Ok(Fate::Shown));
        assert_eq!(index.other(b"a/file", 1), Ok(Fate::Hidden));
        assert_eq!(index.other(b"a/file/below", 1), Ok(Fate::Hidden));
        assert_eq!(index.other(b"dir", 1), Ok(Fate::Hidden));
        // The directory of layer 0 does not let layer 2 through the file of layer 1.
        assert_eq!(index.other(b"dir/below", 2), Ok(Fate::Hidden));
        assert_eq!(index.other(b"a/other", 1), Ok(Fate::Shown));
        assert_eq!(index.directory(b"a", 1), Ok(Fate::Shown), "its attributes were not told yet");
        assert_eq!(index.directory(b"a", 2), Ok(Fate::Hidden));
    }

    #[test]
    fn deletions_hold_for_older_layers_only() {
        let mut index = Index::new();
        index.whiteout(b"gone", 0).unwrap();
        index.whiteout(b"again", 0).unwrap();
        assert_eq!(index.other(b"again", 0), Ok(Fate::Shown));
        index.opaque(b"dir", 0).unwrap();
        assert_eq!(index.other(b"dir/new", 0), Ok(Fate::Shown));
        for path in [b"gone".as_slice(), b"gone/below", b"again", b"dir/old", b"dir/new"] {
            assert_eq!(index.other(path, 1), Ok(Fate::Hidden), "{}", path.escape_ascii());
        }
        assert_eq!(index.directory(b"dir", 1), Ok(Fate::Shown), "the directory itself goes on");
    }

    #[test]
    fn a_directory_in_the_place_of_a_deleted_name_is_opaque() {
        let mut index = Index::new();
        index.whiteout(b"x", 0).unwrap();
        assert_eq!(index.directory(b"x", 0), Ok(Fate::Shown));
        assert_eq!(index.other(b"x/old", 1), Ok(Fate::Hidden));
        let mut index = Index::new();
        assert_eq!(index.directory(b"x", 0), Ok(Fate::Shown));
        index.whiteout(b"x", 0).unwrap();
        assert_eq!(index.other(b"x/old", 1), Ok(Fate::Hidden));
    }
}
