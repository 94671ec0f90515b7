//! plugstack.conf: which SPANK plugins are loaded.

use crate::doctor::Host;

/// Deeper than this is a circle of includes.
const DEPTH: usize = 8;

/// A plugin that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Whether everything fails without it.
    pub required: bool,
    /// The shared object, as it is written.
    pub object: String,
    /// What is written behind it: the plugin's settings.
    pub words: Vec<String>,
    /// The file that asks for it, and the line.
    pub file: String,
    /// See `file`.
    pub line: usize,
}

/// What the stack's files say.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// The plugins, in the order in which they are loaded.
    pub plugins: Vec<Plugin>,
    /// Lines that Slurm skips: file, line, text.
    pub mistakes: Vec<(String, usize, String)>,
    /// Includes that no file answers to: file, line, pattern.
    pub empty_includes: Vec<(String, usize, String)>,
    /// Every pattern that is included, made absolute.
    pub includes: Vec<String>,
}

/// Reads the stack that begins with this file; a file that is not there is an empty one.
pub fn read(host: &Host, path: &str) -> Stack {
    let mut stack = Stack::default();
    read_into(host, path, DEPTH, &mut stack);
    stack
}

fn read_into(host: &Host, path: &str, depth: usize, stack: &mut Stack) {
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let text = host.read(path).unwrap_or_default();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = index + 1;
        match words[..] {
            [] => {}
            ["include", pattern] => {
                let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{dir}/{pattern}") };
                let files = host.glob(&pattern);
                if files.is_empty() {
                    stack.empty_includes.push((path.to_owned(), at, pattern.clone()));
                }
                stack.includes.push(pattern);
                if depth > 0 {
                    files.iter().for_each(|file| read_into(host, file, depth - 1, stack));
                }
            }
            [kind @ ("required" | "optional"), object, ref words @ ..] => stack.plugins.push(Plugin {
                required: kind == "required",
                object: object.to_owned(),
                words: words.iter().map(|&word| word.to_owned()).collect(),
                file: path.to_owned(),
                line: at,
            }),
            _ => stack.mistakes.push((path.to_owned(), at, line.trim().to_owned())),
        }
    }
}
