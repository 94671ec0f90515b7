//! The part of YAML that configuration files have, as JSON values.
//!
//! Vendors' tools write device specifications as YAML. What they use is JSON in other clothes; everything else of YAML is refused, so
//! that a hostile or mistaken file cannot mean something unexpected: anchors and aliases (the "billion laughs"), tags, merge keys,
//! keys that are no strings, the same key twice, more than one document, deep nesting.
//!
//! Plain scalars are typed by the core schema of YAML 1.2. A number with a leading zero, which is octal in YAML 1.1 and decimal in
//! 1.2, is left a string and so refused where a number is wanted.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// Deeper than any configuration goes.
const MAX_DEPTH: usize = 32;

/// A text that isn't YAML, or more than the part above.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct YamlError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong there.
    pub problem: String,
}

/// Something that is not complete yet.
enum Open {
    Sequence(Vec<Value>),
    Mapping(Map<String, Value>, Option<String>),
}

/// Reads one document.
///
/// # Errors
/// [`YamlError`] for what is no YAML, or not in the supported part of it.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    let mut open: Vec<Open> = Vec::new();
    let mut document: Option<Value> = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let (line, column) = (error.marker().line(), error.marker().col() + 1);
            YamlError { line, column, problem: error.info().to_owned() }
        })?;
        let complete = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) if document.is_some() => return Err(error(span, "a second document")),
            Event::DocumentStart(_) => continue,
            Event::Alias(_) => return Err(error(span, "aliases are not supported")),
            Event::Scalar(_, _, anchor, ref tag) if anchor != 0 || tag.is_some() => {
                return Err(unsupported(span, anchor));
            }
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err(unsupported(span, anchor));
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == MAX_DEPTH => {
                return Err(error(span, "nested too deeply"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::Sequence(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(Map::new(), None));
                continue;
            }
            Event::Scalar(text, style, ..) => scalar(&text, style),
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::Sequence(values)) => Value::Array(values),
                Some(Open::Mapping(map, _)) => Value::Object(map),
                None => return Err(error(span, "an end without a beginning")),
            },
        };
        match open.last_mut() {
            None => document = Some(complete),
            Some(Open::Sequence(values)) => values.push(complete),
            Some(Open::Mapping(map, key)) => match (key.take(), complete) {
                (Some(key), value) => _ = map.insert(key, value),
                (None, Value::String(name)) if name == "<<" => return Err(error(span, "merge keys are not supported")),
                (None, Value::String(name)) if map.contains_key(&name) => {
                    return Err(error(span, &format!("the key `{name}` is there twice")));
                }
                (None, Value::String(name)) => *key = Some(name),
                (None, _) => return Err(error(span, "a key that is not a string")),
            },
        }
    }
    Ok(document.unwrap_or(Value::Null))
}

fn error(span: Span, problem: &str) -> YamlError {
    YamlError { line: span.start.line(), column: span.start.col() + 1, problem: problem.to_owned() }
}

fn unsupported(span: Span, anchor: usize) -> YamlError {
    error(span, if anchor != 0 { "anchors are not supported" } else { "tags are not supported" })
}

/// A scalar's value by the core schema; anything quoted is a string.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    let string = || Value::String(text.to_owned());
    if style != ScalarStyle::Plain {
        return string();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(string, Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return digits
            .bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| u64::from_str_radix(digits, 16).ok())?
            .map(Into::into);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| u64::from_str_radix(digits, 8).ok())?
            .map(Into::into);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let leading_zero = unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.starts_with("0.");
    if leading_zero || !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let without_plus = text.strip_prefix('+').unwrap_or(text);
        return without_plus.parse::<u64>().map(Into::into).or_else(|_| text.parse::<i64>().map(Into::into)).ok();
    }
    // Versions (`0.5.0`) and addresses are no numbers to the parser of Rust either.
    text.parse().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_configuration_files_have_is_read() {
        let text = "---\n# made by a tool\nkind: nvidia.com/gpu\ncdiVersion: 0.5.0\nlist:\n    - a: 1\n      b: '0'\n    - \"x:\\ty\"\n\
            empty: []\nnothing:\nflow: {a: [1, -2, 0x1F, 0o17, 1.5, true, ~]}\nblock: |\n  one\n  two\nzero: 0\nold: 0666\n\
            text: a b#c\nbig: 18446744073709551615\nhuge: 99999999999999999999x\ndate: 2024-01-01\nplus: +3\n";
        let expected = json!({
            "kind": "nvidia.com/gpu", "cdiVersion": "0.5.0", "list": [{"a": 1, "b": "0"}, "x:\ty"], "empty": [],
            "nothing": null, "flow": {"a": [1, -2, 31, 15, 1.5, true, null]}, "block": "one\ntwo\n", "zero": 0, "old": "0666",
            "text": "a b#c", "big": u64::MAX, "huge": "99999999999999999999x", "date": "2024-01-01", "plus": 3,
        });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), Value::Null);
        assert_eq!(parse("{\"json\": [\"is\", \"yaml\", null]}").unwrap(), json!({"json": ["is", "yaml", null]}));
    }

    #[test]
    fn what_could_surprise_is_refused_with_its_place() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        let cases = [
            ("a: &x 1\nb: 2", 1, "anchors"),
            ("a: &x [1]", 1, "anchors"),
            ("a: 1\nb: *x", 2, ""), // The parser itself refuses an unknown anchor.
            ("a: !!binary x", 1, "tags"),
            ("a: 1\n<<: {b: 1}", 2, "merge"),
            ("a: 1\nb: 1\na: 2", 3, "`a` is there twice"),
            ("1: a", 1, "not a string"),
            ("[a]: b", 1, "not a string"),
            ("a: 1\n---\nb: 1", 2, "second document"),
            ("a:\n\t- b", 2, ""),
            ("a: [1", 2, ""),
            (&deep, 1, "nested too deeply"),
        ];
        for (text, line, problem) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.problem.contains(problem), "{text}: {error}");
            assert!(error.line == line || problem.is_empty(), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-a-c0-2:,#&*!|>'\"%@{}\\[\\] \n\t]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn json_of_strings_and_numbers_means_the_same_as_yaml(
            map in proptest::collection::btree_map("[a-z]{1,5}", ("[ -~]{0,8}", any::<i32>()), 0..5)
        ) {
            let value = json!(map);
            prop_assert_eq!(parse(&value.to_string()).unwrap(), value);
        }
    }
}
