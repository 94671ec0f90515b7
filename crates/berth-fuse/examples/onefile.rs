//! Packs, lists and mounts images in one file: what the tests and measurements use until the command does it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use berth_fuse::Owners;
use berth_fuse::Server;
use berth_fuse::mount;
use berth_imagefile::Compression;
use berth_imagefile::listing::listing;
use berth_imagefile::source::directory::add_directory;
use berth_imagefile::squashfs::Options;
use berth_imagefile::squashfs::SquashfsWriter;

#[path = "../../berth-imagefile/tests/support/mod.rs"]
mod support;

type Failure = Box<dyn std::error::Error>;

const USAGE: &str =
    "onefile list IMAGE | pack DIR IMAGE [COMPRESSION [BLOCK-SIZE]] | mount IMAGE DIR [image|UID:GID] | walk DIR";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["list", image] => list(image),
        ["walk", directory] => {
            support::walk(Path::new(directory), false).iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        ["pack", directory, image, rest @ ..] => pack(directory, image, rest),
        ["mount", image, directory, rest @ ..] => serve(image, directory, rest),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onefile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(image: &str) -> Result<(), Failure> {
    let tree = berth_imagefile::open(File::open(image)?, image)?;
    for line in listing(&*tree, 10_000_000)? {
        println!("{line}");
    }
    Ok(())
}

fn pack(directory: &str, image: &str, rest: &[&str]) -> Result<(), Failure> {
    let mut options = Options::default();
    if let Some(text) = rest.first() {
        options.compression = Compression::parse(text)?;
    }
    if let Some(text) = rest.get(1) {
        options.block_size = text.parse()?;
    }
    let directory = File::open(directory)?;
    let mut writer = SquashfsWriter::create(File::create_new(image)?, image, options)?;
    add_directory(directory.as_fd(), &mut writer)?;
    println!("{:?}", writer.finish()?);
    Ok(())
}

fn serve(image: &str, directory: &str, rest: &[&str]) -> Result<(), Failure> {
    let owners = match rest.first() {
        None | Some(&"image") => Owners::Image,
        Some(text) => {
            let (uid, gid) = text.split_once(':').ok_or(USAGE)?;
            Owners::All(uid.parse()?, gid.parse()?)
        }
    };
    let device = std::env::var("ONEFILE_DEVICE").unwrap_or_else(|_| mount::DEVICE.to_owned());
    let tree = berth_imagefile::open(File::open(image)?, image)?;
    let mounted = mount::mount(Path::new(&device), image, mount::Access::Namespace)?;
    mount::attach(mounted.mount.as_fd(), Path::new(directory))?;
    drop(mounted.mount);
    Server::new(tree, mounted.connection, owners).serve(4);
    Ok(())
}
