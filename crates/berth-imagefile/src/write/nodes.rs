//! What a writer keeps of the tree until its end: names and attributes, no contents.

use std::collections::BTreeMap;
use std::collections::HashMap;

use super::Metadata;
use crate::error::Error;
use crate::error::Result;
use crate::error::printable;
use crate::tree::Kind;
use crate::tree::Xattr;

/// Longest name, as Linux has it.
const LONGEST_NAME: usize = 255;
/// Most directories above a name. Linux paths end at 4095 bytes, but can be continued.
const DEEPEST: usize = 2048;
/// Longest target of a symbolic link.
const LONGEST_TARGET: usize = 4095;

/// Number of a node.
pub(crate) type NodeId = usize;

/// The root's number.
pub(crate) const ROOT: NodeId = 0;

/// A node. `F` is what a format keeps of a file.
#[derive(Debug)]
pub(crate) struct Node<F> {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    /// Number of its set of xattrs; 0 is the empty set.
    pub xattrs: u32,
    /// Names that it has. A directory's are counted at the end.
    pub links: u32,
    pub body: Body<F>,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Body<F> {
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    File(F),
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

impl<F> Body<F> {
    pub fn kind(&self) -> Kind {
        match self {
            Body::Directory(_) => Kind::Directory,
            Body::File(_) => Kind::File,
            Body::Symlink(_) => Kind::Symlink,
            Body::CharDevice(..) => Kind::CharDevice,
            Body::BlockDevice(..) => Kind::BlockDevice,
            Body::Fifo => Kind::Fifo,
            Body::Socket => Kind::Socket,
        }
    }
}

/// The tree that is being written.
#[derive(Debug)]
pub(crate) struct Nodes<F> {
    nodes: Vec<Node<F>>,
    sets: Vec<Vec<Xattr>>,
    set_numbers: HashMap<Vec<Xattr>, u32>,
}

impl<F> Nodes<F> {
    /// A tree with nothing but its root.
    pub fn new() -> Nodes<F> {
        let mut nodes =
            Nodes { nodes: Vec::new(), sets: vec![Vec::new()], set_numbers: HashMap::from([(Vec::new(), 0)]) };
        nodes.push(&implied_directory(), Body::Directory(BTreeMap::new()));
        nodes
    }

    pub fn get(&self, id: NodeId) -> &Node<F> {
        &self.nodes[id]
    }

    /// The sets of xattrs by their number, each sorted by name.
    pub fn xattr_sets(&self) -> &[Vec<Xattr>] {
        &self.sets
    }

    /// Adds a node under a path.
    pub fn add(&mut self, path: &[u8], metadata: &Metadata, body: Body<F>) -> Result<NodeId> {
        if let Body::Symlink(target) = &body
            && (target.is_empty() || target.len() > LONGEST_TARGET || target.contains(&0))
        {
            return Err(cannot(path, "a link whose target no link can have"));
        }
        let Some((parent, name)) = self.parent(path)? else {
            if !matches!(body, Body::Directory(_)) {
                return Err(cannot(path, "the root can only be a directory"));
            }
            self.set_metadata(ROOT, metadata);
            return Ok(ROOT);
        };
        if let Some(existing) = self.child(parent, name)
            && matches!((&self.nodes[existing].body, &body), (Body::Directory(_), Body::Directory(_)))
        {
            self.set_metadata(existing, metadata);
            return Ok(existing);
        }
        let id = self.push(metadata, body);
        self.name(parent, name, id);
        Ok(id)
    }

    /// Gives a node one more name.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let id = self.find(target)?.ok_or_else(|| {
            cannot(path, &format!("its hard link leads to `{}`, which is not there", printable(target)))
        })?;
        if matches!(self.nodes[id].body, Body::Directory(_)) {
            return Err(cannot(path, "a hard link to a directory"));
        }
        let (parent, name) = self.parent(path)?.ok_or_else(|| cannot(path, "the root can only be a directory"))?;
        if self.child(parent, name) != Some(id) {
            self.nodes[id].links += 1;
            self.name(parent, name, id);
        }
        Ok(())
    }

    /// The node of a path.
    pub fn find(&self, path: &[u8]) -> Result<Option<NodeId>> {
        let mut at = ROOT;
        for name in names(path)? {
            match self.child(at, name) {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// All nodes that have a name, children before their parents, the root last; and what a directory holds stands
    /// together. Each node comes once.
    pub fn order(&self) -> Vec<NodeId> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut seen = vec![false; self.nodes.len()];
        // A directory comes twice: first to put its subdirectories before it, then to place what it holds.
        let mut todo = vec![(ROOT, false)];
        while let Some((id, again)) = todo.pop() {
            let Body::Directory(children) = &self.nodes[id].body else { continue };
            if !again {
                todo.push((id, true));
                let directories = children.values().rev().filter(|&&child| self.is_directory(child));
                todo.extend(directories.map(|&child| (child, false)));
                continue;
            }
            for &child in children.values() {
                if !std::mem::replace(&mut seen[child], true) {
                    order.push(child);
                }
            }
        }
        order.push(ROOT);
        order
    }

    fn is_directory(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].body, Body::Directory(_))
    }

    fn push(&mut self, metadata: &Metadata, body: Body<F>) -> NodeId {
        let xattrs = self.set_number(&metadata.xattrs);
        let Metadata { mode, uid, gid, mtime, .. } = *metadata;
        self.nodes.push(Node { mode: mode & 0o7777, uid, gid, mtime, xattrs, links: 1, body });
        self.nodes.len() - 1
    }

    fn set_metadata(&mut self, id: NodeId, metadata: &Metadata) {
        let xattrs = self.set_number(&metadata.xattrs);
        let node = &mut self.nodes[id];
        (node.mode, node.uid, node.gid) = (metadata.mode & 0o7777, metadata.uid, metadata.gid);
        (node.mtime, node.xattrs) = (metadata.mtime, xattrs);
    }

    fn set_number(&mut self, xattrs: &[Xattr]) -> u32 {
        let mut set = xattrs.to_vec();
        set.sort();
        set.dedup_by(|later, earlier| later.0 == earlier.0);
        if let Some(&number) = self.set_numbers.get(&set) {
            return number;
        }
        let number = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.set_numbers.insert(set, number);
        number
    }

    fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.nodes[directory].body {
            Body::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn name(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        if let Body::Directory(children) = &mut self.nodes[directory].body
            && let Some(replaced) = children.insert(name.into(), id)
        {
            self.nodes[replaced].links = self.nodes[replaced].links.saturating_sub(1);
        }
    }

    /// Makes a path a directory, if it is none.
    pub fn imply(&mut self, path: &[u8]) -> Result<()> {
        self.parent(&[path, b"/x"].concat()).map(drop)
    }

    /// The directory that a path's last name belongs into, and that name; `None` for the root.
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<Option<(NodeId, &'a [u8])>> {
        let mut names = names(path)?;
        let Some(last) = names.pop() else { return Ok(None) };
        let mut at = ROOT;
        for name in names {
            at = match self.child(at, name) {
                Some(child) if self.is_directory(child) => child,
                // What is no directory gives way to one, as in the layers of an image.
                _ => {
                    let made = self.push(&implied_directory(), Body::Directory(BTreeMap::new()));
                    self.name(at, name, made);
                    made
                }
            };
        }
        Ok(Some((at, last)))
    }
}

/// What a directory is that no entry describes.
fn implied_directory() -> Metadata {
    Metadata { mode: 0o755, ..Metadata::default() }
}

fn cannot(path: &[u8], reason: &str) -> Error {
    Error::CannotWrite { path: printable(path), reason: reason.to_owned() }
}

/// The names of a path.
fn names(path: &[u8]) -> Result<Vec<&[u8]>> {
    let names: Vec<_> = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    if names.iter().any(|name| *name == b".." || name.len() > LONGEST_NAME || name.contains(&0)) {
        return Err(cannot(path, "a name that no file can have"));
    }
    if names.len() > DEEPEST {
        return Err(cannot(path, "it lies too deep"));
    }
    Ok(names)
}
