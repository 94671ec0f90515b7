//! How often a registry is asked.

use std::collections::BTreeMap;

use testbed::slurm::Release;

use super::world::Rows;
use super::world::World;

on_each_release!("plugin_registry" with registry:
    four_nodes_fetch_each_blob_once,
    jobs_that_start_at_once_fetch_once,
);

/// Blobs that were sent more than once, and how often.
fn repeated(fetches: &BTreeMap<String, usize>) -> Vec<(String, usize)> {
    fetches.iter().filter(|(_, count)| **count != 1).map(|(digest, count)| (digest.clone(), *count)).collect()
}

fn four_nodes_fetch_each_blob_once(release: Release) {
    let world = World::nodes(release, 4);
    let mut rows = Rows::default();
    // Two layers and a configuration.
    let image = "--container-image=nvcr.io#nvidia/pytorch:21.12-py3";
    let said = world.srun(&["-N4", "-n8", image], &["pwd"]);
    rows.prints(&said, &"/workspace\n".repeat(8));
    let fetches = world.registry.blob_fetches();
    rows.same(format!("each blob: {:#?}", world.registry.requests()), repeated(&fetches), vec![]);
    rows.same("all of the image", fetches.len(), 3);
    // One of 100 MB, so that the others wait long.
    let said = world.srun(&["-N4", "-n4", "--container-image=debian:12"], &["sh", "-c", ". /etc/os-release; echo $ID"]);
    rows.prints(&said, &"debian\n".repeat(4));
    let fetches = world.registry.blob_fetches();
    rows.same(format!("each blob: {:#?}", world.registry.requests()), repeated(&fetches), vec![]);
    rows.same("all of both images", fetches.len(), 5);
    // What is there is not asked for again: not even by whom the image belongs to.
    let asked = world.registry.requests().len();
    rows.prints(&world.srun(&["-N4", "-n4", image], &["pwd"]), &"/workspace\n".repeat(4));
    rows.same(format!("{:#?}", world.registry.requests()), world.registry.requests().len(), asked);
    rows.end();
    world.assert_clean();
}

fn jobs_that_start_at_once_fetch_once(release: Release) {
    let world = World::nodes(release, 2);
    let image = "--container-image=debian:12";
    let steps: Vec<_> = (0..6).map(|_| world.start(&["-N1", image], "echo inside")).collect();
    for step in steps {
        assert_eq!(step.end().ok(), "inside\n");
    }
    assert_eq!(repeated(&world.registry.blob_fetches()), vec![], "{:#?}", world.registry.requests());
    world.assert_clean();
}
