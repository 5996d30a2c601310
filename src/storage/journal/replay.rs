//! After a crash: brings what a journal has into the images it is for.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::super::file::FileDisk;
use super::super::lock::Lock;
use super::super::writer::Disk;
use super::error::JournalError;
use super::format::{JournalId, Sequence};
use super::images::{ImageEntry, ImageNumber};
use super::mark::Mark;
use super::medium::Medium;
use super::scan::{Scan, ScanError};
use crate::holder::Holder;

/// What a journal has for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingImage {
    /// Its number in the journal.
    pub number: ImageNumber,
    /// Where it was.
    pub path: PathBuf,
    /// It carries a mark by which it can be told from another file of that name.
    pub marked: bool,
    /// Writes and discards that it may lack.
    pub writes: u64,
    /// Octets of those writes.
    pub bytes: u64,
}

/// What was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Images.
    pub images: u64,
    /// Writes and discards.
    pub writes: u64,
    /// Octets of those writes.
    pub bytes: u64,
}

/// Why entries cannot be replayed onto disks.
#[derive(Debug)]
pub(super) enum ReplayTrouble {
    Scan(ScanError),
    UnknownEntry(Sequence),
    Disk { image: ImageNumber, source: io::Error },
    Short { image: ImageNumber, end: u64, len: u64 },
}

/// Finds the images that have something to be replayed, in order of their numbers.
pub(super) fn survey(
    scan: &Scan,
    medium: &impl Medium,
) -> Result<Vec<PendingImage>, ReplayTrouble> {
    let mut images = BTreeMap::new();
    let pending =
        |number| PendingImage { number, path: PathBuf::new(), marked: false, writes: 0, bytes: 0 };
    let mut unknown = None;
    let read = scan.entries(medium, |sequence, entry| {
        let Some(entry) = ImageEntry::parse(entry) else {
            unknown = Some(sequence);
            return false;
        };
        match entry {
            ImageEntry::Image { image: number, marked, path } => {
                let image = images.entry(number).or_insert_with(|| pending(number));
                (image.marked, image.path) = (marked, path.into());
            }
            ImageEntry::Write { image: number, data, .. } => {
                let image = images.entry(number).or_insert_with(|| pending(number));
                image.writes += 1;
                image.bytes += data.len() as u64;
            }
            ImageEntry::Zeros { image: number, .. } => {
                images.entry(number).or_insert_with(|| pending(number)).writes += 1;
            }
            ImageEntry::Closed { image } => {
                images.remove(&image);
            }
        }
        true
    });
    read.map_err(ReplayTrouble::Scan)?;
    match unknown {
        Some(sequence) => Err(ReplayTrouble::UnknownEntry(sequence)),
        None => Ok(images.into_values().filter(|image| image.writes > 0).collect()),
    }
}

/// Repeats, in order, everything that was written to the images that `disks` has, and makes it
/// durable. Doing so once more changes nothing.
pub(super) fn replay<D: Disk>(
    scan: &Scan,
    medium: &impl Medium,
    disks: &mut BTreeMap<ImageNumber, D>,
) -> Result<(), ReplayTrouble> {
    let mut trouble = None;
    let read = scan.entries(medium, |_, entry| {
        let (image, offset, len, data) = match ImageEntry::parse(entry) {
            Some(ImageEntry::Write { image, offset, data }) => {
                (image, offset, data.len() as u64, Some(data))
            }
            Some(ImageEntry::Zeros { image, offset, len }) => (image, offset, len, None),
            _ => return true,
        };
        let Some(disk) = disks.get_mut(&image) else { return true };
        trouble = redo(disk, image, offset, len, data).err();
        trouble.is_none()
    });
    read.map_err(ReplayTrouble::Scan)?;
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    for (image, disk) in disks {
        disk.sync().map_err(|source| ReplayTrouble::Disk { image: *image, source })?;
    }
    Ok(())
}

