//! gres.conf, where this host has GPUs.
//!
//! A line of ours names the node: sites share the file between nodes, and slurmd does not start where a line that holds for it names a
//! device that is not there.

use super::Change;
use super::Plan;
use super::line;
use super::slurm::HEAD;
use super::slurm::added;
use crate::doctor::Host;
use crate::slurm::Site;
use crate::slurm::gres;

/// Adds a line for this host's GPUs to gres.conf, unless one is there that holds for it.
pub fn gres(host: &Host, site: &Site, plan: &mut Plan) {
    let Some(gpus) = gres::find(host) else { return };
    let path = site.file("gres.conf");
    let before = host.read(&path).unwrap_or_default();
    let node = gres::node_name(host, site);
    let is_gpu = |key: &str, value: &str| {
        key.eq_ignore_ascii_case("AutoDetect") || key.eq_ignore_ascii_case("Name") && value.eq_ignore_ascii_case("gpu")
    };
    let ours = |line: &str| line.starts_with(&format!("NodeName={node} ")) && before.starts_with(HEAD);
    let there = gres::of_node(&before, &node);
    let others = there.iter().any(|entry| {
        let text = before.lines().nth(entry.line - 1).unwrap_or_default();
        is_gpu(&entry.key, &entry.value) && !ours(text)
    });
    if others {
        return;
    }
    let way = gpus.detects.iter().find(|(word, _)| gres::would_detect(host, site, word));
    let new = match way {
        Some((word, why)) => line(format!("NodeName={node} AutoDetect={word}"), why),
        None => line(
            format!("NodeName={node} Name=gpu File={}", gpus.files),
            "the GPUs of this host, a device file each; no plugin of this Slurm can ask the driver (AutoDetect)",
        ),
    };
    // What was ours before goes: the devices may be others now.
    let kept: String = before.split_inclusive('\n').filter(|line| !ours(line)).collect();
    let start = if kept.is_empty() { added("", HEAD) } else { kept };
    plan.changes.push(Change { path, content: added(&start, &new.text), mode: 0o644, lines: vec![new] });
    promised(site, &node, gpus.count, plan);
}

/// What slurm.conf has to say beside, which is the same on all hosts and the site's own.
fn promised(site: &Site, node: &str, count: usize, plan: &mut Plan) {
    let has = |key: &str, word: &str| {
        let mut values = site.conf.iter().filter(|entry| entry.key.eq_ignore_ascii_case(key));
        values.any(|entry| entry.value.split(',').any(|part| part.split(':').next() == Some(word)))
    };
    let mut missing = Vec::new();
    if !has("GresTypes", "gpu") {
        missing.push("GresTypes=gpu".to_owned());
    }
    if !has("Gres", "gpu") {
        missing.push(format!("Gres=gpu:{count} in the line NodeName={node}"));
    }
    if !missing.is_empty() {
        plan.notes.push(format!(
            "{} wants {}, on every host; then restart slurmctld and slurmd",
            site.file("slurm.conf"),
            missing.join(", and ")
        ));
    }
}
