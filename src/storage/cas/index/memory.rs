//! Runs in memory, that lose power and rot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::store::{RunFile, RunStore, RunWriter, UNFINISHED};

/// Runs in memory. Clones are the same ones, also after a crash.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct MemRuns(Arc<Mutex<Files>>);

/// A file under its name.
#[derive(Debug, Clone, Default)]
struct Contents {
    octets: Arc<Vec<u8>>,
    /// What of it survives a crash for sure; `None` when that is nothing.
    durable: Option<Arc<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Files {
    /// By their names, as programs see them.
    now: BTreeMap<String, Contents>,
    /// The names that are durable.
    durable: BTreeMap<String, Contents>,
    /// Steps that succeed before all fail; `None` for all.
    fuse: Option<u64>,
    steps: u64,
}

impl Files {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match &mut self.fuse {
            Some(0) => return Err(io::Error::other("the fuse has blown")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

impl MemRuns {
    /// No runs.
    pub(in super::super) fn new() -> Self {
        Self::default()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `steps` more steps succeed and all after them fail; all succeed with `None`.
    pub(in super::super) fn set_fuse(&self, steps: Option<u64>) {
        self.files().fuse = steps;
    }

    /// Steps that were tried: each write, each sync, each change of a name.
    pub(in super::super) fn steps(&self) -> u64 {
        self.files().steps
    }

    /// Cuts the power. Of each change of a name that was not synced, `happened` says whether it is
    /// there afterwards; of a file that was not synced, how many of its octets, of 256, are. The fuse is
    /// mended.
    pub(in super::super) fn crash(&self, happened: &mut dyn FnMut() -> u8) {
        let mut files = self.files();
        let mut after = BTreeMap::new();
        let names: BTreeSet<String> =
            files.now.keys().chain(files.durable.keys()).cloned().collect();
        for name in names {
            let (now, before) = (files.now.get(&name), files.durable.get(&name));
            let survivor = if happened() & 1 == 0 { before } else { now };
            let Some(Contents { octets, durable }) = survivor else { continue };
            let octets = durable.clone().unwrap_or_else(|| {
                let mut torn = octets.to_vec();
                let len = torn.len();
                torn[len * usize::from(happened()) / 256..].fill(0);
                Arc::new(torn)
            });
            let durable = Some(Arc::clone(&octets));
            after.insert(name, Contents { octets, durable });
        }
        *files = Files { durable: after.clone(), now: after, fuse: None, steps: files.steps };
    }

    /// Names of what there is.
    pub(in super::super) fn names(&self) -> Vec<String> {
        self.files().now.keys().cloned().collect()
    }

    /// The octets of a run, if it is there.
    pub(in super::super) fn octets(&self, name: &str) -> Option<Vec<u8>> {
        self.files().now.get(name).map(|contents| contents.octets.to_vec())
    }

    /// Loses a run for good. Who has it open can still read it.
    pub(in super::super) fn lose(&self, name: &str) {
        let mut files = self.files();
        files.now.remove(name);
        files.durable.remove(name);
    }

    /// Puts other octets in the place of a run's, durably. Who has it open still reads the old ones.
    pub(in super::super) fn put(&self, name: &str, octets: Vec<u8>) {
        let octets = Arc::new(octets);
        let contents = Contents { durable: Some(Arc::clone(&octets)), octets };
        let mut files = self.files();
        files.durable.insert(name.into(), contents.clone());
        files.now.insert(name.into(), contents);
    }
}

impl RunFile for Arc<Vec<u8>> {
    fn bytes(&self) -> u64 {
        (**self).bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }
}

impl RunStore for MemRuns {
    type File = Arc<Vec<u8>>;
    type Writer = MemWriter;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn open(&self, name: &str) -> io::Result<Arc<Vec<u8>>> {
        let files = self.files();
        let contents = files.now.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(&contents.octets))
    }

    fn create(&self, name: &str) -> io::Result<MemWriter> {
        let temp = format!("{name}{UNFINISHED}");
        let mut files = self.files();
        files.step()?;
        files.now.insert(temp.clone(), Contents::default());
        Ok(MemWriter { runs: self.clone(), octets: Vec::new(), temp, name: name.into() })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        files.now.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut files = self.files();
        files.step()?;
        files.durable = files.now.clone();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("memory").join(name)
    }
}

/// A run that is being written.
#[derive(Debug)]
pub(in super::super) struct MemWriter {
    runs: MemRuns,
    octets: Vec<u8>,
    temp: String,
    name: String,
}

impl MemWriter {
    fn contents(&mut self, is_durable: bool) -> Contents {
        let octets = Arc::new(mem::take(&mut self.octets));
        Contents { durable: is_durable.then(|| Arc::clone(&octets)), octets }
    }
}

impl RunWriter for MemWriter {
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.runs.files().step()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + octets.len();
        if self.octets.len() < end {
            self.octets.resize(end, 0);
        }
        self.octets[start..end].copy_from_slice(octets);
        Ok(())
    }

    fn publish(mut self) -> io::Result<()> {
        let runs = self.runs.clone();
        let mut files = runs.files();
        // Before the octets are synced, some of them may be there after a crash.
        if let Err(error) = files.step() {
            files.now.insert(self.temp.clone(), self.contents(false));
            return Err(error);
        }
        let contents = self.contents(true);
        files.now.insert(self.temp.clone(), contents.clone());
        files.step()?;
        files.now.remove(&self.temp);
        files.now.insert(self.name.clone(), contents);
        drop(files);
        runs.sync_names()
    }
}
