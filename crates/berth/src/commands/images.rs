//! `berth images`

use crate::ExitCode;
use std::time::SystemTime;

use berth_image::Reference;
use serde::Serialize;

use crate::output::Table;
use crate::units::{format_age, format_size, parse_rfc3339};
use crate::{CommandError, Context, output};

/// List the images of the store
///
/// With --quiet, the digests only.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// An image under one of its names, as `--json` shows it.
#[derive(Serialize)]
struct Row<'a> {
    name: Option<&'a str>,
    digest: String,
    config: String,
    created: Option<&'a str>,
    size: u64,
    layers: usize,
    pulled: u64,
    used: u64,
}

/// Lists them, one row for each name; an image that lost its names has one row without.
pub fn run(_: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let entries = context.store()?.images()?;
    let rows = entries.iter().flat_map(|entry| {
        let names: Vec<Option<&str>> = match entry.names.as_slice() {
            [] => vec![None],
            names => names.iter().map(|name| Some(name.as_str())).collect(),
        };
        names.into_iter().map(move |name| Row {
            name,
            digest: entry.record.digest.to_string(),
            config: entry.record.config_digest.to_string(),
            created: entry.record.created.as_deref(),
            size: entry.bytes,
            layers: entry.record.layers.len(),
            pulled: entry.record.pulled,
            used: seconds(entry.used),
        })
    });
    if context.json() {
        output::json(&rows.collect::<Vec<_>>())?;
    } else if context.quiet() {
        let mut digests: Vec<String> = rows.map(|row| row.digest).collect();
        digests.dedup();
        output::lines(digests)?;
    } else {
        let now = seconds(SystemTime::now());
        let mut table = Table::new(&["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE"]);
        for row in rows {
            let (repository, tag) = row.name.map_or(("<none>", "<none>"), split_tag);
            let hex = row.digest.split_once(':').map_or(row.digest.as_str(), |(_, hex)| hex);
            table.row([
                repository.to_owned(),
                tag.to_owned(),
                hex.chars().take(12).collect(),
                row.created.and_then(parse_rfc3339).map_or_else(|| "-".to_owned(), |then| format_age(then, now)),
                format_size(row.size),
            ]);
        }
        table.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Seconds since the epoch.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Splits `registry:5000/name:tag` before the tag. What came from a file or from another engine has none.
fn split_tag(name: &str) -> (&str, &str) {
    if !matches!(Reference::parse(name), Ok(Reference::Registry(_))) {
        return (name, "<none>");
    }
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    if let Some(at) = name[last..].find('@') {
        return (&name[..last + at], "<none>");
    }
    match name[last..].rfind(':') {
        Some(colon) => (&name[..last + colon], &name[last + colon + 1..]),
        None => (name, "<none>"),
    }
}

#[cfg(test)]
mod tests {
    use super::split_tag;

    #[test]
    fn a_port_is_not_a_tag() {
        for (name, expected) in [
            ("docker.io/library/debian:12", ("docker.io/library/debian", "12")),
            ("localhost:5000/debian", ("localhost:5000/debian", "<none>")),
            ("localhost:5000/debian:12", ("localhost:5000/debian", "12")),
            ("docker-archive:/tmp/image.tar", ("docker-archive:/tmp/image.tar", "<none>")),
            ("oci:/tmp/layout:1.0", ("oci:/tmp/layout:1.0", "<none>")),
        ] {
            assert_eq!(split_tag(name), expected);
        }
    }
}
