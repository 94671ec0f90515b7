//! Containers with a name: made on the first run, started again by later ones, joined while they run.

use std::collections::BTreeSet;
use std::time::SystemTime;

use berth_container::oci::Process;
use berth_container::state::{Container, Containers, Lock, Member, Record};
use berth_container::{Bundle, Error, Rootfs};

use crate::command_error::CommandError;
use crate::lower::Lowered;
use crate::lower::image::Image;

/// A container whose lock is held.
#[derive(Debug)]
pub struct Named {
    /// The container.
    pub container: Container,
    /// What is written down about it.
    pub record: Record,
    /// Its lock.
    pub lock: Lock,
}

/// What there is to do with a container.
#[derive(Debug)]
pub enum State {
    /// It does not run.
    Stopped(Named),
    /// It runs; this is one of its processes.
    Running(Named, u32),
}

/// Finds a container, or makes it where there is none; and waits until nobody else starts or removes it.
pub fn open_or_create(containers: &Containers, name: &str, image: &Image) -> Result<State, CommandError> {
    containers.sweep();
    loop {
        let container = match containers.get(name) {
            Err(Error::NoContainer { .. }) => match containers.create(&new_record(name, image)) {
                // Somebody else made it meanwhile.
                Err(Error::ContainerState { .. }) => continue,
                other => other?,
            },
            other => other?,
        };
        match open(container) {
            // It was removed meanwhile.
            Err(Error::NoContainer { .. }) => {}
            other => {
                let state = other?;
                let (State::Stopped(named) | State::Running(named, _)) = &state;
                check_image(&named.record, image)?;
                return Ok(state);
            }
        }
    }
}

/// Waits for a container's lock and looks whether it runs.
pub fn open(container: Container) -> Result<State, Error> {
    let lock = container.lock_or_tell(&mut || {
        eprintln!("berth: waiting for container `{}`: another process is starting or removing it", container.name());
    })?;
    let record = container.record()?;
    let mut here = BTreeSet::new();
    for member in container.members()? {
        match member {
            Member::Here(pid) => {
                here.insert(pid);
            }
            Member::On { host, pid } => {
                return Err(Error::ContainerState {
                    name: container.name().to_owned(),
                    reason: format!("is running on {host} (process {pid})"),
                    hint: Some(format!("join it there, or stop it there; if {host} is gone, `berth rm --force`")),
                });
            }
        }
    }
    let named = Named { container, record, lock };
    Ok(match here.first() {
        Some(&pid) => State::Running(named, pid),
        None => State::Stopped(named),
    })
}

/// Whether a container may be started with an image: only with the one that it was made from.
pub fn check_image(record: &Record, image: &Image) -> Result<(), CommandError> {
    let same = match (&record.digest, image.digest.as_ref().map(ToString::to_string)) {
        (Some(made), Some(asked)) => *made == asked,
        _ => record.image == image.name,
    };
    if same {
        return Ok(());
    }
    let (name, made, asked) = (&record.name, &record.image, &image.name);
    let reason = if made == asked {
        format!("container `{name}` was made from an earlier {asked}")
    } else {
        format!("container `{name}` was made from {made}, not from {asked}")
    };
    Err(CommandError::failure(reason).with_hint(format!("choose another name, or give it up with `berth rm {name}`")))
}

/// What is written down about a container that is made now.
pub fn new_record(name: &str, image: &Image) -> Record {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Record {
        name: name.to_owned(),
        created: now.as_secs(),
        id: format!("{:x}.{:x}", now.as_nanos(), std::process::id()),
        image: image.name.clone(),
        digest: image.digest.as_ref().map(ToString::to_string),
        bundle: Bundle { spec: berth_container::oci::Spec::default(), rootfs: Rootfs::Dir("/".into()) },
        fake_ownership: false,
        stop_signal: None,
    }
}

impl Named {
    /// Writes down how the container is started now, its changes going to its own directory.
    pub fn prepare(&mut self, lowered: &mut Lowered, image: &Image) -> Result<(), CommandError> {
        lowered.keep_changes(self.container.upper(), self.container.work());
        self.record.bundle = lowered.bundle.clone();
        self.record.fake_ownership = lowered.fake_ownership;
        self.record.stop_signal = Some(image.config.stop_signal.clone()).filter(|signal| !signal.is_empty());
        Ok(self.container.write_record(&self.record)?)
    }

    /// The process that joins the running container: the wanted command, as the user that runs there, and in a directory
    /// that is there.
    pub fn joining(&self, wanted: Process, keep_cwd: bool) -> Process {
        let Some(running) = &self.record.bundle.spec.process else { return wanted };
        let shown = self.record.bundle.spec.mounts.iter().any(|mount| {
            mount.is_bind()
                && mount.source.as_ref() == Some(&mount.destination)
                && wanted.cwd.starts_with(&mount.destination)
        });
        Process {
            cwd: if shown || keep_cwd { wanted.cwd } else { running.cwd.clone() },
            user: running.user.clone(),
            no_new_privileges: running.no_new_privileges,
            ..wanted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_container::oci::Mount;
    use berth_image::Digest;

    fn image(name: &str, digest: Option<&str>) -> Image {
        Image {
            name: name.to_owned(),
            digest: digest.map(|content| Digest::of(content.as_bytes())),
            ..Image::default()
        }
    }

    #[test]
    fn a_container_stays_with_the_image_that_it_was_made_from() {
        let place = tempfile::tempdir().unwrap();
        let containers = Containers::at(place.path());
        let made = image("debian:12", Some("1"));
        drop(open_or_create(&containers, "one", &made).unwrap());
        drop(open_or_create(&containers, "one", &image("localhost/debian:12", Some("1"))).unwrap());
        let error = open_or_create(&containers, "one", &image("debian:12", Some("2"))).unwrap_err();
        assert_eq!(error.to_string(), "container `one` was made from an earlier debian:12");
        let error = open_or_create(&containers, "one", &image("ubuntu", Some("3"))).unwrap_err();
        assert_eq!(error.to_string(), "container `one` was made from debian:12, not from ubuntu");
    }

    #[test]
    fn who_joins_starts_in_a_directory_that_is_there() {
        let place = tempfile::tempdir().unwrap();
        let image = image("x", None);
        let State::Stopped(mut named) = open_or_create(&Containers::at(place.path()), "one", &image).unwrap() else {
            panic!("it does not run")
        };
        named.record.bundle.spec.process = Some(Process { cwd: "/there".into(), ..Process::default() });
        named.record.bundle.spec.mounts = vec![Mount::rbind("/home/me", "/home/me"), Mount::rbind("/a", "/b")];
        let cwd = |path: &str, keep| named.joining(Process { cwd: path.into(), ..Process::default() }, keep).cwd;
        assert_eq!(cwd("/home/me/work", false), std::path::Path::new("/home/me/work"));
        assert_eq!(cwd("/data", false), std::path::Path::new("/there"));
        assert_eq!(cwd("/b", false), std::path::Path::new("/there"), "another directory under the same path");
        assert_eq!(cwd("/data", true), std::path::Path::new("/data"));
    }
}
