//! Where the index of a store is kept: in files, or in memory where it is simulated.

use std::io;
use std::path::PathBuf;

#[cfg(test)]
use super::index::MemRuns;
use super::index::{FileRuns, RunFile, RunStore, RunWriter};

/// A place for the runs of an index.
#[derive(Debug)]
pub(super) enum Runs {
    File(FileRuns),
    #[cfg(test)]
    Memory(MemRuns),
}

/// What an enum of several kinds hands on to each.
macro_rules! each {
    ($own:ident, $kind:ident, $value:pat => $result:expr) => {
        match $own {
            $kind::File($value) => $result,
            #[cfg(test)]
            $kind::Memory($value) => $result,
        }
    };
}

/// A run in such a place.
#[derive(Debug)]
pub(super) enum AnyRun {
    File(<FileRuns as RunStore>::File),
    #[cfg(test)]
    Memory(<MemRuns as RunStore>::File),
}

/// A run that is being written to such a place.
pub(super) enum AnyWriter {
    File(<FileRuns as RunStore>::Writer),
    #[cfg(test)]
    Memory(<MemRuns as RunStore>::Writer),
}

impl RunStore for Runs {
    type File = AnyRun;
    type Writer = AnyWriter;

    fn list(&self) -> io::Result<Vec<String>> {
        each!(self, Self, runs => runs.list())
    }

    fn open(&self, name: &str) -> io::Result<AnyRun> {
        match self {
            Self::File(runs) => runs.open(name).map(AnyRun::File),
            #[cfg(test)]
            Self::Memory(runs) => runs.open(name).map(AnyRun::Memory),
        }
    }

    fn create(&self, name: &str) -> io::Result<AnyWriter> {
        match self {
            Self::File(runs) => runs.create(name).map(AnyWriter::File),
            #[cfg(test)]
            Self::Memory(runs) => runs.create(name).map(AnyWriter::Memory),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        each!(self, Self, runs => runs.remove(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        each!(self, Self, runs => runs.sync_names())
    }

    fn path(&self, name: &str) -> PathBuf {
        each!(self, Self, runs => runs.path(name))
    }
}

impl RunFile for AnyRun {
    fn bytes(&self) -> u64 {
        each!(self, Self, run => run.bytes())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        each!(self, Self, run => run.read_at(offset, into))
    }
}

impl RunWriter for AnyWriter {
    fn write_at(&mut self, offset: u64, octets: &[u8]) -> io::Result<()> {
        each!(self, Self, run => run.write_at(offset, octets))
    }

    fn publish(self) -> io::Result<()> {
        each!(self, Self, run => run.publish())
    }
}
