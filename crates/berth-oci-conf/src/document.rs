//! A file as Slurm's parser of configuration files reads it, with the place of everything in it.
//!
//! The rules, of which some are not what they seem (each was tried with slurmstepd of 22.05, 24.11 and 26.05):
//! * one pair a line: `key = value`, blanks as you like; what follows on the line makes the whole file unreadable;
//! * a value is `"…"`, with no way to have a quotation mark in it, or a run of letters without blanks, in which quotation
//!   marks and apostrophes are letters like others;
//! * `#` begins a comment, *within quotation marks too*, unless there is an odd number of backslashes before it;
//! * an odd number of backslashes at the end of a line, or before blanks or a comment at its end, continues it; after that
//!   each backslash goes away and the letter behind it stays;
//! * `Include FILE` stands at the very beginning of a line; quotation marks are part of the name;
//! * `+=`, `-=`, `*=` and `/=` are read, and mean `=`.
//!
//! What is wrong is a [`Mistake`], and slurmstepd reads no further than to the end of the file; what is accepted and was
//! surely not meant is a [`Remark`]. Keys and values are looked at in [`crate::check`], since they depend on the release.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// Largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// How deep files may include each other, and how many there may be. Slurm has no limit, and dies of a circle.
const MAX_DEPTH: usize = 8;
const MAX_FILES: usize = 64;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which file: an index into [`Document::files`].
    pub file: usize,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it was written.
    pub key: String,
    /// Where it was.
    pub key_at: Position,
    /// The letter of `+=` and the like.
    pub operator: Option<char>,
    /// Without quotation marks and backslashes.
    pub value: String,
    /// Whether there were quotation marks around it.
    pub quoted: bool,
    /// Of each character of the value, and of what came after it.
    places: Vec<Position>,
}

impl Entry {
    /// The place of the character of the value that begins at a byte, or of its end.
    pub fn at(&self, byte: usize) -> Position {
        let index = self.value.char_indices().take_while(|(at, _)| *at < byte).count();
        *self.places.get(index).or(self.places.last()).unwrap_or(&self.key_at)
    }

    /// Whether it is this key; they have no case.
    pub fn is(&self, key: &str) -> bool {
        self.key.eq_ignore_ascii_case(key)
    }
}

impl fmt::Display for Entry {
    /// A line that is read as this entry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(operator) = self.operator {
            f.write_char(operator)?;
        }
        let mark = if self.quoted { "\"" } else { "" };
        write!(f, "={mark}{}{mark}", escaped(&self.value))
    }
}

/// A value as it has to be written: backslashes doubled, and one before each `#`.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('#', "\\#")
}

/// Something for which slurmstepd gives up the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is.
    pub at: Position,
    /// What it is.
    pub what: Trouble,
    /// What could not be read, as far as there is such a thing.
    pub text: String,
}

/// Kinds of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No `key=value`.
    NoPair,
    /// `key=`.
    NoValue,
    /// A value that begins with a quotation mark that has no fellow.
    OpenQuote,
    /// Something behind the value.
    More,
    /// `Include` behind blanks.
    IndentedInclude,
    /// The name of a file to include in quotation marks.
    QuotedInclude,
    /// A file to include cannot be read; the text says why.
    Include,
    /// A file includes itself, or there are too many.
    IncludeCircle,
    /// A byte order mark.
    ByteOrderMark,
    /// A zero byte: the rest of its line is not read. Slurm says nothing.
    Zero,
    /// No UTF-8. Slurm takes any byte; a command that is none of Unicode's is hardly meant.
    NoText,
    /// Larger than [`MAX_BYTES`].
    TooLarge,
}

/// Something that Slurm reads otherwise than it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Where it is.
    pub at: Position,
    /// What it is.
    pub what: Surprise,
}

/// Kinds of remarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surprise {
    /// A `#` within quotation marks: a comment begins.
    CommentInQuotes,
    /// A backslash before a quotation mark goes away, and the value ends.
    EscapedQuote,
    /// A backslash goes away before this letter.
    LostBackslash(char),
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The file and what it includes, in the order in which they were met.
    pub files: Vec<PathBuf>,
    /// All pairs, in the order in which Slurm meets them.
    pub entries: Vec<Entry>,
    /// What Slurm cannot read.
    pub mistakes: Vec<Mistake>,
    /// What it reads otherwise than it looks.
    pub remarks: Vec<Remark>,
}

impl Document {
    /// Reads a file of this host, and what it includes.
    pub fn load(path: &Path) -> io::Result<Document> {
        let bytes = read_file(path)?;
        Ok(Document::parse(path, &bytes, &mut read_file))
    }

    /// Takes a text apart. `include` reads further files.
    pub fn parse(path: &Path, bytes: &[u8], include: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>) -> Document {
        let mut document = Document::default();
        document.read(path, bytes, include, &mut Vec::new());
        document
    }

    /// Takes a text apart that includes nothing.
    pub fn of_text(text: &str) -> Document {
        let none = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        Document::parse(Path::new("oci.conf"), text.as_bytes(), &mut { none })
    }

