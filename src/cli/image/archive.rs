//! `image import` and `image export`: between raw files and the volumes of an archive.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SeekFrom;
use serde_json::json;

use super::super::client_output::{octets, progress};
use super::super::snapshot::{Source, parse_name, parse_source};
use crate::storage::cas::{CasStore, CasVolume, SnapshotOptions, StoreOptions, VolumeOptions};
use crate::storage::{Accepted, BlockStorage, Fault, Ready, Ticket};
use crate::units::{Lba, SECTOR_SIZE, Sectors};
use crate::wake::Waker;

/// Bytes of one request: long enough to be read in one piece, short enough to have several under way.
const CHUNK: usize = 1 << 20;

/// Put a raw image, or a block device, into an archive as a volume
///
/// A volume that is missing is made as large as the image; one that is there has to be as large, and what it
/// holds is overwritten. Holes of the image take no time and no space. No server may have the archive open.
#[derive(Debug, clap::Args)]
pub(super) struct ImportCmd {
    /// The image
    image: PathBuf,
    /// The volume, for example e1.0
    #[arg(value_parser = parse_name)]
    volume: String,
    #[command(flatten)]
    store: StoreArgs,
}

/// Write a volume, or a snapshot of one, into a raw image
///
/// The image must not exist, unless --overwrite says that it may go. What is zeros becomes holes. No server may
/// have the archive open; one that has can export the snapshot, and `aoe-server read` fetches that.
#[derive(Debug, clap::Args)]
pub(super) struct ExportCmd {
    /// The volume, or a snapshot of it, for example e1.0 or e1.0@monday
    #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = parse_source)]
    source: Source,
    /// The image
    image: PathBuf,
    /// Replace an image that is there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Which archive, and how to print.
#[derive(Debug, clap::Args)]
struct StoreArgs {
    /// The directory of the archive
    #[arg(long, value_name = "PATH")]
    store: PathBuf,
    /// Its journal, if it is not in it
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl StoreArgs {
    fn open(&self) -> anyhow::Result<CasStore> {
        ensure!(
            CasStore::exists(&self.store)?,
            "{} is not an archive; to make one: aoe-server store init {0}",
            self.store.display()
        );
        let options = StoreOptions { journal: self.journal.clone(), ..StoreOptions::default() };
        Ok(CasStore::open(&self.store, &options)?.0)
    }
}

/// A volume that is driven by a thread which has nothing else to do.
struct Driven {
    disk: CasVolume,
    waker: Waker,
}

impl Driven {
    /// Waits until there is news, a second at most.
    fn wait(&mut self) -> anyhow::Result<()> {
        self.waker.fall_asleep();
        if !self.disk.progress() {
            let descriptor = self.waker.descriptor();
            let mut ready = [PollFd::new(&descriptor, PollFlags::IN)];
            let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut ready, Some(&timeout)).context("cannot wait")? > 0 {
                self.waker.clear();
            }
        }
        self.waker.awake();
        self.disk.progress();
        Ok(())
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> anyhow::Result<()> {
        while self.disk.read(lba, into).map_err(|fault| failed("read", lba, fault))? == Ready::Later
        {
            self.wait()?;
        }
        Ok(())
    }

