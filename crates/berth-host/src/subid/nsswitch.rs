//! Which service the system asks for subordinate ids: the line `subid:` of `/etc/nsswitch.conf`.
//!
//! Unlike the other lines it names one service only, and where it names one, `/etc/subuid` and `/etc/subgid` are not read.

/// The service, as shadow's tools read the text; none where the files are used.
pub fn service(text: &str) -> Option<&str> {
    let services = text.lines().filter_map(|line| {
        let (name, rest) = line.split_at_checked("subid:".len())?;
        if !name.eq_ignore_ascii_case("subid:") {
            return None;
        }
        rest.split([' ', '\t']).find(|word| !word.is_empty())
    });
    // The first line that names any service counts, whatever others say.
    services.take(1).find(|service| *service != "files")
}

/// Whether it is ours: the files of ranges are not asked then.
pub fn is_berth(text: &str) -> bool {
    service(text) == Some("berth")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_names_a_service_counts() {
        for (text, expected) in [
            ("passwd: files\nsubid: berth\n", Some("berth")),
            ("SubId:\t berth files\n", Some("berth")),
            ("subid:\nsubid: sss\n", Some("sss")),
            ("subid: files\nsubid: berth\n", None),
            ("# subid: berth\nsubids: berth\n subid: berth\n", None),
            ("", None),
        ] {
            assert_eq!(service(text), expected, "{text:?}");
        }
        assert!(is_berth("subid: berth") && !is_berth("subid: sss"));
    }
}
