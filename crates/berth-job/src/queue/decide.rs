//! Decisions about the queue, made under its lock by whoever has a reason: a submission, an end, a signal of time.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::active::Entry;
use super::schedule::{self, Pass};
use super::{Locked, Queue, read_file};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::options::array;
use crate::options::dependency::{self, Dependencies, One, Status, Verdict};
use crate::record::{Array, Exit, Job, Kind, Reason, State};
use crate::time;

impl Entry {
    /// What decisions need of a job that waits.
    pub fn of(job: &Job) -> Entry {
        let resources = &job.resources;
        let waiting = job.array.as_ref().filter(|array| array.task.is_none());
        Entry {
            id: job.id,
            kind: job.kind,
            cpus: resources.cpus(),
            memory: resources
                .memory
                .or_else(|| resources.memory_per_cpu.map(|bytes| bytes.saturating_mul(u64::from(resources.cpus())))),
            gpus: resources.gpus,
            exclusive: resources.exclusive,
            limit: job.time_limit,
            begin: job.begin,
            dependency: job.dependency.clone(),
            kill_on_invalid: job.other.get("kill-on-invalid-dep").is_some_and(|word| word == "yes"),
            held: job.held,
            waiting: waiting.map(|array| array.waiting.clone()),
            array_limit: job.array.as_ref().map_or(0, |array| array.limit),
            array: job.array.as_ref().filter(|array| array.task.is_some()).map(|array| array.job),
            name: job.name.clone(),
            ..Entry::default()
        }
    }
}

impl Queue {
    /// Who may start now, of this list.
    pub fn pass(&self, entries: &[Entry], node: &Node) -> Pass {
        let parsed: Vec<Option<Dependencies>> = entries
            .iter()
            .map(|entry| (!entry.dependency.is_empty()).then(|| dependency::parse(&entry.dependency)).flatten())
            .collect();
        let now = time::now();
        schedule::pass(entries, node, now, |index, element| {
            let Some(dependencies) = &parsed[index] else { return Verdict::Satisfied };
            let name = &entries[index].name;
            let earlier = entries[..index].iter().any(|other| other.name == *name);
            dependencies.verdict(now, element, earlier, |one| self.statuses(entries, one))
        })
    }

    /// What is known of a job, or of an array's elements.
    fn statuses(&self, entries: &[Entry], one: &One) -> Vec<Status> {
        let status = |id: u32| match entries.iter().find(|entry| entry.id == id) {
            Some(Entry { waiting: Some(_), .. }) => None,
            Some(Entry { allocation: Some(_), started, .. }) => Some(Status::Running(started.unwrap_or(0))),
            Some(_) => Some(Status::Pending),
            None => {
                let job = self.job(id).ok()?;
                Some(Status::Over { success: job.state == State::Completed })
            }
        };
        let waiting = entries.iter().find(|entry| entry.id == one.job).and_then(|entry| entry.waiting.as_deref());
        let elements = self.elements(one.job);
        match one.element {
            Some(element) => {
                let still = waiting.and_then(array::parse_set).unwrap_or_default().contains(&element);
                let started = elements.iter().find(|(task, _)| *task == element).map(|(_, id)| *id);
                let last = || self.job(one.job).ok().and_then(|job| job.array?.task) == Some(element);
                match (still, started) {
                    (true, _) => vec![Status::Pending],
                    (_, Some(id)) => status(id).into_iter().collect(),
                    _ if last() => status(one.job).into_iter().collect(),
                    _ => Vec::new(),
                }
            }
            None => {
                let ids = elements.iter().map(|(_, id)| *id).filter(|id| *id != one.job);
                let mut all: Vec<Status> = ids.filter_map(status).collect();
                if waiting.is_some() {
                    all.push(Status::Pending);
                }
                all.extend(status(one.job));
                all
            }
        }
    }

    /// The elements of an array that were started, and their numbers as jobs.
    pub fn elements(&self, array: u32) -> Vec<(u32, u32)> {
        let text = read_file(&self.elements_path(array)).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let pairs = text.lines().filter_map(|line| {
            let (element, id) = line.split_once(' ')?;
            Some((element.parse().ok()?, id.parse().ok()?))
        });
        pairs.collect()
    }

    fn elements_path(&self, array: u32) -> PathBuf {
        self.directory(array).join("elements")
    }