    /// Takes something to be written, when there is room for it.
    fn take(
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
    fn settle(&mut self, ticket: Ticket) -> anyhow::Result<()> {
        while self.disk.durable() < ticket {
            self.wait()?;
        }
        self.disk.outcome(ticket).map_err(|fault| failed("write", Lba(0), fault))
    }
}

fn failed(what: &str, lba: Lba, fault: Fault) -> anyhow::Error {
    anyhow::anyhow!("cannot {what} the volume at sector {lba}: {fault}; the log says more")
}

/// What was copied.
#[derive(Debug, Default)]
struct Copied {
    /// Octets of data.
    data: u64,
    /// Octets of holes.
    holes: u64,
}

impl Copied {
    fn tell(&self, out: &mut impl Write, json: bool, from: &str, to: &str) -> anyhow::Result<()> {
        let Self { data, holes } = *self;
        if json {
            let told = json!({ "from": from, "to": to, "data_octets": data, "hole_octets": holes });
            writeln!(out, "{told}")?;
        } else {
            let (data, holes) = (octets(data.into()), octets(holes.into()));
            writeln!(out, "{from} -> {to}: {data} of data, {holes} of holes")?;
        }
        Ok(())
    }
}

impl ImportCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let shown = self.image.display().to_string();
        let image = File::open(&self.image).with_context(|| format!("cannot open {shown}"))?;
        let len = rustix::fs::seek(&image, SeekFrom::End(0)).context("cannot measure the image")?;
        ensure!(
            len > 0 && len.is_multiple_of(SECTOR_SIZE as u64),
            "{shown} has {len} bytes, which is no whole number of sectors of 512"
        );
        let size = Sectors::from_bytes(len);
        let store = self.store.open()?;
        let present = store.volumes()?.into_iter().find(|volume| volume.name == self.volume);
        if let Some(volume) = present.filter(|volume| volume.size != size) {
            bail!(
                "volume {} has {} sectors and {shown} has {size}; resize it first: aoe-server volume \
                 resize",
                volume.name,
                volume.size
            );
        }
        let waker = Waker::new().context("cannot make a descriptor")?;
        let options = VolumeOptions {
            size: Some(size),
            waker: Some(waker.clone()),
            ..VolumeOptions::default()
        };
        let mut driven = Driven { disk: store.attach(&self.volume, options)?, waker };
        let bar = progress("importing", Some(len));
        let copied = import(&image, len, &mut driven, &bar)?;
        driven.disk.finish().map_err(|fault| failed("write", Lba(0), fault))?;
        drop(driven);
        store.close()?;
        bar.finish_and_clear();
        copied.tell(out, self.store.json, &shown, &self.volume)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Copies the data of an image, and discards what are holes in it.
fn import(
    image: &File,
    len: u64,
    driven: &mut Driven,
    bar: &ProgressBar,
) -> anyhow::Result<Copied> {
    let mut copied = Copied::default();
    let mut buffer = vec![0; CHUNK];
    let mut last = Ticket::NONE;
    let mut at = 0;
    while at < len {
        let (data, end) = next_data(image, at, len)?;
        if data > at {
            let (lba, count) = (sector(at), Sectors((data - at) / SECTOR_SIZE as u64));
            last = driven.take(lba, |disk| disk.discard(lba, count))?;
            copied.holes += data - at;
            bar.inc(data - at);
        }
        at = data;
        while at < end {
            let some = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let piece = &mut buffer[..some];
            image.read_exact_at(piece, at).context("cannot read the image")?;
            last = driven.take(sector(at), |disk| disk.write(sector(at), piece))?;
            at += some as u64;
            copied.data += some as u64;
            bar.inc(some as u64);
        }
    }
    driven.settle(last)?;
    Ok(copied)
}

const fn sector(at: u64) -> Lba {
    Lba(at / SECTOR_SIZE as u64)
}

/// Where the next data in an image begins and ends, from `at` on, both at sectors; `len` for both when there
/// are only holes. All is data where the file system does not tell.
fn next_data(image: &File, at: u64, len: u64) -> anyhow::Result<(u64, u64)> {
    let sectors = SECTOR_SIZE as u64;
    let start = match rustix::fs::seek(image, SeekFrom::Data(at)) {
        Ok(start) => start.clamp(at, len),
        Err(rustix::io::Errno::NXIO) => len,
        Err(rustix::io::Errno::INVAL) => return Ok((at, len)),
        Err(error) => return Err(error).context("cannot look for holes in the image"),
    };
    let start = start / sectors * sectors;
    if start >= len {
        return Ok((len, len));
    }
    let end = rustix::fs::seek(image, SeekFrom::Hole(start)).unwrap_or(len);
    Ok((start, end.next_multiple_of(sectors).clamp(start + sectors, len)))
}

impl ExportCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let store = self.store.open()?;
        let waker = Waker::new().context("cannot make a descriptor")?;
        let Source { volume, snapshot } = &self.source;
        let woken = Some(waker.clone());
        let disk = if let Some(snapshot) = snapshot {
            let options = SnapshotOptions { waker: woken, serial: None };
            store.attach_snapshot(volume, snapshot, options)?
        } else {
            let options =
                VolumeOptions { read_only: true, waker: woken, ..VolumeOptions::default() };
            store.attach(volume, options)?
        };
        let len = disk.info().size.bytes().context("a size that a file can have")?;
        let image = self.create(&self.image)?;
        let mut driven = Driven { disk, waker };
        let bar = progress("exporting", Some(len));
        let exported = export(&mut driven, &image, len, &bar);
        drop(driven);
        store.close()?;
        bar.finish_and_clear();
        let copied = exported.with_context(|| {
            format!("{} is incomplete, and should be removed", self.image.display())
        })?;
        let from = match snapshot {
            Some(snapshot) => format!("{volume}@{snapshot}"),
            None => volume.clone(),
        };
        copied.tell(out, self.store.json, &from, &self.image.display().to_string())?;
        Ok(ExitCode::SUCCESS)
    }

    fn create(&self, path: &Path) -> anyhow::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(self.overwrite).create_new(!self.overwrite);
        options.open(path).with_context(|| {
            format!("cannot create {}; --overwrite replaces an image that is there", path.display())
        })
    }
}

/// Copies a volume into an empty file, and leaves holes where it is zeros.
fn export(
    driven: &mut Driven,
    image: &File,
    len: u64,
    bar: &ProgressBar,
) -> anyhow::Result<Copied> {
    let mut copied = Copied::default();
    image.set_len(len).context("cannot make the image as long as the volume")?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let some = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
        driven.read(sector(at), &mut buffer[..some])?;
        // A page is what a file system can leave out.
        for (n, page) in buffer[..some].chunks(4096).enumerate() {
            if page.iter().all(|octet| *octet == 0) {
                copied.holes += page.len() as u64;
                continue;
            }
            let place = at + n as u64 * 4096;
            image.write_all_at(page, place).context("cannot write the image")?;
            copied.data += page.len() as u64;
        }
        at += some as u64;
        bar.inc(some as u64);
    }
    image.sync_all().context("cannot make the image durable")?;
    Ok(copied)
}
