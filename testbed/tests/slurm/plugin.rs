//! `srun --container-image=…`: what people type for pyxis, on real clusters, with registries that answer for public ones.

use testbed::harness::Chapter;

mod arguments;
mod environment;
mod errors;
mod images;
mod jobs;
mod mounts;
mod names;
mod onefile;
mod ours;
mod registry;
mod rights;
mod seeds;
mod site;
mod submit;
pub mod world;

/// All tests of the plugin.
pub const CHAPTERS: [[Chapter; 3]; 14] = [
    // Its test of a time limit takes longest.
    jobs::CHAPTERS,
    seeds::CHAPTERS,
    images::CHAPTERS,
    mounts::CHAPTERS,
    rights::CHAPTERS,
    names::CHAPTERS,
    onefile::CHAPTERS,
    environment::CHAPTERS,
    arguments::CHAPTERS,
    errors::CHAPTERS,
    submit::CHAPTERS,
    ours::CHAPTERS,
    registry::CHAPTERS,
    site::CHAPTERS,
];
