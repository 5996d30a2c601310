//! `image export`: from a volume of an archive into a raw file.
//!
//! # Invariants
//! * What has the name of the image is the old one or the whole new one, unless it is a device.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use rustix::fs::SeekFrom;

use super::super::client_output::progress;
use super::super::snapshot::{Source, parse_source};
use super::super::{NO, complain};
use super::archive::{CHUNK, Copied, Driven, StoreArgs, answered, failed, sector};
use crate::storage::cas::{
    CasError, CasStore, CasVolume, DiffRange, SnapshotOptions, VolumeOptions,
};
use crate::storage::{BlockStorage as _, Fault};
use crate::units::{Lba, SECTOR_SIZE, Sectors};
use crate::wake::Waker;

/// Write a volume, or a snapshot of one, into a raw image
///
/// The image must not exist, unless --overwrite says that it may go, which it does when the new one is whole. What
/// is zeros becomes holes. No server may have the archive open; one that has can export the snapshot, and
/// `aoe-server read` fetches that. Exits with 1 when the answer is no, or something was damaged.
#[derive(Debug, clap::Args)]
pub(super) struct ExportCmd {
    /// The volume, or a snapshot of it, for example e1.0 or e1.0@monday
    #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = parse_source)]
    source: Source,
    /// The image, or a block device
    image: PathBuf,
    /// Replace an image that is there, or write to a device
    #[arg(long)]
    overwrite: bool,
    /// Write zeros in place of what is damaged, and list it, instead of giving up
    #[arg(long)]
    skip_damaged: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl ExportCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let instead = "stop the server that has it, or have it serve the snapshot and read that: \
                       aoe-server snapshot export, aoe-server read";
        let Some(store) = self.store.open(instead)? else { return Ok(ExitCode::from(NO)) };
        let Source { volume, snapshot } = &self.source;
        // Before there is a front end, which a commit would wait for.
        let mapped = answered(store.mapped(volume, snapshot.as_deref()))?;
        let Some(mapped) = mapped else { return Ok(ExitCode::from(NO)) };
        let waker = Waker::new().context("cannot make a descriptor")?;
        let Some(disk) = answered(self.attach(&store, waker.clone()))? else {
            return Ok(ExitCode::from(NO));
        };
        let len = disk.info().size.bytes().context("a size that a file can have")?;
        let image = Image::create(&self.image, self.overwrite, len)?;
        let total = mapped.iter().filter_map(|range| range.sectors.bytes()).sum();
        let mut export = Export {
            driven: Driven { disk, waker },
            image: &image,
            skip_damaged: self.skip_damaged,
            copied: Copied::default(),
            bar: progress("exporting", Some(total)),
        };
        let exported = export.run(&mapped, len);
        let Export { driven, copied, bar, .. } = export;
        drop(driven);
        store.close()?;
        bar.finish_and_clear();
        match exported {
            Ok(()) => image.finish()?,
            Err(error) => return Err(image.abandon(error)),
        }
        for DiffRange { lba, sectors } in &copied.damaged {
            let last = lba.0 + sectors.0 - 1;
            complain(&anyhow::anyhow!("damaged: sectors {lba} to {last} are zeros in the image"));
        }
        let from = match snapshot {
            Some(snapshot) => format!("{volume}@{snapshot}"),
            None => volume.clone(),
        };
        copied.tell(out, self.store.json, &from, &self.image.display().to_string())?;
        Ok(ExitCode::from(if copied.damaged.is_empty() { 0 } else { NO }))
    }

    fn attach(&self, store: &CasStore, waker: Waker) -> Result<CasVolume, CasError> {
        let Source { volume, snapshot } = &self.source;
        let waker = Some(waker);
        if let Some(snapshot) = snapshot {
            store.attach_snapshot(volume, snapshot, SnapshotOptions { waker, serial: None })
        } else {
            let options = VolumeOptions { read_only: true, waker, ..VolumeOptions::default() };
            store.attach(volume, options)
        }
    }
}

/// The image that is being written.
struct Image {
    file: File,
    /// What its name is now, and what it is to be.
    written: PathBuf,
    wanted: PathBuf,
    is_device: bool,
}

impl Image {
    fn create(path: &Path, overwrite: bool, len: u64) -> anyhow::Result<Self> {
        let shown = path.display();
        let old = fs::metadata(path).ok().filter(|_| overwrite);
        if old.as_ref().is_some_and(|old| old.file_type().is_block_device()) {
            let file = OpenOptions::new().write(true).open(path);
            let file = file.with_context(|| format!("cannot open {shown}"))?;
            let room = rustix::fs::seek(&file, SeekFrom::End(0)).context("cannot measure it")?;
            ensure!(room >= len, "{shown} has {room} bytes, and the volume {len}");
            let (written, wanted) = (path.into(), path.into());
            return Ok(Self { file, written, wanted, is_device: true });
        }
        let (written, wanted) = match &old {
            // What a link leads to is replaced, not the link.
            Some(_) => {
                let wanted =
                    fs::canonicalize(path).with_context(|| format!("cannot find {shown}"))?;
                let mut name = wanted.file_name().unwrap_or_default().to_owned();
                name.push(".unfinished");
                (wanted.with_file_name(name), wanted)
            }
            None => (path.into(), path.into()),
        };
        let mut options = OpenOptions::new();
        // What has the name of something unfinished was left by one that was killed.
        let is_left = old.is_some();
        options.write(true).create(is_left).truncate(is_left).create_new(!is_left);
        let file = options.open(&written).with_context(|| {
            let remedy = "--overwrite replaces an image that is there";
            format!("cannot create {}; {remedy}", written.display())
        })?;
        if let Some(old) = old {
            file.set_permissions(old.permissions()).context("cannot make the image as it was")?;
        }
        let image = Self { file, written, wanted, is_device: false };
        match image.file.set_len(len).context("cannot make the image as long as the volume") {
            Ok(()) => Ok(image),
            Err(error) => Err(image.abandon(error)),
        }
    }