fn redo(
    disk: &mut impl Disk,
    image: ImageNumber,
    offset: u64,
    len: u64,
    data: Option<&[u8]>,
) -> Result<(), ReplayTrouble> {
    let failed = |source| ReplayTrouble::Disk { image, source };
    let (end, disk_len) = (offset.saturating_add(len), disk.len().map_err(failed)?);
    if end > disk_len {
        return Err(ReplayTrouble::Short { image, end, len: disk_len });
    }
    match data {
        Some(data) => disk.write(offset, &mut [IoSlice::new(data)]).map_err(failed),
        None => match disk.punch(offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                write_zeros(disk, offset, len).map_err(failed)
            }
            punched => punched.map_err(failed),
        },
    }
}

/// For a disk that has been brought to a place where holes cannot be punched.
fn write_zeros(disk: &mut impl Disk, offset: u64, len: u64) -> io::Result<()> {
    const PIECE: usize = 64 << 10;
    let zeros = vec![0; PIECE];
    let mut at = offset;
    while at < offset + len {
        let some = usize::try_from(offset + len - at).unwrap_or(PIECE).min(PIECE);
        disk.write(at, &mut [IoSlice::new(&zeros[..some])])?;
        at += some as u64;
    }
    Ok(())
}

/// A journal that is not in use, with what it has for images.
#[derive(Debug)]
pub struct Recovery {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) scan: Scan,
    images: Vec<PendingImage>,
    pub(super) lock: Lock,
}