    /// Makes an element of an array a job of its own: the last one takes the array's number. The list is changed
    /// accordingly; gives the element's place in it.
    pub fn split(&self, entries: &mut Vec<Entry>, index: usize, element: u32, lock: &Locked) -> Result<usize> {
        let mut master = self.job(entries[index].id)?;
        let array = master.array.clone().unwrap_or_default();
        let mut waiting = entries[index].waiting.as_deref().and_then(array::parse_set).unwrap_or_default();
        waiting.retain(|&task| task != element);
        let of_element = Array { task: Some(element), waiting: String::new(), ..array };
        if waiting.is_empty() {
            self.add_element(master.id, element, master.id)?;
            master.array = Some(of_element);
            self.write_job(&master)?;
            entries[index] = Entry { reason: entries[index].reason, ..Entry::of(&master) };
            return Ok(index);
        }
        let id = self.new_id(lock)?;
        self.add_element(master.id, element, id)?;
        let job = Job { id, array: Some(of_element), ..master.clone() };
        self.write_job(&job)?;
        let waiting = array::format(&waiting);
        entries[index].waiting = Some(waiting.clone());
        if let Some(array) = &mut master.array {
            array.waiting = waiting;
        }
        self.write_job(&master)?;
        entries.insert(index, Entry::of(&job));
        Ok(index)
    }

    fn add_element(&self, array: u32, element: u32, id: u32) -> Result<()> {
        let path = self.elements_path(array);
        let mut options = fs::OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(format!("{element} {id}\n").as_bytes()))
            .map_err(|e| Error::io("write", &path, e))
    }

    /// Writes down that a job is over, and takes it out of the list.
    pub fn finish(&self, job: &Job) -> Result<()> {
        self.write_job(job)?;
        let lock = self.lock()?;
        let mut entries = self.active()?;
        entries.retain(|entry| entry.id != job.id);
        self.write_active(&entries, &lock)?;
        self.forget_files(job);
        Ok(())
    }

    /// Puts a job that ran back into the queue, at its end. Its record is changed accordingly.
    pub fn put_back(&self, job: &mut Job) -> Result<()> {
        let lock = self.lock()?;
        // It may have been held while it ran.
        job.held = self.job(job.id)?.held;
        job.state = State::Pending;
        job.restarts += 1;
        job.started = None;
        job.allocation = None;
        job.supervisor = None;
        self.write_job(job)?;
        let mut entries = self.active()?;
        entries.retain(|entry| entry.id != job.id);
        entries.push(Entry::of(job));
        self.write_active(&entries, &lock)
    }

    /// What a job that is over needs no more.
    pub(crate) fn forget_files(&self, job: &Job) {
        // The elements of an array share its files.
        if job.array.is_none() {
            let directory = self.directory(job.id);
            for name in ["environment", "slurm_script"] {
                let _ = fs::remove_file(directory.join(name));
            }
        }
    }

    /// Takes srun's and salloc's that have died out of the list, and says so in their records. Gives the list.
    pub fn sweep(&self, lock: &Locked) -> Result<Vec<Entry>> {
        let mut entries = self.active()?;
        let lost: Vec<u32> = entries
            .iter()
            .filter(|entry| entry.kind != Kind::Batch && entry.owner.as_ref().is_some_and(|owner| !owner.is_alive()))
            .map(|entry| entry.id)
            .collect();
        if lost.is_empty() {
            return Ok(entries);
        }
        for id in &lost {
            if let Ok(mut job) = self.job(*id)
                && !job.state.is_over()
            {
                crate::lost::end_processes(&job);
                self.record_loss(&mut job)?;
            }
        }
        entries.retain(|entry| !lost.contains(&entry.id));
        self.write_active(&entries, lock)?;
        Ok(entries)
    }

    /// Records that a job ended and nobody knows how: whoever watched over it was killed, or the machine was.
    pub fn record_loss(&self, job: &mut Job) -> Result<()> {
        let now = time::now();
        for mut step in self.steps(job.id)?.into_iter().filter(|step| !step.state.is_over()) {
            step.state = if job.kind == Kind::Batch { State::NodeFail } else { State::Cancelled };
            step.ended = Some(now);
            self.write_step(&step)?;
        }
        if job.state == State::Pending {
            // It waited for its turn, and was killed.
            job.state = State::Cancelled;
            job.cancelled_by = Some(job.uid);
        } else {
            job.state = State::NodeFail;
            job.reason = Reason::NodeDown;
            job.exit = Exit::default();
        }
        job.ended = Some(now);
        self.write_job(job)
    }
}
