//! What goes to standard output: tables for people, JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::command_error::CommandError;

/// Prints a value as indented JSON and a newline.
pub fn json(value: &impl Serialize) -> Result<(), CommandError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Prints lines.
pub fn lines<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Result<(), CommandError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{}", line.as_ref())?;
    }
    Ok(out.flush()?)
}

/// Rows under headings, in columns as wide as their widest entry. Entries come from images and registries, so control
/// characters, with which a terminal could be steered, are shown as `?`.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Adds a row, one entry for each heading.
    pub fn row(&mut self, entries: impl IntoIterator<Item = String>) {
        let printable = |entry: String| entry.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.rows.push(entries.into_iter().map(printable).collect());
    }

    /// Prints it.
    pub fn print(&self) -> Result<(), CommandError> {
        lines(self.render())
    }

    fn render(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|entry| entry.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let render_row = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(entry, &width)| format!("{entry:<width$}"));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        };
        self.rows.iter().map(render_row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(["a-long-name".to_owned(), "1 B".to_owned()]);
        table.row(["é".to_owned(), String::new()]);
        assert_eq!(table.render(), ["NAME          SIZE", "a-long-name   1 B", "é"]);
    }

    #[test]
    fn entries_cannot_steer_a_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(["x\x1b[2Jy\n".to_owned()]);
        assert_eq!(table.render()[1], "x?[2Jy?");
    }
}
