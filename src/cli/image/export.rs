//! `image export`: from a volume of an archive into a raw file.
//!
//! # Invariants
//! * What has the name of the image is the old one or the whole new one, unless it is a device: until it is
//!   whole and durable, its name is another one.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, SeekFrom, flock, renameat_with};
use rustix::io::Errno;

use super::super::client_output::progress;
use super::super::snapshot::{Source, parse_source};
use super::super::target_args::interrupted;
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
/// The image must not exist, unless --overwrite says that it may go, which it does when the new one is whole: until
/// then that is called IMAGE.unfinished. It is taken away again when something fails, and by Ctrl-C; one that is
/// left is written over the next time. What is zeros becomes holes. No server may have the archive open; one that
/// has can export the snapshot, and `aoe-server read` fetches that. Exits with 1 when the answer is no, or
/// something was damaged.
#[derive(Debug, clap::Args)]
pub(super) struct ExportCmd {
    /// The volume, or a snapshot of it, for example e1.0 or e1.0@monday
    #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = parse_source)]
    source: Source,
    /// The image: a file, or with --overwrite a block device, which is written in place
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
        let place = Place::of(&self.image, self.overwrite)?;
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
        // From here on there is something to be taken away again.
        let stop = interrupted()?;
        let image = Image::create(place, self.overwrite, len)?;
        let total = mapped.iter().filter_map(|range| range.sectors.bytes()).sum();
        let mut export = Export {
            driven: Driven { disk, waker, stop },
            image: &image,
            skip_damaged: self.skip_damaged,
            copied: Copied::default(),
            bar: progress("exporting", Some(total)),
        };
        let exported = export.run(&mapped, len);
        let Export { driven, copied, bar, .. } = export;
        drop(driven);
        let closed = store.close();
        bar.finish_and_clear();
        match exported.and_then(|()| Ok(closed?)) {
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

/// Where an image is to be.
struct Place {
    path: PathBuf,
    /// What is there now.
    old: Option<Metadata>,
}

impl Place {
    /// Looks at `path`, and refuses what no image can be written to, or is not to be.
    fn of(path: &Path, overwrite: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        let old = match fs::metadata(path) {
            Ok(old) => old,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_link = fs::symlink_metadata(path).is_ok();
                ensure!(!is_link, "{shown} is a link that leads nowhere; take it away first");
                return Ok(Self { path: path.into(), old: None });
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
        };
        ensure!(
            old.is_file() || old.file_type().is_block_device(),
            "{shown} is neither a file nor a block device; an image goes into one of those"
        );
        ensure!(overwrite, "{shown} is there already; --overwrite replaces what it holds");
        // What a link leads to is replaced, not the link.
        let path = fs::canonicalize(path).with_context(|| format!("cannot find {shown}"))?;
        Ok(Self { path, old: Some(old) })
    }

    fn is_device(&self) -> bool {
        self.old.as_ref().is_some_and(|old| old.file_type().is_block_device())
    }
}

/// The image that is being written.
struct Image {
    file: File,
    place: Place,
    /// What its name is until it is whole; `None` for a device.
    unfinished: Option<PathBuf>,
    overwrite: bool,
}

impl Image {
    fn create(place: Place, overwrite: bool, len: u64) -> anyhow::Result<Self> {
        let shown = place.path.display();
        if place.is_device() {
            let file = OpenOptions::new().write(true).open(&place.path);
            let file = file.with_context(|| format!("cannot open {shown}"))?;
            let room = rustix::fs::seek(&file, SeekFrom::End(0)).context("cannot measure it")?;
            ensure!(room >= len, "{shown} has {room} bytes, and the volume {len}");
            return Ok(Self { file, place, unfinished: None, overwrite });
        }
        let mut name = place.path.file_name().context("an image needs a name")?.to_owned();
        name.push(".unfinished");
        let unfinished = place.path.with_file_name(name);
        let file = open_unfinished(&unfinished)?;
        let image = Self { file, place, unfinished: Some(unfinished), overwrite };
        match image.prepare(len) {
            Ok(()) => Ok(image),
            Err(error) => Err(image.abandon(error)),
        }
    }

    /// Makes what is there now a hole as long as the volume, for whoever may use the old image.
    fn prepare(&self, len: u64) -> anyhow::Result<()> {
        if let Some(old) = &self.place.old {
            let kept = self.file.set_permissions(old.permissions());
            kept.context("cannot give the image the permissions of the old one")?;
        }
        let cut = self.file.set_len(0).and_then(|()| self.file.set_len(len));
        cut.context("cannot make the image as long as the volume")
    }

    /// Writes what may be zeros; returns how many octets are not left out.
    fn write(&self, octets: &[u8], at: u64) -> anyhow::Result<u64> {
        let mut written = 0;
        // A page is what a file system can leave out.
        for (n, page) in octets.chunks(4096).enumerate() {
            if self.unfinished.is_none() || page.iter().any(|octet| *octet != 0) {
                let place = at + n as u64 * 4096;
                self.file.write_all_at(page, place).context("cannot write the image")?;
                written += page.len() as u64;
            }
        }
        Ok(written)
    }

    /// Leaves a gap, of zeros.
    fn skip(&self, mut at: u64, end: u64, driven: &Driven) -> anyhow::Result<()> {
        if self.unfinished.is_some() {
            return Ok(()); // a new file is all gap
        }
        let zeros = vec![0; CHUNK];
        while at < end {
            driven.check()?;
            let some = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            self.file.write_all_at(&zeros[..some], at).context("cannot write to the device")?;
            at += some as u64;
        }
        Ok(())
    }

    /// Makes it durable, and gives it its name.
    fn finish(self) -> anyhow::Result<()> {
        let synced = self.file.sync_all().context("cannot make the image durable");
        let Some(unfinished) = &self.unfinished else {
            return synced.map_err(|error| self.abandon(error));
        };
        let wanted = &self.place.path;
        let named = synced.and_then(|()| {
            let named = if self.overwrite {
                fs::rename(unfinished, wanted)
            } else {
                rename_new(unfinished, wanted)
            };
            named.with_context(|| format!("cannot call the image {}", wanted.display()))
        });
        named.map_err(|error| self.abandon(error))?;
        let directory = wanted.parent().filter(|above| !above.as_os_str().is_empty());
        let synced = File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all());
        synced.with_context(|| {
            format!("{} is whole, but its name may not outlive a power cut", wanted.display())
        })
    }

    /// Takes it away again, since something went wrong; what was there before is there still.
    fn abandon(&self, error: anyhow::Error) -> anyhow::Error {
        let shown = self.place.path.display();
        let Some(unfinished) = &self.unfinished else {
            return error.context(format!("{shown} has a part of the volume only"));
        };
        match fs::remove_file(unfinished) {
            Ok(()) => error.context(format!("{shown} was not written")),
            Err(_) => error.context(format!(
                "{shown} was not written; what there is of it is {}",
                unfinished.display()
            )),
        }
    }
}

/// Opens the file that is to be the image, for nobody else to write to. One that was killed may have left it.
fn open_unfinished(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(no_link);
    let file = options.open(path).with_context(|| format!("cannot create {shown}"))?;
    let busy = || format!("{shown} is being written by another export");
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(busy)?;
    let found = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
    ensure!(found.is_file(), "{shown} is in the way, and no file; take it away first");
    // Another export may just have come to its end, and given it the name of its image.
    let is_named = fs::symlink_metadata(path)
        .is_ok_and(|named| (named.dev(), named.ino()) == (found.dev(), found.ino()));
    ensure!(is_named, busy());
    Ok(file)
}

/// Gives a file a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do both at once.
        Err(Errno::INVAL | Errno::NOSYS) if !to.try_exists()? => fs::rename(from, to),
        renamed => Ok(renamed?),
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
            self.image.skip(at, start, &self.driven)?;
            at = start;
            while at < end {
                self.driven.check()?;
                let some = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                self.copy(sector(at), &mut buffer[..some])?;
                at += some as u64;
                self.bar.inc(some as u64);
            }
        }
        self.image.skip(at, len, &self.driven)?;
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
                self.image.skip(at, at + SECTOR_SIZE as u64, &self.driven)?;
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
