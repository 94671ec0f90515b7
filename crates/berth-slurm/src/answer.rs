//! What `berth step` tells each task: its way into the container, or why there is none.
//!
//! It is one message of a socket of sequenced packets: the first byte says which of the two, and with the way come two
//! descriptors: a process in the container, to join, and a file in memory with the [`Way`]. Both programs are of one build
//! and on one machine; still nothing that is read is believed further than it reaches.

/// First byte of a message: the way follows in the file.
pub const WAY: u8 = b'W';
/// First byte of a message: text that says why not follows.
pub const FAILED: u8 = b'E';
/// First byte of a message: whoever gets this has to call `berth step`. With it comes the end of the socket into which the
/// answers go.
pub const TOKEN: u8 = b'T';
/// What a task says when it has joined.
pub const JOINED: u8 = b'J';
/// Longest text of [`FAILED`], in bytes.
pub const MAX_TEXT: usize = 16 << 10;
/// Largest [`Way`], in bytes: an environment is at most as large as the kernel lets a process have it.
pub const MAX_WAY: u64 = 32 << 20;

/// How a task comes into the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// The kinds of namespaces to join, as setns(2) has them.
    pub namespaces: u32,
    /// Where to go inside.
    pub cwd: Vec<u8>,
    /// Variables to set, `NAME=VALUE` each.
    pub set: Vec<Vec<u8>>,
    /// Variables to take away.
    pub unset: Vec<Vec<u8>>,
    /// A system call filter, as the bytes of its instructions; empty for none.
    pub filter: Vec<u8>,
    /// Whether no program may gain privileges.
    pub no_new_privileges: bool,
}

impl Way {
    /// As bytes: each field is a letter, a length (32 bits, little-endian) and that many bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut field = |letter: u8, content: &[u8]| {
            bytes.push(letter);
            bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
            bytes.extend_from_slice(content);
        };
        field(b'N', &self.namespaces.to_le_bytes());
        field(b'C', &self.cwd);
        field(b'F', &self.filter);
        field(b'P', &[u8::from(self.no_new_privileges)]);
        self.unset.iter().for_each(|name| field(b'U', name));
        self.set.iter().for_each(|entry| field(b'S', entry));
        bytes
    }

    /// Reads [`Way::encode`]; nothing where it is something else.
    pub fn decode(mut bytes: &[u8]) -> Option<Way> {
        let mut way = Way::default();
        while let Some((letter, rest)) = bytes.split_first() {
            let (length, rest) = rest.split_at_checked(4)?;
            let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
            let (content, rest) = rest.split_at_checked(length)?;
            bytes = rest;
            match letter {
                b'N' => way.namespaces = u32::from_le_bytes(content.try_into().ok()?),
                b'C' => way.cwd = content.to_vec(),
                b'F' => way.filter = content.to_vec(),
                b'P' => way.no_new_privileges = content.first() == Some(&1),
                b'U' => way.unset.push(content.to_vec()),
                b'S' => way.set.push(content.to_vec()),
                _ => return None,
            }
        }
        Some(way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            cwd in proptest::collection::vec(any::<u8>(), 0..30),
            set in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..9),
            unset in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..9),
            namespaces: u32, no_new_privileges: bool,
        ) {
            let way = Way { namespaces, cwd, set, unset, no_new_privileges, ..Way::default() };
            prop_assert_eq!(Way::decode(&way.encode()), Some(way));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Way::decode(&bytes);
        }
    }

    #[test]
    fn half_a_message_is_none() {
        let bytes = Way { cwd: b"/x".to_vec(), ..Way::default() }.encode();
        assert!((1..bytes.len()).filter(|&end| Way::decode(&bytes[..end]).is_some()).count() < 6);
        assert_eq!(Way::decode(&bytes[..bytes.len() - 1]), None);
    }
}