impl Recovery {
    /// Reads the journal at `path`, and keeps others from using it. Nothing is changed.
    ///
    /// # Errors
    /// [`JournalError`]. Damage is none yet: [`Self::lost`] tells of it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => JournalError::NotFound { path: path.into() },
            io::ErrorKind::IsADirectory => JournalError::NotAFile { path: path.into() },
            _ => JournalError::Io { op: "open", path: path.into(), source },
        })?;
        lock_journal(path, &file)?;
        Self::of(path, file)
    }

    /// Reads a journal that is open and locked.
    pub(super) fn of(path: &Path, file: File) -> Result<Self, JournalError> {
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(JournalError::NotAFile { path: path.into() });
        }
        let unreadable = |source| JournalError::Unreadable { path: path.into(), source };
        let scan = Scan::of(&file).map_err(unreadable)?;
        let (path, file) = (path.to_path_buf(), Arc::new(file));
        let lock = Lock::of(&file);
        let mut recovery = Self { path, file, scan, images: Vec::new(), lock };
        recovery.images =
            survey(&recovery.scan, &*recovery.file).map_err(|trouble| recovery.explain(trouble))?;
        Ok(recovery)
    }

    /// The journal's name.
    pub fn id(&self) -> JournalId {
        self.scan.id()
    }

    /// The images that may lack something that the journal has.
    pub fn pending(&self) -> &[PendingImage] {
        &self.images
    }

    /// Sequence numbers of what is damaged.
    pub fn lost(&self) -> &[RangeInclusive<u64>] {
        self.scan.lost()
    }

    /// Brings everything into the images, but for those in `forget`, whose writes are given up, and
    /// empties the journal.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] unless `accept_loss`; and when an image cannot be written to, or
    /// is not what it was. Images may have part of their writes then; the journal still has all.
    pub fn replay(
        &mut self,
        forget: &[PathBuf],
        accept_loss: bool,
    ) -> Result<Replayed, JournalError> {
        if !self.lost().is_empty() && !accept_loss {
            let (path, lost) = (self.path.clone(), self.lost().to_vec());
            return Err(JournalError::Damaged { path, lost });
        }
        let mut replayed = Replayed::default();
        let mut disks = BTreeMap::new();
        let mut locks = Vec::new();
        for image in &self.images {
            if forget.contains(&image.path) {
                continue;
            }
            // All of them before the first write: whatever is missing shows before.
            let file = Arc::new(self.open_image(image)?);
            locks.push(Lock::of(&file));
            let disk = FileDisk::new(file);
            disk.distrust_cache().map_err(|source| JournalError::Io {
                op: "sync",
                path: image.path.clone(),
                source,
            })?;
            disks.insert(image.number, disk);
            replayed.images += 1;
            replayed.writes += image.writes;
            replayed.bytes += image.bytes;
        }
        replay(&self.scan, &*self.file, &mut disks).map_err(|trouble| self.explain(trouble))?;
        self.empty()?;
        for (number, disk) in &disks {
            if let Err(error) = Mark::remove(disk.file()) {
                let image = self.image(*number);
                log::warn!("image {}: its mark is still there: {error}", image.display());
            }
        }
        self.images.clear();
        Ok(replayed)
    }

    /// Notes in the journal that nothing of it is needed.
    fn empty(&mut self) -> Result<(), JournalError> {
        let failed = |source| JournalError::Io { op: "empty", path: self.path.clone(), source };
        let (_, mut reclaimer) = self.scan.ends(Arc::clone(&self.file));
        reclaimer.close(self.scan.tip().last).map_err(failed)?;
        let unreadable = |source| JournalError::Unreadable { path: self.path.clone(), source };
        self.scan = Scan::of(&*self.file).map_err(unreadable)?;
        Ok(())
    }

    fn open_image(&self, image: &PendingImage) -> Result<File, JournalError> {
        let refused = |source| JournalError::Image {
            journal: self.path.clone(),
            image: image.path.clone(),
            writes: image.writes,
            source,
        };
        let opened = OpenOptions::new().read(true).write(true).open(&image.path);
        let file = opened.map_err(refused)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(JournalError::ImageInUse {
                    journal: self.path.clone(),
                    image: image.path.clone(),
                    holder: Holder::of_lock_on(&file),
                });
            }
            Err(error) => return Err(refused(error.into())),
        }
        let mark = Mark::of(&file).map_err(refused)?;
        let ours =
            mark.is_some_and(|mark| mark.journal == self.scan.id() && mark.image == image.number);
        if image.marked && !ours {
            return Err(JournalError::ImageReplaced {
                journal: self.path.clone(),
                image: image.path.clone(),
                writes: image.writes,
            });
        }
        Ok(file)
    }

    fn image(&self, number: ImageNumber) -> &Path {
        let image = self.images.iter().find(|image| image.number == number);
        image.map_or(Path::new("of an unknown name"), |image| &image.path)
    }

    fn explain(&self, trouble: ReplayTrouble) -> JournalError {
        let path = self.path.clone();
        match trouble {
            ReplayTrouble::Scan(source) => JournalError::Unreadable { path, source },
            ReplayTrouble::UnknownEntry(Sequence(sequence)) => {
                JournalError::UnknownEntry { path, sequence }
            }
            ReplayTrouble::Disk { image, source }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                JournalError::NoSpace { journal: path, image: self.image(image).into() }
            }
            ReplayTrouble::Disk { image, source } => {
                JournalError::Io { op: "write to", path: self.image(image).into(), source }
            }
            ReplayTrouble::Short { image, end, len } => JournalError::ImageShort {
                journal: path,
                image: self.image(image).into(),
                end,
                len,
            },
        }
    }
}

/// Whether the journal that a mark names has nothing for the image: then the mark is only left over
/// from a crash, and the image is whole. `false` also when that cannot be told.
pub(in super::super) fn is_left_over(mark: &Mark) -> bool {
    Recovery::open(&mark.path).is_ok_and(|recovery| {
        recovery.id() == mark.journal
            && recovery.lost().is_empty()
            && !recovery.pending().iter().any(|image| image.number == mark.image)
    })
}

/// Keeps others from using a journal.
pub(super) fn lock_journal(path: &Path, file: &File) -> Result<(), JournalError> {
    let failed = |op, source| JournalError::Io { op, path: path.into(), source };
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = Holder::of_lock_on(file);
            return Err(JournalError::InUse { path: path.into(), holder });
        }
        Err(error) => return Err(failed("lock", error.into())),
    }
    // Whoever had it may have put another in its place, and be using that.
    let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    let locked = file.metadata().map_err(|source| failed("examine", source))?;
    match fs::metadata(path) {
        Ok(there) if identity(&there) == identity(&locked) => Ok(()),
        _ => Err(JournalError::InUse { path: path.into(), holder: None }),
    }
}
