//! After a crash: brings what a journal has into the images it is for.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::super::file::FileDisk;
use super::super::lock::Lock;
use super::super::writer::Disk;
use super::error::JournalError;
use super::format::{JournalId, Sequence};
use super::images::{ImageEntry, ImageNumber};
use super::journal_file::JournalFile;
use super::mark::{Mark, full_name};
use super::medium::Medium;
use super::scan::{Scan, ScanError};
use crate::holder::Holder;

/// What a journal has for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingImage {
    /// Its number in the journal.
    pub number: ImageNumber,
    /// Where it was; empty when that was damaged.
    pub path: PathBuf,
    /// It carries a mark by which it can be told from another file of that name.
    pub marked: bool,
    /// Writes and discards that it may lack.
    pub writes: u64,
    /// Octets of those writes.
    pub bytes: u64,
    /// Where the last of them ends, in bytes.
    pub end: u64,
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

impl PendingImage {
    fn new(number: ImageNumber) -> Self {
        Self { number, path: PathBuf::new(), marked: false, writes: 0, bytes: 0, end: 0 }
    }

    fn add(&mut self, offset: u64, len: u64) {
        self.writes += 1;
        self.end = self.end.max(offset.saturating_add(len));
    }
}

/// Finds the images that were open, in order of their numbers. Some have nothing to be replayed.
pub(super) fn survey(
    scan: &Scan,
    medium: &impl Medium,
) -> Result<Vec<PendingImage>, ReplayTrouble> {
    let mut images: BTreeMap<ImageNumber, PendingImage> = BTreeMap::new();
    let mut unknown = None;
    let read = scan.entries(medium, |sequence, entry| {
        let Some(entry) = ImageEntry::parse(entry) else {
            unknown = Some(sequence);
            return false;
        };
        let number = entry.image();
        if matches!(entry, ImageEntry::Closed { .. }) {
            images.remove(&number);
            return true;
        }
        let image = images.entry(number).or_insert_with(|| PendingImage::new(number));
        match entry {
            ImageEntry::Image { marked, path, .. } => {
                (image.marked, image.path) = (marked, path.into());
            }
            ImageEntry::Write { offset, data, .. } => {
                image.add(offset, data.len() as u64);
                image.bytes += data.len() as u64;
            }
            ImageEntry::Zeros { offset, len, .. } => image.add(offset, len),
            ImageEntry::Closed { .. } => {}
        }
        true
    });
    read.map_err(ReplayTrouble::Scan)?;
    match unknown {
        Some(sequence) => Err(ReplayTrouble::UnknownEntry(sequence)),
        None => Ok(images.into_values().collect()),
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
    /// Images that were open, and of which nothing is in the journal. They may carry its mark.
    idle: Vec<PathBuf>,
    pub(super) lock: Lock,
}

impl Recovery {
    /// Reads the journal at `path`, and keeps others from using it. Nothing is changed.
    ///
    /// # Errors
    /// [`JournalError`]. Damage is none yet: [`Self::lost`] tells of it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        Self::of(JournalFile::open(path.as_ref())?)
    }

    /// Reads a journal that is open and locked.
    pub(super) fn of(journal: JournalFile) -> Result<Self, JournalError> {
        let JournalFile { path, file, lock } = journal;
        let unreadable = |source| JournalError::Unreadable { path: path.clone(), source };
        let scan = Scan::of(&file).map_err(unreadable)?;
        let (images, idle) = (Vec::new(), Vec::new());
        let mut recovery = Self { path, file, scan, images, idle, lock };
        let images =
            survey(&recovery.scan, &*recovery.file).map_err(|trouble| recovery.explain(trouble))?;
        let (images, idle): (Vec<_>, Vec<_>) =
            images.into_iter().partition(|image| image.writes > 0);
        recovery.images = images;
        recovery.idle = idle.into_iter().map(|image| image.path).collect();
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

    /// The one of them that is at `path`, as the journal names it or by another name.
    pub fn pending_at(&self, path: &Path) -> Option<&PendingImage> {
        let named = |path: &Path| self.images.iter().find(|image| image.path == path);
        named(path).or_else(|| named(&full_name(path)))
    }

    /// Sequence numbers of what is damaged.
    pub fn lost(&self) -> &[RangeInclusive<u64>] {
        self.scan.lost()
    }

    /// Looks whether an image, one of [`Self::pending`], is there and is what it was. Nothing is
    /// changed.
    ///
    /// # Errors
    /// [`JournalError`], as of [`Self::replay`].
    pub fn check(&self, image: &PendingImage) -> Result<(), JournalError> {
        let file = Arc::new(self.open_image(image)?);
        drop(Lock::of(&file));
        Ok(())
    }

    /// Brings everything into the images, but for those in `forget`, named as in [`Self::pending`],
    /// whose writes are given up, and empties the journal. With `accept_loss` also when something
    /// is missing: what is left is brought in, in order.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] and [`JournalError::Nameless`] unless `accept_loss`; and when an
    /// image cannot be written to, or is not what it was. Images may have part of their writes
    /// then; the journal still has all.
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
            if image.path.as_os_str().is_empty() {
                if accept_loss {
                    continue;
                }
                let (path, number, writes) = (self.path.clone(), image.number, image.writes);
                return Err(JournalError::Nameless { path, number, writes });
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
        // Their locks are to be had again below.
        drop((disks, locks));
        self.images.clear();
        for path in std::mem::take(&mut self.idle).iter().chain(forget) {
            // It may be gone, or in use. Whoever wants it can ask again.
            if let Err(error) = self.unmark(path) {
                log::debug!("image {}: {error}", path.display());
            }
        }
        Ok(replayed)
    }

    /// Takes the journal's mark from an image, when the journal has nothing for it any more: it can
    /// then be used without the journal. Tells whether it had one.
    ///
    /// # Errors
    /// [`JournalError::StillNeeded`] before [`Self::replay`] was successful;
    /// [`JournalError::MarkOfAnother`] when the image needs another journal, and
    /// [`JournalError::JournalReplaced`] when that was where this one is; and when the image cannot
    /// be looked at.
    pub fn unmark(&self, image: &Path) -> Result<bool, JournalError> {
        let journal = self.path.clone();
        if !self.images.is_empty() {
            return Err(JournalError::StillNeeded { path: journal });
        }
        let file = Arc::new(open_and_lock(&journal, image)?);
        let _lock = Lock::of(&file);
        let failed =
            |source| JournalError::Io { op: "read the mark of", path: image.into(), source };
        let Some(mark) = Mark::of(&file).map_err(failed)? else { return Ok(false) };
        let image = image.to_path_buf();
        if mark.journal == self.scan.id() {
            let failed =
                |source| JournalError::Io { op: "take the mark from", path: image, source };
            let disk = FileDisk::new(Arc::clone(&file));
            let removed = disk.distrust_cache().and_then(|()| Mark::remove(disk.file()));
            return removed.map(|()| true).map_err(failed);
        }
        Err(if mark.names(&journal) {
            JournalError::JournalReplaced { journal, image }
        } else {
            JournalError::MarkOfAnother { journal, image, other: mark.path }
        })
    }

    /// Takes the mark of a journal that is gone from an image: whatever only that journal had is
    /// given up. Tells whether the image had one. `journal` is where it was, by which it is known.
    ///
    /// # Errors
    /// [`JournalError::MarkOfAnother`] when the image needs a journal of another place; and when it
    /// cannot be looked at.
    pub fn forget_without(journal: &Path, image: &Path) -> Result<bool, JournalError> {
        let file = Arc::new(open_and_lock(journal, image)?);
        let _lock = Lock::of(&file);
        let failed = |op| move |source| JournalError::Io { op, path: image.to_path_buf(), source };
        let Some(mark) = Mark::of(&file).map_err(failed("read the mark of"))? else {
            return Ok(false);
        };
        if !mark.names(journal) {
            let (journal, image) = (journal.into(), image.into());
            return Err(JournalError::MarkOfAnother { journal, image, other: mark.path });
        }
        Mark::remove(&file).map(|()| true).map_err(failed("take the mark from"))
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
        let refused = |why| JournalError::Image {
            journal: self.path.clone(),
            image: image.path.clone(),
            writes: image.writes,
            why,
        };
        let file = open_and_lock(&self.path, &image.path).map_err(|error| match error {
            JournalError::Io { source, .. } => refused(source),
            error => error,
        })?;
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
        let len = file.metadata().map_err(refused)?.len();
        if image.end > len {
            let (journal, end) = (self.path.clone(), image.end);
            return Err(JournalError::ImageShort { journal, image: image.path.clone(), end, len });
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

/// Opens an image, and keeps others from using it.
fn open_and_lock(journal: &Path, image: &Path) -> Result<File, JournalError> {
    let refused = |source| JournalError::Io { op: "open", path: image.into(), source };
    // Whatever was put in the image's place: a FIFO must not stop the program.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(image);
    let file = opened.map_err(refused)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let (journal, image) = (journal.into(), image.into());
            Err(JournalError::ImageInUse { journal, image, holder: Holder::of_lock_on(&file) })
        }
        Err(error) => Err(refused(error.into())),
    }
}

/// The rest of the body of the fuzz target `journal`: replays what is in `medium` onto images in
/// memory of `image_bytes` each, by their numbers. `None` when it is refused.
#[doc(hidden)]
pub fn fuzz(
    scan: &Scan,
    medium: &impl Medium,
    image_bytes: usize,
) -> Option<BTreeMap<u64, Vec<u8>>> {
    struct Memory(Vec<u8>);
    impl Memory {
        fn place(&mut self, offset: u64, len: usize) -> io::Result<&mut [u8]> {
            let start = usize::try_from(offset).ok();
            let rest = start.and_then(|start| self.0.get_mut(start..));
            rest.and_then(|rest| rest.get_mut(..len)).ok_or(io::ErrorKind::InvalidInput.into())
        }
    }
    impl Disk for Memory {
        fn len(&mut self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }
        fn write(&mut self, mut offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
            for part in parts {
                self.place(offset, part.len())?.copy_from_slice(part);
                offset += part.len() as u64;
            }
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
            let len = usize::try_from(len).map_err(io::Error::other)?;
            self.place(offset, len).map(|place| place.fill(0))
        }
    }
    let pending = survey(scan, medium).ok()?;
    let disk = |image: &PendingImage| (image.number, Memory(vec![0xff; image_bytes]));
    let mut disks: BTreeMap<_, _> = pending.iter().map(disk).collect();
    replay(scan, medium, &mut disks).ok()?;
    Some(disks.into_iter().map(|(number, disk)| (number.0, disk.0)).collect())
}