    /// The entry of a key that counts: the last.
    pub fn last(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.is(key))
    }

    fn read(
        &mut self,
        path: &Path,
        bytes: &[u8],
        include: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
        above: &mut Vec<PathBuf>,
    ) {
        let file = self.files.len();
        self.files.push(path.to_owned());
        let start = Position { file, line: 1, column: 1 };
        if bytes.len() as u64 > MAX_BYTES {
            self.mistake(start, Trouble::TooLarge, "");
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        if let Err(error) = std::str::from_utf8(bytes) {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            self.mistake(Position { file, line, column }, Trouble::NoText, "");
        }
        above.push(path.to_owned());
        for line in self.logical_lines(file, &text) {
            match directive(&line) {
                Some((name, rest)) => self.include(&line, name, rest, include, above),
                None => self.pair(&line),
            }
        }
        above.pop();
    }

    fn mistake(&mut self, at: Position, what: Trouble, text: impl Into<String>) {
        self.mistakes.push(Mistake { at, what, text: text.into() });
    }

    /// Lines without comments and backslashes, joined where they are continued.
    fn logical_lines(&mut self, file: usize, text: &str) -> Vec<Vec<Letter>> {
        let mut lines = Vec::new();
        let mut joined: Vec<Letter> = Vec::new();
        let mut pending = false;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let place = |column: usize| Position { file, line: index + 1, column: column + 1 };
            let letters = line.chars().enumerate().map(|(column, letter)| Letter { letter, at: place(column) });
            let mut letters: Vec<Letter> = letters.collect();
            if let Some(zero) = letters.iter().position(|letter| letter.letter == '\0') {
                self.mistake(letters[zero].at, Trouble::Zero, "");
                letters.truncate(zero);
            }
            let in_quotes = joined.iter().filter(|letter| letter.letter == '"').count() % 2 == 1;
            self.remarks.extend(strip_comment(&mut letters, in_quotes));
            pending = strip_continuation(&mut letters);
            joined.append(&mut letters);
            if !pending {
                lines.push(self.without_escapes(std::mem::take(&mut joined)));
            }
        }
        if pending {
            lines.push(self.without_escapes(joined));
        }
        lines
    }

    /// Each backslash goes away, and the letter behind it stays.
    fn without_escapes(&mut self, line: Vec<Letter>) -> Vec<Letter> {
        let mut result = Vec::with_capacity(line.len());
        let mut letters = line.into_iter();
        while let Some(letter) = letters.next() {
            if letter.letter != '\\' {
                result.push(letter);
                continue;
            }
            let Some(next) = letters.next() else { break };
            let what = match next.letter {
                '\\' | '#' => None,
                '"' => Some(Surprise::EscapedQuote),
                other => Some(Surprise::LostBackslash(other)),
            };
            self.remarks.extend(what.map(|what| Remark { at: letter.at, what }));
            result.push(next);
        }
        result
    }

    fn pair(&mut self, line: &[Letter]) {
        let Some(found) = Pair::find(line) else {
            let Some(first) = line.iter().position(|letter| !is_blank(letter.letter)) else { return };
            let rest = &line[first..];
            let what = match () {
                () if rest[0].letter == '\u{feff}' => Trouble::ByteOrderMark,
                () if directive(rest).is_some() => Trouble::IndentedInclude,
                () if Pair::has_no_value(rest) => Trouble::NoValue,
                () => Trouble::NoPair,
            };
            self.mistake(rest[0].at, what, text_of(rest));
            return;
        };
        let value = &line[found.value.0..found.value.1];
        let mut places: Vec<Position> = value.iter().map(|letter| letter.at).collect();
        places.extend(line.get(found.value.1).map(|letter| letter.at));
        self.entries.push(Entry {
            key: line[found.key.0..found.key.1].iter().map(|letter| letter.letter).collect(),
            key_at: line[found.key.0].at,
            operator: found.operator,
            value: value.iter().map(|letter| letter.letter).collect(),
            quoted: found.quoted,
            places,
        });
        if let Some(more) = line[found.end..].iter().position(|letter| !is_blank(letter.letter)) {
            let open = !found.quoted && value[0].letter == '"';
            let (at, what) = match open {
                true => (value[0].at, Trouble::OpenQuote),
                false => (line[found.end + more].at, Trouble::More),
            };
            self.mistake(at, what, text_of(&line[found.end + more..]));
        }
    }

    fn include(
        &mut self,
        line: &[Letter],
        name: (usize, usize),
        rest: &[Letter],
        include: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
        above: &mut Vec<PathBuf>,
    ) {
        let at = line.get(name.0).or(line.last()).expect("there is the word itself").at;
        let name: String = line[name.0..name.1].iter().map(|letter| letter.letter).collect();
        if let Some(more) = rest.iter().position(|letter| !is_blank(letter.letter)) {
            self.mistake(rest[more].at, Trouble::More, text_of(&rest[more..]));
        }
        if name.contains('"') {
            self.mistake(at, Trouble::QuotedInclude, name);
            return;
        }
        if name.is_empty() {
            self.mistake(at, Trouble::NoValue, "Include");
            return;
        }
        let target = above.last().and_then(|path| path.parent()).unwrap_or(Path::new("")).join(&name);
        if above.contains(&target) || above.len() > MAX_DEPTH || self.files.len() == MAX_FILES {
            self.mistake(at, Trouble::IncludeCircle, name);
            return;
        }
        match include(&target) {
            Ok(bytes) => self.read(&target, &bytes, include, above),
            Err(error) => self.mistake(at, Trouble::Include, format!("{}: {error}", target.display())),
        }
    }
}

