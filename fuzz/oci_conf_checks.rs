//! What must hold for any `oci.conf` at all. The fuzz target and a plain test share this file.

use std::io;
use std::path::Path;

use berth_oci_conf::Conf;
use berth_oci_conf::Document;
use berth_oci_conf::Release;
use berth_oci_conf::check::check;
use berth_oci_conf::patterns;

/// A file is read or refused, what was read is printed so that it is read as the same, and every release has something to
/// say of it, at a place that is in the file.
pub fn oci_conf(data: &[u8]) {
    // A file that includes others includes itself, and so on.
    let mut include =
        |path: &Path| if path.ends_with("none") { Err(io::Error::other("none")) } else { Ok(data.to_vec()) };
    let document = Document::parse(Path::new("/etc/slurm/oci.conf"), data, &mut include);
    let printed = document.to_string();
    let again = Document::of_text(&printed);
    assert_eq!(again.mistakes, [], "{printed:?}");
    let facts = |document: &Document| {
        let entries = document.entries.iter();
        entries.map(|entry| (entry.key.clone(), entry.operator, entry.value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(facts(&again), facts(&document), "{printed:?}");
    for entry in &document.entries {
        let pieces = patterns::pieces(&entry.value).len();
        assert!(pieces <= entry.value.len());
    }
    let lines = data.iter().filter(|&&byte| byte == b'\n').count() + 1;
    for release in Release::KNOWN {
        let found = check(&document, release);
        for finding in &found {
            assert!(finding.at.file < document.files.len() && finding.at.line <= lines, "{finding:?}");
        }
        if let Err(refused) = Conf::of(&document, release) {
            assert!(
                found.iter().any(|finding| finding.severity == berth_oci_conf::check::Severity::Error),
                "{refused}"
            );
        }
    }
}
