//! A healthy host in a folder, with one fault at a time.

mod plants;
pub mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Notes;
use super::Severity;
use plants::PLANTS;
use plants::Plant;
use plants::Promise;
use world::World;

/// All that is found on a host, by kind.
pub(crate) fn kinds(world: &World) -> Vec<String> {
    let report = super::check(&Arc::new(world.host()));
    report.findings().map(|finding| finding.kind.clone()).collect()
}

#[test]
fn nothing_is_found_on_a_healthy_host() {
    for version in ["22.05.8", "24.11.5", "26.05.5"] {
        let world = World::healthy(version);
        let report = super::check(&Arc::new(world.host()));
        let found: Vec<_> = report.findings().map(|finding| (&finding.kind, &finding.what)).collect();
        assert!(found.is_empty(), "{version}: {found:?}");
        assert!(report.sections.iter().all(|section| !section.notes.fine.is_empty()), "{report:#?}");
    }
}

/// One pass over all faults, as most of the time goes into making the hosts.
#[test]
fn each_planted_fault_is_found_named_explained_and_mended_as_promised() {
    assert!(PLANTS.len() >= 60 && PLANTS.iter().filter(|plant| plant.fix != Promise::Nothing).count() >= 15);
    let wrong: Vec<String> = PLANTS.iter().filter_map(|plant| judge(plant).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn judge(Plant { kind, fix, plant }: &Plant) -> Result<(), String> {
    let mut world = World::healthy("26.05.5");
    plant(&mut world);
    let host = Arc::new(world.host());
    let mut report = super::check(&host);
    let found: Vec<_> = report.findings().map(|finding| (finding.kind.as_str(), finding.what.as_str())).collect();
    if found.len() != 1 || found[0].0 != *kind {
        return Err(format!("{kind}: found {found:?}"));
    }
    let finding = report.findings().next().expect("it was counted");
    for text in [&finding.what, &finding.breaks, &finding.mend] {
        if text.is_empty() || text.contains('\n') {
            return Err(format!("{kind}: {finding:?}"));
        }
    }
    let before = world.files();
    report.fix(&host);
    let done = report.findings().next().and_then(|finding| finding.done.clone());
    match (fix, done) {
        (Promise::Nothing, None) if world.files() == before => return Ok(()),
        (Promise::Now, Some(Ok(_))) if !report.has_faults() => {}
        (Promise::Prepared, Some(Ok(_))) if world.files() != before => {}
        (fix, done) => return Err(format!("{kind}: promised {fix:?}, done {done:?}")),
    }
    let (left, files) = (kinds(&world), world.files());
    if *fix == Promise::Now && !left.is_empty() {
        return Err(format!("{kind}: still {left:?}"));
    }
    // A second time, nothing changes.
    let mut again = super::check(&host);
    again.fix(&host);
    if world.files() != files {
        return Err(format!("{kind}: mended twice"));
    }
    Ok(())
}

#[test]
fn kinds_are_described_in_the_documentation() {
    let text = include_str!("../../../../docs/doctor.md");
    let kinds: BTreeSet<&str> = PLANTS.iter().map(|plant| plant.kind).collect();
    let missing: Vec<_> = kinds.into_iter().filter(|kind| !text.contains(&format!("`{kind}`"))).collect();
    assert!(missing.is_empty(), "docs/doctor.md lacks {missing:?}");
}

#[test]
fn a_report_survives_its_json() {
    let mut world = World::healthy("26.05.5");
    world.write("/etc/slurm/oci.conf", "hello\n");
    let report = super::check(&Arc::new(world.host()));
    let text = serde_json::to_string(&report).unwrap();
    let back: super::Report = serde_json::from_str(&text).unwrap();
    assert_eq!(back.findings().count(), report.findings().count());
    assert!(back.has_faults());
}

#[test]
fn a_check_that_does_not_answer_is_a_finding() {
    let notes: Notes = super::unanswered("Slurm", super::LIMIT);
    assert_eq!(notes.findings[0].severity, Severity::Fault);
    assert!(notes.findings[0].what.contains("Slurm"));
}

#[test]
fn a_host_without_slurm_is_asked_nothing_of_it() {
    let world = World::bare();
    assert_eq!(kinds(&world), [] as [&str; 0]);
    let mut host = world.host();
    host.role = super::Role::Node;
    let report = super::check(&Arc::new(host));
    assert_eq!(report.findings().map(|f| f.kind.as_str()).collect::<Vec<_>>(), ["slurm-missing"]);
}
