//! `image import`: from a raw file into a volume of an archive.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use rustix::fs::SeekFrom;

use super::super::NO;
use super::super::client_output::progress;
use super::super::complain;
use super::super::snapshot::parse_name;
use super::super::target_args::interrupted;
use super::archive::{CHUNK, Copied, Driven, StoreArgs, answered, failed, sector};
use crate::storage::cas::{CasError, CasStore, VolumeOptions};
use crate::storage::{BlockStorage as _, Ticket};
use crate::units::{Lba, SECTOR_SIZE, Sectors};
use crate::wake::Waker;

/// Put a raw image, or a block device, into an archive as a volume
///
/// A volume that is missing is made as large as the image, and deleted again when it cannot be filled; what one
/// holds that is there is replaced with --overwrite only, and it has to be as large. Holes of the image take no
/// time and no space. No server may have the archive open. Exits with 1 when the answer is no.
#[derive(Debug, clap::Args)]
pub(super) struct ImportCmd {
    /// The image
    image: PathBuf,
    /// The volume, for example e1.0
    #[arg(value_parser = parse_name)]
    volume: String,
    /// Replace what a volume holds that is there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    store: StoreArgs,
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
        let instead = "stop the server that has it, or write to its target: aoe-server write";
        let Some(store) = self.store.open(instead)? else { return Ok(ExitCode::from(NO)) };
        // From here on there is something to be taken away again.
        let stop = interrupted()?;
        let present = store.volumes()?.into_iter().find(|volume| volume.name == self.volume);
        let is_new = present.is_none();
        if let Some(volume) = present {
            if let Some(no) = self.cannot_replace(volume.size, size) {
                complain(&no);
                store.close()?;
                return Ok(ExitCode::from(NO));
            }
        } else if answered(store.create_volume(&self.volume, size))?.is_none() {
            return Ok(ExitCode::from(NO));
        }
        let bar = progress("importing", Some(len));
        let copied = self.fill(&store, &image, &bar, stop);
        bar.finish_and_clear();
        match copied {
            Ok(copied) => {
                store.close()?;
                copied.tell(out, self.store.json, &shown, &self.volume)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) if is_new => {
                let error = not_made(error, &self.volume, store.delete_volume(&self.volume, false));
                if let Err(why) = store.close() {
                    complain(&why.into());
                }
                Err(error)
            }
            Err(error) => {
                let volume = &self.volume;
                Err(error.context(format!("volume {volume} is the image in part; import it again")))
            }
        }
    }

    /// Why the volume that is there is not overwritten.
    fn cannot_replace(&self, present: Sectors, size: Sectors) -> Option<anyhow::Error> {
        let (volume, image) = (&self.volume, self.image.display());
        if !self.overwrite {
            return Some(anyhow::anyhow!(
                "there is a volume {volume} in the archive already; --overwrite replaces what it holds"
            ));
        }
        (present != size).then(|| {
            anyhow::anyhow!(
                "volume {volume} has {} and {image} has {}; resize it first: aoe-server volume resize",
                present.readable(),
                size.readable()
            )
        })
    }

    fn fill(
        &self,
        store: &CasStore,
        image: &File,
        bar: &ProgressBar,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Copied> {
        let waker = Waker::new().context("cannot make a descriptor")?;
        let options = VolumeOptions { waker: Some(waker.clone()), ..VolumeOptions::default() };
        let mut driven = Driven { disk: store.attach(&self.volume, options)?, waker, stop };
        let copied = import(image, &mut driven, bar)?;
        driven.disk.finish().map_err(|fault| failed("write", Lba(0), fault))?;
        Ok(copied)
    }
}

/// Why a volume was not made, and what has become of the part that was.
fn not_made(error: anyhow::Error, volume: &str, deleted: Result<(), CasError>) -> anyhow::Error {
    match deleted {
        Ok(()) => error.context(format!("volume {volume} was not made")),
        Err(why) => error.context(format!(
            "volume {volume} is the image in part, and could not be deleted ({:#}); delete it before it is \
             imported again: aoe-server volume delete",
            anyhow::Error::from(why)
        )),
    }
}

/// Copies the data of an image, and discards what are holes in it.
fn import(image: &File, driven: &mut Driven, bar: &ProgressBar) -> anyhow::Result<Copied> {
    let len = driven.disk.info().size.bytes().context("a size that a file can have")?;
    let mut copied = Copied::default();
    let mut buffer = vec![0; CHUNK];
    let mut last = Ticket::NONE;
    let mut at = 0;
    while at < len {
        driven.check()?;
        let (data, end) = next_data(image, at, len)?;
        if data > at {
            let (lba, count) = (sector(at), Sectors((data - at) / SECTOR_SIZE as u64));
            last = driven.take(lba, |disk| disk.discard(lba, count))?;
            copied.holes += data - at;
            bar.inc(data - at);
        }
        at = data;
        while at < end {
            driven.check()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The failure to delete it was once all that was told.
    #[test]
    fn why_a_volume_was_not_made_is_told_whatever_becomes_of_it() {
        let told =
            |deleted| format!("{:#}", not_made(anyhow::anyhow!("no light"), "e1.0", deleted));
        assert_eq!(told(Ok(())), "volume e1.0 was not made: no light");
        let told = told(Err(CasError::NoSpace { path: "/data".into() }));
        assert!(told.contains("/data has no space left") && told.ends_with("no light"), "{told}");
    }
}
