//! `--multi-prog`: a file that says what each task runs.
//!
//! ```text
//! # comment
//! 0-3,6   prog arg %t %o
//! *       other
//! ```
//!
//! `%t` is the task's number, `%o` its place in the line's list. A `\` at the end of a line joins the next one.

use super::array;

/// What of a file each task runs.
pub fn parse(text: &str, tasks: u32, name: &str) -> Result<Vec<Vec<String>>, String> {
    let mut commands: Vec<Option<Vec<String>>> = vec![None; tasks as usize];
    let joined = text.replace("\\\n", " ");
    for (at, line) in joined.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words = words(line);
        let (Some(list), true) = (words.first(), words.len() > 1) else {
            return Err(format!("Missing executable on line {} of configuration file", at + 1));
        };
        let set: Vec<u32> = if list == "*" {
            (0..tasks).filter(|&task| commands[task as usize].is_none()).collect()
        } else {
            array::parse_set(list).ok_or_else(|| {
                let line = at + 1;
                format!("Invalid task range specification ({list})\nLine {line} of configuration file {name} invalid")
            })?
        };
        for (offset, &task) in set.iter().enumerate() {
            // Ranks that there are not are ignored, as Slurm does.
            let Some(command) = commands.get_mut(task as usize) else { continue };
            if command.is_some() {
                return Err(format!("Task {task} is specified twice (line {})", at + 1));
            }
            let fill = |word: &String| word.replace("%t", &task.to_string()).replace("%o", &offset.to_string());
            *command = Some(words[1..].iter().map(fill).collect());
        }
    }
    let missing: Vec<u32> = (0..tasks).filter(|&task| commands[task as usize].is_none()).collect();
    if let Some(first) = missing.first() {
        return Err(format!("Configuration file invalid, no record for task id {first}"));
    }
    Ok(commands.into_iter().flatten().collect())
}

/// Words, with quotes of both kinds.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_task_finds_its_line() {
        let text = "# ranks\n0 echo first\n2-3 sh -c 'echo %t %o'\n* echo \\\n rest\n";
        let commands = parse(text, 5, "conf").unwrap();
        assert_eq!(commands[0], ["echo", "first"]);
        assert_eq!(commands[3], ["sh", "-c", "echo 3 1"]);
        assert_eq!(commands[4], ["echo", "rest"]);
    }

    #[test]
    fn a_task_without_a_line_and_a_line_without_a_program_are_told() {
        assert!(parse("0 echo", 2, "conf").unwrap_err().contains("task id 1"));
        assert!(parse("0", 1, "conf").unwrap_err().contains("line 1"));
        assert!(parse("x echo", 1, "conf").is_err());
        assert!(parse("0 a\n0 b", 1, "conf").is_err());
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(text in "([0-9*,-]{0,4} [a-z'\"%]{0,6}\n){0,5}|.{0,40}") {
            let _ = parse(&text, 4, "conf");
        }
    }
}