impl fmt::Display for Document {
    /// All pairs, one a line; what is included stands where it was included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

/// Reads a whole file if it is one, and not larger than [`MAX_BYTES`] and a byte.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[derive(Clone, Copy, Debug)]
struct Letter {
    letter: char,
    at: Position,
}

/// What C's `isspace` says.
fn is_blank(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

fn text_of(letters: &[Letter]) -> String {
    letters.iter().map(|letter| letter.letter).collect::<String>().trim_end().to_owned()
}

/// Cuts at a `#` that has no odd number of backslashes before it.
fn strip_comment(line: &mut Vec<Letter>, mut in_quotes: bool) -> Option<Remark> {
    let mut backslashes = 0;
    for index in 0..line.len() {
        match line[index].letter {
            '#' if backslashes % 2 == 0 => {
                let remark = Remark { at: line[index].at, what: Surprise::CommentInQuotes };
                line.truncate(index);
                return in_quotes.then_some(remark);
            }
            '\\' => backslashes += 1,
            letter => {
                in_quotes ^= letter == '"';
                backslashes = 0;
            }
        }
    }
    None
}

/// Cuts at the backslash that continues a line, if there is one.
fn strip_continuation(line: &mut Vec<Letter>) -> bool {
    let end = line.iter().rposition(|letter| !is_blank(letter.letter)).map_or(0, |last| last + 1);
    let backslashes = line[..end].iter().rev().take_while(|letter| letter.letter == '\\').count();
    if backslashes % 2 == 1 {
        line.truncate(end - 1);
    }
    backslashes % 2 == 1
}

/// The name of a file to include, as a range of the line, and what comes after it.
fn directive(line: &[Letter]) -> Option<((usize, usize), &[Letter])> {
    let word = "include";
    let matches = |(letter, wanted): (&Letter, char)| letter.letter.eq_ignore_ascii_case(&wanted);
    if line.len() <= word.len() || !line.iter().zip(word.chars()).all(matches) || !is_blank(line[word.len()].letter) {
        return None;
    }
    let blanks = line[word.len()..].iter().take_while(|letter| is_blank(letter.letter)).count();
    let start = word.len() + blanks;
    let end = start + line[start..].iter().take_while(|letter| !is_blank(letter.letter)).count();
    Some(((start, end), &line[end..]))
}

/// Where the parts of a pair are in a line.
struct Pair {
    key: (usize, usize),
    operator: Option<char>,
    value: (usize, usize),
    quoted: bool,
    end: usize,
}

impl Pair {
    fn find(line: &[Letter]) -> Option<Pair> {
        let (key, operator, start) = Pair::head(line)?;
        let blank = |at: usize| line.get(at).is_none_or(|letter| is_blank(letter.letter));
        if line.get(start).is_some_and(|letter| letter.letter == '"') {
            let fellow = line[start + 1..].iter().position(|letter| letter.letter == '"').map(|at| start + 1 + at);
            if let Some(fellow) = fellow.filter(|&fellow| blank(fellow + 1)) {
                return Some(Pair { key, operator, value: (start + 1, fellow), quoted: true, end: fellow + 1 });
            }
        }
        let end = start + line[start..].iter().take_while(|letter| !is_blank(letter.letter)).count();
        (end > start).then_some(Pair { key, operator, value: (start, end), quoted: false, end })
    }

    /// Up to where a value would begin.
    fn head(line: &[Letter]) -> Option<((usize, usize), Option<char>, usize)> {
        let skip =
            |at: usize, what: fn(char) -> bool| at + line[at..].iter().take_while(|letter| what(letter.letter)).count();
        let start = skip(0, is_blank);
        let end = skip(start, |c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        let mut at = skip(end, is_blank);
        let operator = line.get(at).map(|letter| letter.letter).filter(|&letter| "-*+/".contains(letter));
        at += usize::from(operator.is_some());
        let is_pair = end > start && line.get(at).is_some_and(|letter| letter.letter == '=');
        is_pair.then(|| ((start, end), operator, skip(at + 1, is_blank)))
    }

    fn has_no_value(line: &[Letter]) -> bool {
        Pair::head(line).is_some_and(|(.., start)| start == line.len())
    }
}

#[cfg(test)]
mod tests;
