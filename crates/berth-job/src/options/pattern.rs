//! File name patterns of `-i`, `-o` and `-e`.

/// What the letters stand for.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// `%j`, the job's number.
    pub job: u32,
    /// `%A`, the array's number; the job's where it is of none.
    pub array: u32,
    /// `%a`, the element; nothing where it is of none.
    pub element: Option<u32>,
    /// `%s`, the step; `batch` for the script.
    pub step: String,
    /// `%t`, the task's number.
    pub task: Option<u32>,
    /// `%n`, the node's number in the job.
    pub node_number: u32,
    /// `%N`, the node's short name.
    pub node: String,
    /// `%u`, the user's name.
    pub user: String,
    /// `%x`, the job's name.
    pub name: String,
}

/// The element that stands for none, in `%a` and elsewhere, as Slurm prints it.
pub const NO_ELEMENT: u32 = 4_294_967_294;

/// The file's name. A `\` anywhere means that nothing is replaced, and `%%` is a `%`; a number between `%` and the letter is
/// how many digits there are at least.
pub fn expand(pattern: &str, names: &Names) -> String {
    if pattern.contains('\\') {
        return pattern.replace('\\', "");
    }
    let mut text = String::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut digits = String::new();
        while let Some(digit) = rest.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        let width = digits.parse::<usize>().unwrap_or(0).min(10);
        let padded = |number: u32| format!("{number:0width$}");
        match rest.next() {
            Some('%') if digits.is_empty() => text.push('%'),
            Some('A') => text.push_str(&padded(names.array)),
            Some('a') => text.push_str(&padded(names.element.unwrap_or(NO_ELEMENT))),
            Some('j') => text.push_str(&padded(names.job)),
            Some('J') if names.step == "batch" => text.push_str(&padded(names.job)),
            Some('J') => text.push_str(&format!("{}.{}", padded(names.job), names.step)),
            Some('s') => match names.step.parse::<u32>() {
                Ok(step) => text.push_str(&padded(step)),
                Err(_) => text.push_str(&names.step),
            },
            Some('t') => text.push_str(&padded(names.task.unwrap_or(0))),
            Some('n') => text.push_str(&padded(names.node_number)),
            Some('N') => text.push_str(&names.node),
            Some('u') => text.push_str(&names.user),
            Some('x') => text.push_str(&names.name),
            other => {
                text.push('%');
                text.push_str(&digits);
                text.extend(other);
            }
        }
    }
    text
}

/// Whether each task has a file of its own.
pub fn is_per_task(pattern: &str) -> bool {
    let with = |task| expand(pattern, &Names { task: Some(task), ..Names::default() });
    with(1) != with(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_letter_has_its_meaning() {
        let names = Names {
            job: 7,
            array: 5,
            element: Some(3),
            step: "0".into(),
            task: Some(2),
            node_number: 0,
            node: "n1".into(),
            user: "me".into(),
            name: "work".into(),
        };
        for (pattern, expected) in [
            ("o.%j", "o.7"),
            ("%A_%a", "5_3"),
            ("%4j.%3t", "0007.002"),
            ("%J-%s-%t", "7.0-0-2"),
            ("%N%n%u%x", "n10mework"),
            ("100%%", "100%"),
            ("%q%", "%q%"),
            ("a\\%j", "a%j"),
        ] {
            assert_eq!(expand(pattern, &names), expected, "{pattern}");
        }
        assert!(is_per_task("x%t") && !is_per_task("x%j"));
    }

    proptest! {
        #[test]
        fn any_pattern_is_a_name(pattern in ".{0,20}|(%[0-9]{0,4}[a-zA-Z%]){0,5}") {
            let _ = expand(&pattern, &Names::default());
        }

        #[test]
        fn without_signs_nothing_changes(pattern in "[a-z0-9/._]{0,20}") {
            prop_assert_eq!(expand(&pattern, &Names::default()), pattern);
        }
    }
}
