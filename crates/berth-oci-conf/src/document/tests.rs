use super::*;

fn at(line: usize, column: usize) -> Position {
    Position { file: 0, line, column }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let document = Document::of_text(text);
    assert_eq!(document.mistakes, [], "{text}");
    document.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

fn one(text: &str) -> String {
    let pairs = pairs(text);
    assert_eq!(pairs.len(), 1, "{text}");
    pairs[0].1.clone()
}

#[test]
fn values_are_quoted_or_words() {
    for (text, value) in [
        ("A=b", "b"),
        ("  A = \"b c\"  ", "b c"),
        ("A=\"\"", ""),
        ("A.b_1\t=\tx", "x"),
        ("A=b\r\n", "b"),
        ("A=\"b\"\r\n", "b"),
        // Marks within or without a fellow are letters, and so are apostrophes.
        ("A=b\"c\"d", "b\"c\"d"),
        ("A=\"b\"c", "\"b\"c"),
        ("A=\"true", "\"true"),
        ("A='b'", "'b'"),
        ("A==b", "=b"),
        ("A+=b", "b"),
        ("A *= b", "b"),
        // No newline at the end, and nothing but a backslash.
        ("A=b\\", "b"),
    ] {
        assert_eq!(one(text), value, "{text}");
    }
}

#[test]
fn comments_and_backslashes_are_read_before_quotation_marks() {
    for (text, value) in [
        ("A=b # c", "b"),
        ("A=b\\#c", "b#c"),
        ("A=\"b \\# c\"", "b # c"),
        ("A=b\\\\#c", "b\\"),
        ("A=\"a\\\\.b\"", "a\\.b"),
        ("A=\"a\\.b\"", "a.b"),
        ("A=\"b \\\nc\"", "b c"),
        ("A=\"b \\  \nc\"", "b c"),
        ("A=\"b \\ # d\nc\"", "b c"),
        ("A=\"b\\\\\\\nc\"", "b\\c"),
        ("A=\"b\\\r\nc\"", "bc"),
        ("# \\\nA=b", "b"),
    ] {
        assert_eq!(one(text), value, "{text}");
    }
}

#[test]
fn what_slurm_cannot_read_has_its_place() {
    for (text, line, column, what, rest) in [
        ("hello", 1, 1, Trouble::NoPair, "hello"),
        ("\n  hello there\n", 2, 3, Trouble::NoPair, "hello there"),
        ("B=1\nA=", 2, 1, Trouble::NoValue, "A="),
        ("A= # b\n", 1, 1, Trouble::NoValue, "A="),
        ("A=\"b c", 1, 3, Trouble::OpenQuote, " c"),
        ("A=\"b # c\"\n", 1, 3, Trouble::OpenQuote, ""),
        ("A=b B=c", 1, 5, Trouble::More, "B=c"),
        ("A='b c'", 1, 6, Trouble::More, "c'"),
        ("A=\"b\" \\\n  B=c", 2, 3, Trouble::More, "B=c"),
        ("=b", 1, 1, Trouble::NoPair, "=b"),
        ("\u{feff}A=b", 1, 1, Trouble::ByteOrderMark, "\u{feff}A=b"),
        (" Include x", 1, 2, Trouble::IndentedInclude, "Include x"),
        ("include \"x\"", 1, 9, Trouble::QuotedInclude, "\"x\""),
        ("include \n", 1, 9, Trouble::NoValue, "Include"),
        ("include x", 1, 9, Trouble::Include, "x: entity not found"),
        ("A=b\0c", 1, 4, Trouble::Zero, ""),
    ] {
        let found = Document::of_text(text).mistakes;
        let Some(first) = found.first() else {
            assert_eq!(text, "A=\"b # c\"\n", "no mistake");
            continue;
        };
        assert_eq!((first.at, first.what), (at(line, column), what), "{text}");
        assert_eq!(first.text.trim(), rest.trim(), "{text}");
        assert_eq!(found.len(), 1, "{text}");
    }
}

#[test]
fn what_is_no_text_and_what_is_too_large_is_refused() {
    let none = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let latin = Document::parse(Path::new("x"), b"A=b\nB=\"na\xefve\"\n", &mut { none });
    assert_eq!(latin.mistakes, [Mistake { at: at(2, 6), what: Trouble::NoText, text: String::new() }]);
    let large = Document::parse(Path::new("x"), &vec![b' '; MAX_BYTES as usize + 1], &mut { none });
    assert_eq!(large.mistakes[0].what, Trouble::TooLarge);
}

#[test]
fn what_reads_otherwise_than_it_looks_is_remarked() {
    for (text, column, what) in [
        ("A=\"b # c\"", 6, Surprise::CommentInQuotes),
        ("A=\"b \\\"c\" d\"", 6, Surprise::EscapedQuote),
        ("A=\"^X\\.Y\"", 6, Surprise::LostBackslash('.')),
    ] {
        assert_eq!(Document::of_text(text).remarks[0], Remark { at: at(1, column), what }, "{text}");
    }
    assert_eq!(Document::of_text("A=\"b\" # \"c\" \\. \nB=\"a\\#b\\\\c\"").remarks, []);
    // The mark is on the line before.
    assert_eq!(Document::of_text("A=\"b \\\n# c\"").remarks[0].at, at(2, 1));
}

#[test]
fn each_character_of_a_value_has_its_place() {
    let document = Document::of_text("A=\"ü \\\n  %b\"\n");
    let entry = &document.entries[0];
    assert_eq!(entry.value, "ü   %b");
    assert_eq!(entry.at(entry.value.find('%').unwrap()), at(2, 3));
    assert_eq!((entry.at(0), entry.at(99)), (at(1, 4), at(2, 5)));
}

#[test]
fn files_are_included_beside_the_one_that_names_them() {
    let mut include = |path: &Path| match path.to_str() {
        Some("/etc/slurm/a/b.conf") => Ok(b"B=2\ninclude c.conf\n".to_vec()),
        Some("/etc/slurm/a/c.conf") => Ok(b"hello\n".to_vec()),
        Some("/abs") => Ok(b"C=3\n".to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let text = b"A=1\nINCLUDE a/b.conf \nInclude /abs x\nA=4\n";
    let document = Document::parse(Path::new("/etc/slurm/oci.conf"), text, &mut include);
    let values: Vec<&str> = document.entries.iter().map(|entry| entry.value.as_str()).collect();
    assert_eq!(values, ["1", "2", "3", "4"]);
    assert_eq!(document.entries[1].key_at, Position { file: 1, line: 1, column: 1 });
    assert_eq!(document.files.len(), 4);
    let mistakes: Vec<(Position, Trouble)> = document.mistakes.iter().map(|one| (one.at, one.what)).collect();
    let in_c = Position { file: 2, line: 1, column: 1 };
    assert_eq!(mistakes, [(in_c, Trouble::NoPair), (at(3, 14), Trouble::More)]);
    assert_eq!(document.last("a").unwrap().value, "4");
}

#[test]
fn a_circle_ends() {
    let mut include = |_: &Path| Ok(b"Include oci.conf\nInclude oci.conf\n".to_vec());
    let document = Document::parse(Path::new("oci.conf"), b"Include oci.conf\n", &mut include);
    assert!(document.files.len() <= MAX_FILES);
    assert!(document.mistakes.iter().all(|mistake| mistake.what == Trouble::IncludeCircle));
}

#[test]
fn a_file_of_the_host_is_read_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("oci.conf");
    std::fs::write(&file, "A=1\nInclude more.conf\n").unwrap();
    std::fs::write(dir.path().join("more.conf"), "B=2").unwrap();
    assert_eq!(Document::load(&file).unwrap().to_string(), "A=1\nB=2\n");
    assert!(Document::load(dir.path()).is_err());
    assert!(Document::load(&dir.path().join("none")).is_err());
}

#[test]
fn what_is_printed_is_read_as_the_same() {
    for text in ["A=\"b \\# \\\\ c\"", "A=b\"c\"d", "A+=\"\"", "A=\"true", "A='x\\\\\\#'", "A=\"b\\\n\\\\c\""] {
        let first = Document::of_text(text);
        let second = Document::of_text(&first.to_string());
        assert_eq!(second.mistakes, []);
        let facts = |document: &Document| {
            let entries = document.entries.iter();
            entries.map(|entry| (entry.key.clone(), entry.operator, entry.value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(facts(&first), facts(&second), "{text}");
    }
}
