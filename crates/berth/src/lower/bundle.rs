//! From an image to the configuration of a bundle, for other runtimes: `berth bundle`.
//!
//! What `spec` writes for a shell, with the image's own command, variables, directory and user in it, by the rules of the OCI
//! image specification for conversion. Nothing of this host or of a person is in it, so that it is the same for everybody, but
//! for the ids that are root inside.

use std::path::PathBuf;

use berth_container::accounts;
use berth_container::launch::DEFAULT_PATH;
use berth_container::oci::Root;
use berth_container::oci::Spec;
use berth_container::oci::User;
use berth_container::runtime::default_spec::default_spec;

use crate::command_error::CommandError;
use crate::lower::annotations;
use crate::lower::command;
use crate::lower::image::Image;

/// The version of the specification that bundles claim: nothing of a later one is in them, and crun up to 1.8 knows no later one.
const OLD_VERSION: &str = "1.0.2";

/// The configuration for an image whose tree is the directory `rootfs` beside it, and what a person may want to know.
/// `rootless` has the ids that are root inside.
pub fn spec(image: &Image, rootless: Option<(u32, u32)>) -> Result<(Spec, Vec<String>), CommandError> {
    let mut notes = Vec::new();
    let mut spec = default_spec(rootless);
    OLD_VERSION.clone_into(&mut spec.oci_version);
    spec.root = Some(Root { path: "rootfs".into(), readonly: false });
    spec.annotations = annotations(image);
    let process = spec.process.get_or_insert_default();
    // A step or a script has none; Slurm says in each step whether there is one.
    process.terminal = false;
    let words = command::words(&image.config, None, &[]).map_err(CommandError::failure)?;
    if words.is_empty() {
        notes.push(format!("{} says no command of its own: the configuration has `sh`", image.name));
    } else {
        // They come from a JSON document, and are text.
        process.args = words.into_iter().filter_map(|word| word.into_string().ok()).collect();
    }
    if image.config.working_dir.starts_with('/') {
        process.cwd = PathBuf::from(&image.config.working_dir);
    }
    let identity = accounts::resolve(&image.config.user, &image.passwd, &image.group).map_err(|error| {
        CommandError::failure(format!("{}: the image's user `{}`: {error}", image.name, image.config.user))
    })?;
    let mut home = identity.home;
    if rootless.is_none() || (identity.uid, identity.gid) == (0, 0) {
        process.user = User { uid: identity.uid, gid: identity.gid, umask: None, additional_gids: identity.groups };
        if rootless.is_some() {
            // The kernel lets nobody choose groups that are not mapped.
            process.user.additional_gids.clear();
        }
    } else {
        notes.push(format!(
            "{} wants to run as `{}`, which one mapped id cannot be: it runs as root inside, which is you outside",
            image.name, image.config.user
        ));
        home =
            accounts::resolve("0", &image.passwd, &image.group).map_or_else(|_| "/root".to_owned(), |root| root.home);
    }
    process.env.clone_from(&image.config.env);
    let has = |env: &[String], name: &str| env.iter().any(|variable| variable.split('=').next() == Some(name));
    for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", &home)] {
        if !has(&process.env, name) {
            process.env.push(format!("{name}={value}"));
        }
    }
    Ok((spec, notes))
}

#[cfg(test)]
mod tests {
    use berth_image::manifest::RunConfig;

    use super::*;

    fn image(config: RunConfig) -> Image {
        Image {
            name: "example".to_owned(),
            config,
            passwd: b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n".to_vec(),
            group: b"root:x:0:\nweb:x:34:\nmore:x:35:web\n".to_vec(),
            ..Image::default()
        }
    }

    fn web() -> RunConfig {
        RunConfig {
            user: "web".to_owned(),
            env: vec!["A=b c".to_owned(), "PATH=/opt/bin".to_owned()],
            entrypoint: vec!["/init".to_owned()],
            cmd: vec!["--serve".to_owned()],
            working_dir: "/srv".to_owned(),
            labels: [("key".to_owned(), "value".to_owned())].into(),
            stop_signal: "SIGINT".to_owned(),
            ..RunConfig::default()
        }
    }

    #[test]
    fn what_the_image_says_is_kept() {
        let (spec, notes) = spec(&image(web()), None).unwrap();
        let process = spec.process.unwrap();
        assert_eq!(notes, [""; 0]);
        assert_eq!(process.args, ["/init", "--serve"]);
        assert_eq!(process.env, ["A=b c", "PATH=/opt/bin", "HOME=/srv"]);
        assert_eq!((process.cwd, process.terminal), ("/srv".into(), false));
        let user = process.user;
        assert_eq!((user.uid, user.gid, user.additional_gids), (33, 34, vec![35]));
        assert_eq!(spec.root.unwrap().path, PathBuf::from("rootfs"));
        assert_eq!(spec.annotations["key"], "value");
        assert_eq!(spec.annotations["org.opencontainers.image.stopSignal"], "SIGINT");
    }

    #[test]
    fn one_mapped_id_is_root_inside() {
        let (spec, notes) = spec(&image(web()), Some((1000, 100))).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("`web`"), "{notes:?}");
        let linux = spec.linux.unwrap();
        assert_eq!((linux.uid_mappings[0].host_id, linux.gid_mappings[0].host_id), (1000, 100));
        let process = spec.process.unwrap();
        assert_eq!((process.user.uid, process.user.gid, process.user.additional_gids.len()), (0, 0, 0));
        assert!(process.env.contains(&"HOME=/root".to_owned()));
    }

    #[test]
    fn an_image_that_says_nothing_gets_a_shell() {
        let (spec, notes) = spec(&image(RunConfig::default()), None).unwrap();
        let process = spec.process.unwrap();
        assert_eq!((process.args, process.cwd), (vec!["sh".to_owned()], "/".into()));
        assert!(notes[0].contains("no command"), "{notes:?}");
    }

    #[test]
    fn a_user_whom_the_image_does_not_know_is_refused() {
        let unknown = RunConfig { user: "nobody-knows".to_owned(), ..RunConfig::default() };
        assert!(spec(&image(unknown), None).unwrap_err().to_string().contains("nobody-knows"));
    }
}
