//! Where a release keeps a step's files, and what patterns stand for at each moment of it.

use crate::conf::Conf;
use crate::patterns::NotExpanded;
use crate::patterns::Values;
use crate::patterns::expand;
use crate::release::Release;

/// Which step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The script of a batch job.
    Batch,
    /// The shell of an interactive allocation.
    Interactive,
    /// What `srun` starts, from 0.
    Number(u32),
}

impl Kind {
    /// `%s`.
    pub fn number(self) -> u32 {
        match self {
            Kind::Batch => 4_294_967_291,
            Kind::Interactive => 4_294_967_290,
            Kind::Number(number) => number,
        }
    }
}

/// A step on a node.
#[derive(Clone, Debug)]
pub struct Step {
    /// Job number.
    pub job: u32,
    /// Which of its steps.
    pub kind: Kind,
    /// The node's name in Slurm.
    pub node: String,
    /// The user's name.
    pub user: String,
    /// The user's number.
    pub uid: u32,
    /// What stands behind `--container`.
    pub container: String,
    /// The root of the configuration, absolute, if one was read.
    pub root: Option<String>,
    /// Where the step starts.
    pub working_dir: String,
    /// `SlurmdSpoolDir` of the node.
    pub slurmd_spool: String,
}

/// Folders of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// Of the step; the same as the task's where there is one task.
    pub step: String,
    /// Of the task: `config.json` and `environment` are in it. Older releases have a slash at its end.
    pub task: String,
}

impl Step {
    /// The folders of a task.
    pub fn folders(&self, conf: &Conf, task: u32, release: Release) -> Result<Folders, NotExpanded> {
        let values = Values { spool: self.slurmd_spool.clone(), ..self.values(Some(task)) };
        let path = conf.container_path.as_deref().map(|path| expand(path, &values, release)).transpose()?;
        let (job, number) = (self.job, self.kind.number());
        let name = |padded: bool| match self.kind {
            Kind::Batch => "batch".to_owned(),
            Kind::Interactive => "interactive".to_owned(),
            Kind::Number(_) if padded => format!("{number:05}"),
            Kind::Number(_) => number.to_string(),
        };
        let spool = &self.slurmd_spool;
        Ok(if release >= Release::NEW_SPOOL {
            let step = format!("{}/oci-job{job}-{}", path.as_ref().unwrap_or(spool), name(false));
            Folders { task: format!("{step}/task-{task}"), step }
        } else if let Some(path) = path {
            // As it is written; what is before the folder with %t in it is the step's.
            let pattern = conf.container_path.as_deref().unwrap_or_default();
            let parent = pattern.find("%t").map(|at| pattern[..at].rsplit_once('/').map_or("", |(parent, _)| parent));
            let step = parent.map(|parent| expand(parent, &values, release)).transpose()?;
            Folders { step: step.unwrap_or_else(|| path.clone()), task: path }
        } else if release.rewrites_per_task() {
            let step = format!("{spool}/oci-job{job}-{}", name(false));
            Folders { task: format!("{step}/task-{task}/"), step }
        } else {
            let step = format!("{spool}/oci-job{job:05}-{}/", name(true));
            Folders { task: step.clone(), step }
        })
    }

    /// For the command that starts a task, as its user.
    pub fn at_launch(
        &self,
        conf: &Conf,
        task: u32,
        arguments: &[String],
        release: Release,
    ) -> Result<Values, NotExpanded> {
        let folders = self.folders(conf, task, release)?;
        let mut values = self.values(Some(task));
        values.env_file = format!("{}/environment", folders.task);
        values.spool = if release >= Release::NEW_SPOOL { folders.step } else { folders.task.clone() };
        if conf.ignore_config_json {
            values.arguments = Some(arguments.to_vec());
            values.bundle.clone_from(&self.container);
            values.root = Some(self.container.clone());
        } else {
            // The command is in config.json, and nowhere else.
            values.arguments = None;
            values.bundle = folders.task;
        }
        Ok(values)
    }

    /// For the commands at the end of a step, as root. What a user typed is `%b` here, in a line for a shell.
    pub fn at_cleanup(&self, conf: &Conf, release: Release) -> Result<Values, NotExpanded> {
        let mut values = self.at_launch(conf, 0, &[], release)?;
        values.arguments = None;
        if release.rewrites_per_task() {
            values.task = None;
            values.bundle.clone_from(&self.container);
        }
        if release >= Release::NEW_SPOOL && !conf.ignore_config_json {
            values.root = None;
        }
        Ok(values)
    }