    /// Writes what may be zeros; returns how many octets are not left out.
    fn write(&self, octets: &[u8], at: u64) -> anyhow::Result<u64> {
        let mut written = 0;
        // A page is what a file system can leave out.
        for (n, page) in octets.chunks(4096).enumerate() {
            if self.is_device || page.iter().any(|octet| *octet != 0) {
                let place = at + n as u64 * 4096;
                self.file.write_all_at(page, place).context("cannot write the image")?;
                written += page.len() as u64;
            }
        }
        Ok(written)
    }

    /// Leaves a gap, of zeros.
    fn skip(&self, mut at: u64, end: u64) -> anyhow::Result<()> {
        if !self.is_device {
            return Ok(()); // a new file is all gap
        }
        let zeros = vec![0; CHUNK];
        while at < end {
            let some = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            self.file.write_all_at(&zeros[..some], at).context("cannot write to the device")?;
            at += some as u64;
        }
        Ok(())
    }

    /// Makes it durable, and gives it its name.
    fn finish(self) -> anyhow::Result<()> {
        let synced = self.file.sync_all().context("cannot make the image durable");
        let named = synced.and_then(|()| {
            if self.written != self.wanted {
                fs::rename(&self.written, &self.wanted).context("cannot replace the old image")?;
                if let Some(directory) = self.wanted.parent() {
                    let synced = File::open(directory).and_then(|directory| directory.sync_all());
                    synced.context("cannot make the image durable")?;
                }
            }
            Ok(())
        });
        named.map_err(|error| self.abandon(error))
    }

    /// Takes it away again, since something went wrong; what was there before is there still.
    fn abandon(&self, error: anyhow::Error) -> anyhow::Error {
        let shown = self.wanted.display();
        if self.is_device {
            return error.context(format!("{shown} has a part of the volume only"));
        }
        match fs::remove_file(&self.written) {
            Ok(()) => error.context(format!("{shown} was not written")),
            Err(_) => error.context(format!("{} is incomplete", self.written.display())),
        }
    }
}

/// A volume on its way into an image.
struct Export<'i> {
    driven: Driven,
    image: &'i Image,
    skip_damaged: bool,
    copied: Copied,
    bar: ProgressBar,
}

impl Export<'_> {
    /// Copies what is `mapped`, and leaves holes in between.
    fn run(&mut self, mapped: &[DiffRange], len: u64) -> anyhow::Result<()> {
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        for range in mapped {
            let start = range.lba.0 * SECTOR_SIZE as u64;
            let end = start + range.sectors.0 * SECTOR_SIZE as u64;
            self.image.skip(at, start)?;
            at = start;
            while at < end {
                let some = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                self.copy(sector(at), &mut buffer[..some])?;
                at += some as u64;
                self.bar.inc(some as u64);
            }
        }
        self.image.skip(at, len)?;
        self.copied.holes = len - self.copied.data;
        Ok(())
    }

    /// Copies sectors. Where some cannot be read, halves tell which.
    fn copy(&mut self, lba: Lba, buffer: &mut [u8]) -> anyhow::Result<()> {
        let at = lba.0 * SECTOR_SIZE as u64;
        let sectors = buffer.len() / SECTOR_SIZE;
        match self.driven.read(lba, buffer)? {
            Ok(()) => self.copied.data += self.image.write(buffer, at)?,
            Err(Fault::Media) if sectors > 1 => {
                let half = sectors / 2;
                let (one, other) = buffer.split_at_mut(half * SECTOR_SIZE);
                self.copy(lba, one)?;
                self.copy(Lba(lba.0 + half as u64), other)?;
            }
            Err(Fault::Media) if self.skip_damaged => {
                self.image.skip(at, at + SECTOR_SIZE as u64)?;
                self.note_damaged(lba);
            }
            Err(fault @ Fault::Media) => {
                let error = failed("read", lba, fault);
                return Err(
                    error.context("to have zeros in place of what is damaged: --skip-damaged")
                );
            }
            Err(fault) => return Err(failed("read", lba, fault)),
        }
        Ok(())
    }

    fn note_damaged(&mut self, lba: Lba) {
        match self.copied.damaged.last_mut() {
            Some(last) if last.lba.0 + last.sectors.0 == lba.0 => last.sectors.0 += 1,
            _ => self.copied.damaged.push(DiffRange { lba, sectors: Sectors(1) }),
        }
    }
}
