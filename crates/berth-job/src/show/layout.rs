//! How a line of `squeue` and `sinfo` looks: `-o` with letters, as printf(3) has them, and `-O` with names.

/// A column of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column<F> {
    /// What it shows.
    pub field: F,
    /// Characters that it takes; 0 for as many as the value has.
    pub width: usize,
    /// Whether the value stands at the right.
    pub right: bool,
    /// What follows, as it is.
    pub suffix: String,
}

/// A line's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout<F> {
    /// What stands in front of the first column.
    pub prefix: String,
    /// The columns; those that are not known are their own text in the suffix of the one before.
    pub columns: Vec<Column<F>>,
    /// What could not be understood, for `Invalid job format specification: `.
    pub unknown: Vec<String>,
}

/// Width of the columns of `-O` where none is given.
const NAMED_WIDTH: usize = 20;

impl<F> Layout<F> {
    /// Reads `-o`: text, and `%[.][WIDTH]LETTER`. As in Slurm a `%` cannot be shown, and a letter that is not known is shown
    /// as it is.
    pub fn by_letters(format: &str, find: impl Fn(char) -> Option<F>) -> Layout<F> {
        let mut layout = Layout { prefix: String::new(), columns: Vec::new(), unknown: Vec::new() };
        let mut tokens = format.split('%');
        layout.prefix.push_str(tokens.next().unwrap_or_default());
        for token in tokens.filter(|token| !token.is_empty()) {
            let rest = token.strip_prefix('.').unwrap_or(token);
            let right = rest.len() < token.len();
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let letter = rest[digits..].chars().next();
            match letter.and_then(|letter| find(letter).map(|field| (letter, field))) {
                Some((letter, field)) => layout.columns.push(Column {
                    field,
                    width: width(&rest[..digits]),
                    right,
                    suffix: rest[digits + letter.len_utf8()..].to_owned(),
                }),
                None => {
                    layout.unknown.push(letter.map(String::from).unwrap_or_default());
                    layout.literal(&format!("%{token}"));
                }
            }
        }
        layout
    }

    /// Reads `-O`: `NAME[:[.][WIDTH][SUFFIX]],...`; names in any case.
    pub fn by_names(format: &str, find: impl Fn(&str) -> Option<F>) -> Layout<F> {
        let mut layout = Layout { prefix: String::new(), columns: Vec::new(), unknown: Vec::new() };
        for token in format.split(',').filter(|token| !token.is_empty()) {
            let (name, size) = token.split_once(':').map_or((token, None), |(name, size)| (name, Some(size)));
            let Some(field) = find(&name.to_ascii_lowercase()) else {
                layout.unknown.push(name.to_owned());
                continue;
            };
            let column = match size {
                None => Column { field, width: NAMED_WIDTH, right: false, suffix: String::new() },
                Some(size) => {
                    let rest = size.strip_prefix('.').unwrap_or(size);
                    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                    let right = rest.len() < size.len();
                    Column { field, width: width(&rest[..digits]), right, suffix: rest[digits..].to_owned() }
                }
            };
            layout.columns.push(column);
        }
        layout
    }

    fn literal(&mut self, text: &str) {
        match self.columns.last_mut() {
            Some(column) => column.suffix.push_str(text),
            None => self.prefix.push_str(text),
        }
    }

    /// A line, without its end.
    pub fn line<'a>(&'a self, mut value: impl FnMut(&'a F) -> String) -> String {
        self.line_with(|field| (value(field), true))
    }

    /// Likewise, where `value` also says whether what is too long for its column is cut, or pushes the others.
    pub fn line_with<'a>(&'a self, mut value: impl FnMut(&'a F) -> (String, bool)) -> String {
        let mut line = self.prefix.clone();
        for column in &self.columns {
            let (text, is_cut) = value(&column.field);
            let width = if is_cut || text.chars().count() <= column.width { column.width } else { 0 };
            line.push_str(&fit(&text, width, column.right));
            line.push_str(&column.suffix);
        }
        line
    }
}

fn width(digits: &str) -> usize {
    // Nobody's terminal is wider, and nobody's memory suffers.
    digits.parse().unwrap_or(0).min(4096)
}

/// A value in so many characters.
pub fn fit(value: &str, width: usize, right: bool) -> String {
    match (width, right) {
        (0, _) => value.to_owned(),
        (_, true) => format!("{value:>width$.width$}"),
        (_, false) => format!("{value:<width$.width$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(format: &str) -> (String, Vec<String>) {
        let layout = Layout::by_letters(format, |letter| "ijy".contains(letter).then_some(letter));
        let line = layout.line(|letter| match letter {
            'i' => "131_[1-3]".to_owned(),
            'y' => "0".to_owned(),
            _ => "name".to_owned(),
        });
        (line, layout.unknown)
    }

    /// Each line was printed by Slurm's squeue.
    #[test]
    fn letters_have_widths_and_sides() {
        for (format, expected, unknown) in [
            ("%i", "131_[1-3]", ""),
            ("%5i|%.5i|%3j|", "131_[|131_[|nam|", ""),
            ("%.12i %j", "   131_[1-3] name", ""),
            ("JOB %i name %j", "JOB 131_[1-3] name name", ""),
            ("x%%y", "x0", ""),
            ("%j %!", "name %!", "!"),
            ("%-8j|%6j|", "%-8j|name  |", "-"),
            ("%s|", "%s|", "s"),
            ("%", "", ""),
            ("", "", ""),
            ("%i\\n%j", "131_[1-3]\\nname", ""),
            ("%99999999999999999999j|", "name|", ""),
        ] {
            assert_eq!(
                letters(format),
                (expected.to_owned(), unknown.split_terminator(' ').map(String::from).collect())
            );
        }
    }

    #[test]
    fn names_have_widths_sides_and_suffixes() {
        let find = |name: &str| ["jobid", "name"].into_iter().find(|known| *known == name);
        for (format, expected) in [
            ("jobid", "17                  "),
            ("JobID:6,Name:.8", "17        name"),
            ("jobid: |,name:|", "17 |name|"),
            ("name:2,jobid:", "na17"),
            ("nosuch,jobid:4", "17  "),
        ] {
            let layout = Layout::by_names(format, find);
            let line = layout.line(|name| if *name == "name" { "name".into() } else { "17".to_owned() });
            assert_eq!(line, expected, "{format}");
            assert_eq!(layout.unknown.is_empty(), !format.contains("nosuch"));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_format_is_read(format in ".{0,40}") {
            letters(&format);
            Layout::by_names(&format, |name| (name.len() < 3).then_some(())).line(|()| "x".to_owned());
        }
    }
}