    /// What does not depend on the moment.
    fn values(&self, task: Option<u32>) -> Values {
        Values {
            bundle: self.container.clone(),
            job: self.job,
            node: self.node.clone(),
            root: self.root.clone(),
            step: self.kind.number(),
            task,
            user: self.user.clone(),
            uid: self.uid,
            working_dir: self.working_dir.clone(),
            ..Values::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASES: [Release; 3] = [Release(22, 5), Release(24, 11), Release(26, 5)];

    fn step(kind: Kind) -> Step {
        Step {
            job: 4,
            kind,
            node: "n1".to_owned(),
            user: "alice".to_owned(),
            uid: 1000,
            container: "/home/alice/b".to_owned(),
            root: Some("/home/alice/b/rootfs".to_owned()),
            working_dir: "/home/alice".to_owned(),
            slurmd_spool: "/var/spool/slurmd/n1".to_owned(),
        }
    }

    fn expanded(conf: &Conf, line: &str) -> [String; 3] {
        RELEASES.map(|release| {
            let values = step(Kind::Number(0)).at_launch(conf, 2, &["ls".to_owned()], release).unwrap();
            expand(line, &values, release).unwrap()
        })
    }

    #[test]
    fn each_release_has_its_spool() {
        // As they were seen on each of them.
        assert_eq!(
            expanded(&Conf::default(), "b=%b e=%e r=%r [%@] %t"),
            [
                "b=/var/spool/slurmd/n1/oci-job00004-00000/ e=/var/spool/slurmd/n1/oci-job00004-00000//environment \
                 r=/home/alice/b/rootfs [] 2",
                "b=/var/spool/slurmd/n1/oci-job4-0/task-2/ e=/var/spool/slurmd/n1/oci-job4-0/task-2//environment \
                 r=/home/alice/b/rootfs [] 2",
                "b=/var/spool/slurmd/n1/oci-job4-0/task-2 e=/var/spool/slurmd/n1/oci-job4-0/task-2/environment \
                 r=/home/alice/b/rootfs [] 2",
            ]
        );
    }

    #[test]
    fn a_place_of_containers_is_the_whole_one_or_the_parent() {
        let conf = Conf { container_path: Some("/c/%j/x%t".to_owned()), ..Conf::default() };
        assert_eq!(
            expanded(&conf, "%b %e"),
            [
                "/c/4/x2 /c/4/x2/environment",
                "/c/4/x2 /c/4/x2/environment",
                "/c/4/x2/oci-job4-0/task-2 /c/4/x2/oci-job4-0/task-2/environment",
            ]
        );
        let folders = step(Kind::Number(0)).folders(&conf, 2, Release(24, 11)).unwrap();
        assert_eq!(folders, Folders { step: "/c/4".to_owned(), task: "/c/4/x2".to_owned() });
    }

    #[test]
    fn without_config_json_the_users_words_are_in_the_line() {
        let conf = Conf { ignore_config_json: true, ..Conf::default() };
        let [_, middle, new] = expanded(&conf, "%b %r %@");
        assert_eq!(
            (middle.as_str(), new.as_str()),
            ("/home/alice/b /home/alice/b 'ls'", "/home/alice/b /home/alice/b 'ls'")
        );
        let values = step(Kind::Number(0)).at_launch(&conf, 2, &[], Release(26, 5)).unwrap();
        assert_eq!(expand("%m", &values, Release(26, 5)).unwrap(), "/var/spool/slurmd/n1/oci-job4-0");
        let values = step(Kind::Number(0)).at_launch(&conf, 2, &[], Release(24, 11)).unwrap();
        assert_eq!(expand("%m", &values, Release(24, 11)).unwrap(), "/var/spool/slurmd/n1/oci-job4-0/task-2/");
    }

    #[test]
    fn in_the_end_there_is_no_task_and_the_bundle_is_what_was_typed() {
        let conf = Conf::default();
        let line = |release| {
            let values = step(Kind::Number(0)).at_cleanup(&conf, release).unwrap();
            expand("%t %b %r", &values, release).unwrap()
        };
        assert_eq!(
            RELEASES.map(line),
            [
                "0 /var/spool/slurmd/n1/oci-job00004-00000/ /home/alice/b/rootfs",
                "-1 /home/alice/b /home/alice/b/rootfs",
                "-1 /home/alice/b (null)",
            ]
        );
    }

    #[test]
    fn batch_and_interactive_steps_have_names() {
        let folder = |kind, release| step(kind).folders(&Conf::default(), 0, release).unwrap().task;
        assert_eq!(folder(Kind::Batch, Release(22, 5)), "/var/spool/slurmd/n1/oci-job00004-batch/");
        assert_eq!(folder(Kind::Batch, Release(24, 11)), "/var/spool/slurmd/n1/oci-job4-batch/task-0/");
        assert_eq!(folder(Kind::Interactive, Release(26, 5)), "/var/spool/slurmd/n1/oci-job4-interactive/task-0");
        assert_eq!(Kind::Batch.number(), 4_294_967_291);
    }
}
