//! What `image import` and `image export` share: an archive that no server has open, and its disks.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::super::client_output::octets;
use super::super::complain;
use crate::admin::{Refusal, RefusalKind};
use crate::blob::BlobError;
use crate::storage::cas::{CasError, CasStore, CasVolume, DiffRange, StoreOptions};
use crate::storage::{Accepted, BlockStorage, Fault, Ready, Ticket};
use crate::units::{Lba, SECTOR_SIZE};
use crate::wake::Waker;

/// Bytes of one request: long enough to be read in one piece, short enough to have several under way.
pub(super) const CHUNK: usize = 1 << 20;

/// Which archive, and how to print.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    /// The directory of the archive
    #[arg(long, value_name = "PATH")]
    store: PathBuf,
    /// Its journal, if it is not in it
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl StoreArgs {
    /// Opens the archive; `None` when there is none, which has been said. `instead`: what to do when a
    /// server has it open.
    pub(super) fn open(&self, instead: &'static str) -> anyhow::Result<Option<CasStore>> {
        // Opening would make one.
        if answered(CasStore::expect(&self.store))?.is_none() {
            return Ok(None);
        }
        let options = StoreOptions { journal: self.journal.clone(), ..StoreOptions::default() };
        match CasStore::open(&self.store, &options) {
            Ok((store, _)) => Ok(Some(store)),
            Err(error @ CasError::Blob(BlobError::InUse { .. })) => Err(error).context(instead),
            Err(error) => Err(error.into()),
        }
    }
}

/// What an archive was asked for; `None` when the answer is no, which has been said.
pub(super) fn answered<T>(answer: Result<T, CasError>) -> anyhow::Result<Option<T>> {
    let refusal = match answer {
        Ok(value) => return Ok(Some(value)),
        Err(error) => Refusal::from(error),
    };
    if refusal.kind != RefusalKind::Refused {
        return Err(refusal.into());
    }
    complain(&refusal.into());
    Ok(None)
}

/// A volume that is driven by a thread which has nothing else to do.
pub(super) struct Driven {
    pub(super) disk: CasVolume,
    pub(super) waker: Waker,
    /// Somebody has had enough.
    pub(super) stop: Arc<AtomicBool>,
}

impl Driven {
    /// Whether to go on.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Waits until there is news, a second at most.
    fn wait(&mut self) -> anyhow::Result<()> {
        self.check()?;
        self.waker.fall_asleep();
        if !self.disk.progress() {
            let descriptor = self.waker.descriptor();
            let mut ready = [PollFd::new(&descriptor, PollFlags::IN)];
            let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
            match poll(&mut ready, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => self.waker.clear(),
                Err(error) => return Err(error).context("cannot wait"),
            }
        }
        self.waker.awake();
        self.disk.progress();
        Ok(())
    }

    /// Reads sectors; the inner error is the disk's.
    pub(super) fn read(&mut self, lba: Lba, into: &mut [u8]) -> anyhow::Result<Result<(), Fault>> {
        loop {
            match self.disk.read(lba, into) {
                Ok(Ready::Later) => self.wait()?,
                Ok(_) => return Ok(Ok(())),
                Err(fault) => return Ok(Err(fault)),
            }
        }
    }

    /// Takes something to be written, when there is room for it.
    pub(super) fn take(
        &mut self,
        lba: Lba,
        mut offer: impl FnMut(&mut CasVolume) -> Result<Accepted, Fault>,
    ) -> anyhow::Result<Ticket> {
        loop {
            match offer(&mut self.disk).map_err(|fault| failed("write", lba, fault))? {
                Accepted::Done(ticket) => return Ok(ticket),
                Accepted::Later => self.wait()?,
            }
        }
    }

    /// Waits until everything up to `ticket` is durable.
    pub(super) fn settle(&mut self, ticket: Ticket) -> anyhow::Result<()> {
        while self.disk.durable() < ticket {
            self.wait()?;
        }
        self.disk.outcome(ticket).map_err(|fault| failed("write", Lba(0), fault))
    }
}

pub(super) fn failed(what: &str, lba: Lba, fault: Fault) -> anyhow::Error {
    anyhow::anyhow!("cannot {what} the volume at sector {lba}: {fault}; the log says more")
}

pub(super) const fn sector(at: u64) -> Lba {
    Lba(at / SECTOR_SIZE as u64)
}

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// Octets of data.
    pub(super) data: u64,
    /// Octets of holes.
    pub(super) holes: u64,
    /// Sectors that could not be read, and are zeros in the copy.
    pub(super) damaged: Vec<DiffRange>,
}

impl Copied {
    pub(super) fn tell(
        &self,
        out: &mut impl Write,
        json: bool,
        from: &str,
        to: &str,
    ) -> anyhow::Result<()> {
        let Self { data, holes, damaged } = self;
        if json {
            let range =
                |range: &DiffRange| json!({ "lba": range.lba.0, "sectors": range.sectors.0 });
            let told = json!({
                "from": from,
                "to": to,
                "data_octets": data,
                "hole_octets": holes,
                "damaged": damaged.iter().map(range).collect::<Vec<Value>>(),
            });
            writeln!(out, "{told}")?;
        } else {
            let (data, holes) = (octets((*data).into()), octets((*holes).into()));
            writeln!(out, "{from} -> {to}: {data} of data, {holes} of holes")?;
        }
        Ok(())
    }
}
