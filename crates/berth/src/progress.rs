//! How a long operation looks: bars on a terminal, a line for each layer in a log, nothing with `--quiet`.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

use berth_image::Digest;
use berth_image::progress::{Event, Progress, Silent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::units::format_size;

/// The way that suits where standard error goes. `what` is the image or whatever else is worked on.
pub fn new(what: &str, quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bars::new(what))
    } else {
        Box::new(Lines { what: what.to_owned(), head: Mutex::new(None), sizes: Mutex::new(HashMap::new()) })
    }
}

/// One line for each thing that happened, for logs: no bars that fill a job's output with control characters. Where
/// nothing needs to be fetched, nothing is said.
struct Lines {
    what: String,
    /// What was found, until there is a reason to tell.
    head: Mutex<Option<String>>,
    /// Size and start of each layer under way.
    sizes: Mutex<HashMap<Digest, (u64, Instant)>>,
}

impl Lines {
    fn line(&self, event: Event<'_>) -> Option<String> {
        match event {
            Event::Resolved { digest, layers, bytes } => {
                let plural = if layers == 1 { "" } else { "s" };
                let head = format!("{}: {digest} ({layers} layer{plural}, {})", self.what, format_size(bytes));
                *self.head.lock().ok()? = Some(head);
                None
            }
            Event::Waiting(digest) => {
                Some(format!("layer {}: waiting, another process is fetching it", digest.short()))
            }
            Event::Started { digest, bytes } => {
                self.sizes.lock().ok()?.insert(digest.clone(), (bytes, Instant::now()));
                self.head.lock().ok()?.take()
            }
            Event::Finished(digest) => {
                let (bytes, start) = self.sizes.lock().ok()?.remove(digest)?;
                let seconds = start.elapsed().as_secs_f64();
                Some(format!("layer {}: {} in {seconds:.1} s", digest.short(), format_size(bytes)))
            }
            Event::Note(note) => Some(note.to_owned()),
            _ => None,
        }
    }
}

impl Progress for Lines {
    fn event(&self, event: Event<'_>) {
        if let Some(line) = self.line(event) {
            // One write, so that lines of several processes in one log stay whole; nobody to tell if it fails.
            let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// One bar for each layer under way; finished ones leave the screen.
struct Bars {
    what: String,
    screen: MultiProgress,
    head: ProgressBar,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    fn new(what: &str) -> Bars {
        let screen = MultiProgress::new();
        let head = screen.add(ProgressBar::no_length());
        head.set_style(style("{prefix}: {msg}"));
        head.set_prefix(what.to_owned());
        head.set_message("looking it up");
        Bars { what: what.to_owned(), screen, head, layers: Mutex::new(HashMap::new()) }
    }

    fn with_layer(&self, digest: &Digest, action: impl FnOnce(&ProgressBar)) {
        if let Ok(layers) = self.layers.lock()
            && let Some(bar) = layers.get(digest)
        {
            action(bar);
        }
    }

    fn add(&self, digest: &Digest, bar: ProgressBar) {
        let bar = self.screen.add(bar);
        bar.set_prefix(digest.short().to_owned());
        bar.tick();
        if let Ok(mut layers) = self.layers.lock()
            && let Some(before) = layers.insert(digest.clone(), bar)
        {
            before.finish_and_clear();
        }
    }
}

/// A template; ours are constants, and one with a mistake shows the library's default bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ")
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Resolved { digest, layers, bytes } => {
                self.head.set_message(format!("{}, {layers} layers, {}", digest.short(), format_size(bytes)));
            }
            Event::Waiting(digest) => {
                let bar = ProgressBar::no_length();
                bar.set_style(style("  {prefix} waiting: another process is fetching it"));
                self.add(digest, bar);
            }
            Event::Started { digest, bytes } => {
                let bar = ProgressBar::new(bytes);
                bar.set_style(style(
                    "  {prefix} {bar:32} {decimal_bytes:>10} of {decimal_total_bytes} {decimal_bytes_per_sec}",
                ));
                self.add(digest, bar);
            }
            Event::Advanced { digest, bytes } => self.with_layer(digest, |bar| bar.inc(bytes)),
            Event::Exists(digest) | Event::Finished(digest) => {
                let bar = self.layers.lock().ok().and_then(|mut layers| layers.remove(digest));
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
            }
            Event::Note(note) => {
                // Printing above the bars can only fail when the terminal has gone.
                let _ = self.screen.println(format!("{}: {note}", self.what));
            }
            _ => {}
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Ok(layers) = self.layers.lock() {
            layers.values().for_each(ProgressBar::finish_and_clear);
        }
        self.head.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_says_nothing_where_nothing_is_fetched() {
        let digest = Digest::of(b"layer");
        let lines = Lines { what: "x".to_owned(), head: Mutex::new(None), sizes: Mutex::new(HashMap::new()) };
        assert_eq!(lines.line(Event::Resolved { digest: &digest, layers: 1, bytes: 2_000_000 }), None);
        assert_eq!(lines.line(Event::Exists(&digest)), None);
        let head = lines.line(Event::Started { digest: &digest, bytes: 2_000_000 }).unwrap();
        assert_eq!(head, format!("x: {digest} (1 layer, 2.0 MB)"));
        assert!(lines.line(Event::Finished(&digest)).unwrap().ends_with(": 2.0 MB in 0.0 s"));
        assert_eq!(lines.line(Event::Finished(&digest)), None, "`verify` finishes what was never started");
    }
}
