//! Manifests and lists of packs: what is in a store.
//!
//! A manifest is the content of a frame, whose name is its checksum. It has every volume and snapshot with
//! the root of its tree, and says where the lists of packs are; a commit adds a list, so that none of them
//! is written again. The pack that a manifest is in is in none of its lists: the root slot names it, and
//! the next commit lists it.
//!
//! # Invariants
//! * A manifest has one form: volumes are in the order of their names, snapshots in that of their volumes'
//!   numbers and then of their names, and none is there twice.
//! * Numbers are given once: those of a manifest are less than the next ones that it names.
//! * A tree has room for its volume.

use std::collections::BTreeSet;

use super::frame::BLOCK_MAX;
use super::id::{ContentId, StoreId, TreeRoot, VolumeNumber};
use super::octets::{Reader, word};
use super::pack::{FramePlace, PackKind};
use crate::blob::{BLOB_MAX, BlobId};
use crate::units::{SECTOR_SIZE, Sectors};

/// The most characters of a name.
pub(super) const NAME_MAX: usize = 64;
/// The smallest block, in bytes.
pub(super) const BLOCK_MIN: usize = 4 << 10;
/// The most sectors of a volume: its bytes have to be countable.
pub(super) const SIZE_MAX: Sectors = Sectors(1 << 48);
/// The most levels of a tree: nine have room for 2^63 blocks.
const DEPTH_MAX: u8 = 9;

const MANIFEST_MAGIC: [u8; 8] = *b"AoEmanif";
const LIST_MAGIC: [u8; 8] = *b"AoEplist";
/// The version of both that is written, and the only one that is read.
const VERSION: u16 = 1;

/// Octets of a manifest before its volumes.
const MANIFEST_HEADER: usize = 120;
/// Octets of a volume or a snapshot before its name.
const VOLUME_HEADER: usize = 64;
/// Octets of the place of a frame.
const FRAME_REF: usize = 72;
/// Octets of a list of packs before its entries.
const LIST_HEADER: usize = 16;
/// Octets of an entry of a list of packs.
const LIST_ENTRY: usize = 44;

/// Where a frame is, so that it is found without the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameRef {
    /// The pack.
    pub(super) pack: BlobId,
    pub(super) place: FramePlace,
    /// The name of what is in the frame.
    pub(super) id: ContentId,
}

impl FrameRef {
    pub(super) fn emit(&self) -> [u8; FRAME_REF] {
        let mut octets = [0; FRAME_REF];
        octets[..32].copy_from_slice(&self.pack.0);
        octets[32..36].copy_from_slice(&self.place.offset.to_le_bytes());
        octets[36..40].copy_from_slice(&self.place.len.to_le_bytes());
        octets[40..].copy_from_slice(&self.id.0);
        octets
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        let pack = reader.blob_id()?;
        let place = FramePlace { offset: reader.u32()?, len: reader.u32()? };
        let id = reader.content_id()?;
        place.is_within(BLOB_MAX as u64).then_some(Self { pack, place, id })
    }
}

/// How the blocks of a store are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// Many in a pack.
    Packed,
    /// Each in a blob of its own.
    Loose,
}

impl Layout {
    const fn code(self) -> u8 {
        match self {
            Self::Packed => 1,
            Self::Loose => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Packed),
            2 => Some(Self::Loose),
            _ => None,
        }
    }
}

/// What a store has that not every program knows: a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features {
    /// To be known by who reads.
    pub(super) read: u64,
    /// To be known by who writes, too.
    pub(super) write: u64,
    /// To be known by who drops what is unreachable, too.
    pub(super) gc: u64,
}

impl Features {
    /// What this program knows.
    pub(super) const KNOWN: Self = Self { read: 0, write: 0, gc: 0 };

    /// The features that keep this program from writing to the store, or 0.
    pub(super) const fn unknown_to_write(self) -> u64 {
        self.write & !Self::KNOWN.write
    }

    /// The features that keep this program from dropping what is unreachable, or 0.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is for the collection of garbage"))]
    pub(super) const fn unknown_to_gc(self) -> u64 {
        self.gc & !Self::KNOWN.gc
    }
}

/// A volume of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeEntry {
    pub(super) number: VolumeNumber,
    /// As [`is_name`] says.
    pub(super) name: String,
    pub(super) size: Sectors,
    pub(super) root: TreeRoot,
    /// Every write up to this number is in the tree.
    pub(super) through: u64,
    /// When it was created, in seconds since 1970.
    pub(super) created_unix_seconds: u64,
}

/// What a volume was at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotEntry {
    /// As [`is_name`] says.
    pub(super) name: String,
    pub(super) volume: VolumeNumber,
    pub(super) size: Sectors,
    pub(super) root: TreeRoot,
    /// Every write to the volume up to this number is in the tree, and none after it.
    pub(super) through: u64,
    /// When it was made, in seconds since 1970.
    pub(super) created_unix_seconds: u64,
}

/// What is in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) store: StoreId,
    /// Bytes of a block: a power of two from [`BLOCK_MIN`] to [`BLOCK_MAX`].
    pub(super) block_bytes: u32,
    pub(super) layout: Layout,
    /// Counts the commits of the store.
    pub(super) commit: u64,
    /// The manifest before.
    pub(super) parent: Option<ContentId>,
    /// The number of the next volume that is created.
    pub(super) next_volume: u32,
    /// The number of the next pack that is written.
    pub(super) next_pack: u32,
    pub(super) features: Features,
    pub(super) volumes: Vec<VolumeEntry>,
    pub(super) snapshots: Vec<SnapshotEntry>,
    /// In the order in which they are to be read.
    pub(super) pack_lists: Vec<FrameRef>,
}

/// Why octets are no manifest or no list of packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ManifestError {
    /// They start as something else.
    #[error("it is not {what}")]
    Magic {
        /// What it should be.
        what: &'static str,
    },
    /// A later program wrote it.
    #[error("{what} has format {found}, and this program knows format 1 only")]
    Version {
        /// What it is.
        what: &'static str,
        /// The format.
        found: u16,
    },
    /// It has something that this program does not know.
    #[error("the store has features that this program does not know: {unknown:#x}")]
    Features {
        /// A bit for each.
        unknown: u64,
    },
    /// It ends before all of it was there, or goes on afterwards.
    #[error("{what} is cut short, or too long")]
    Length {
        /// What it is.
        what: &'static str,
    },
    /// Something in it cannot be.
    #[error("{what} cannot be right: {wrong}")]
    Wrong {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        wrong: &'static str,
    },
}

const MANIFEST_NAME: &str = "the manifest";
const LIST_NAME: &str = "the list of packs";

const fn cut_short(what: &'static str) -> ManifestError {
    ManifestError::Length { what }
}

/// A manifest of which `wrong` is said.
const fn wrong(wrong: &'static str) -> ManifestError {
    ManifestError::Wrong { what: MANIFEST_NAME, wrong }
}

/// Whether a volume or a snapshot can be called so: 1 to [`NAME_MAX`] of the characters `A` to `Z`, `a` to
/// `z`, `0` to `9`, `.`, `_` and `-`, the first none of the last one and `.`. So a name is no option, no
/// path, and never starts with a dot.
pub(super) fn is_name(name: &str) -> bool {
    let is_possible = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_possible)
        && !name.starts_with(['-', '.'])
}

/// What volumes and snapshots have in common.
struct Disk<'a> {
    number: VolumeNumber,
    name: &'a str,
    size: Sectors,
    root: TreeRoot,
    through: u64,
    created_unix_seconds: u64,
}

impl<'a> Disk<'a> {
    fn of_volume(volume: &'a VolumeEntry) -> Self {
        let VolumeEntry { number, ref name, size, root, through, created_unix_seconds } = *volume;
        Self { number, name, size, root, through, created_unix_seconds }
    }

    fn of_snapshot(snapshot: &'a SnapshotEntry) -> Self {
        let SnapshotEntry { ref name, volume, size, root, through, created_unix_seconds } =
            *snapshot;
        Self { number: volume, name, size, root, through, created_unix_seconds }
    }

    fn emit(&self, octets: &mut Vec<u8>) {
        let node = self.root.node;
        octets.extend_from_slice(&self.number.0.to_le_bytes());
        // A name was checked to be one.
        let name_len = u8::try_from(self.name.len()).unwrap_or(u8::MAX);
        octets.extend_from_slice(&[self.root.depth, u8::from(node.is_some()), 0, name_len]);
        octets.extend_from_slice(&self.size.0.to_le_bytes());
        octets.extend_from_slice(&self.through.to_le_bytes());
        octets.extend_from_slice(&self.created_unix_seconds.to_le_bytes());
        octets.extend_from_slice(&node.map_or([0; 32], |node| node.0));
        octets.extend_from_slice(self.name.as_bytes());
    }

    fn parse(reader: &mut Reader<'a>) -> Result<Self, ManifestError> {
        let header = reader.octets(VOLUME_HEADER).ok_or(cut_short(MANIFEST_NAME))?;
        let (mut disk, name_len) =
            Self::parse_header(&mut Reader::new(header)).ok_or(wrong("a tree's root"))?;
        let name = reader.octets(name_len).ok_or(cut_short(MANIFEST_NAME))?;
        disk.name = std::str::from_utf8(name).map_err(|_| wrong("a name"))?;
        Ok(disk)
    }

    fn parse_header(reader: &mut Reader<'_>) -> Option<(Self, usize)> {
        let number = VolumeNumber(reader.u32()?);
        let (depth, has_node) = (reader.u8()?, reader.u8()?);
        reader.reserved::<1>()?;
        let name_len = usize::from(reader.u8()?);
        let size = Sectors(reader.u64()?);
        let (through, created_unix_seconds) = (reader.u64()?, reader.u64()?);
        let node = optional_id(has_node, reader.content_id()?).ok()?;
        let root = TreeRoot { node, depth };
        let disk = Self { number, name: "", size, root, through, created_unix_seconds };
        Some((disk, name_len))
    }

    fn check(&self, manifest: &Manifest) -> Result<(), ManifestError> {
        if !is_name(self.name) {
            return Err(wrong("a name"));
        }
        if self.number.0 >= manifest.next_volume {
            return Err(wrong("the number of a volume"));
        }
        if !(Sectors(1)..=SIZE_MAX).contains(&self.size) {
            return Err(wrong("the size of a volume"));
        }
        let blocks = (self.size.0 * SECTOR_SIZE as u64).div_ceil(manifest.block_bytes.into());
        let depth = self.root.depth;
        if !(1..=DEPTH_MAX).contains(&depth) || blocks > 1 << (7 * depth) {
            return Err(wrong("the depth of a tree"));
        }
        Ok(())
    }

    fn into_volume(self) -> VolumeEntry {
        let Self { number, name, size, root, through, created_unix_seconds } = self;
        VolumeEntry { number, name: name.to_owned(), size, root, through, created_unix_seconds }
    }

    fn into_snapshot(self) -> SnapshotEntry {
        let Self { number, name, size, root, through, created_unix_seconds } = self;
        let name = name.to_owned();
        SnapshotEntry { name, volume: number, size, root, through, created_unix_seconds }
    }
}

/// A name that is there if `flag` is 1; else it is zeros.
fn optional_id(flag: u8, id: ContentId) -> Result<Option<ContentId>, ()> {
    match flag {
        0 if id.0 == [0; 32] => Ok(None),
        1 => Ok(Some(id)),
        _ => Err(()),
    }
}

impl Manifest {
    /// Whether this can be a manifest: what cannot be is neither written nor read.
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let is_block = self.block_bytes.is_power_of_two()
            && (BLOCK_MIN..=BLOCK_MAX).contains(&(self.block_bytes as usize));
        if !is_block {
            return Err(wrong("the size of a block"));
        }
        let mut numbers = BTreeSet::new();
        for volume in &self.volumes {
            Disk::of_volume(volume).check(self)?;
            if !numbers.insert(volume.number) {
                return Err(wrong("two volumes of one number"));
            }
        }
        if !self.volumes.is_sorted_by(|one, next| one.name < next.name) {
            return Err(wrong("the order of volumes"));
        }
        for snapshot in &self.snapshots {
            Disk::of_snapshot(snapshot).check(self)?;
            if !numbers.contains(&snapshot.volume) {
                return Err(wrong("a snapshot of no volume"));
            }
        }
        let is_sorted = self
            .snapshots
            .is_sorted_by(|one, next| (one.volume, &one.name) < (next.volume, &next.name));
        if !is_sorted {
            return Err(wrong("the order of snapshots"));
        }
        Ok(())
    }

    /// Of each volume, the last write that is in its tree.
    pub(super) fn taken(&self) -> impl Iterator<Item = (VolumeNumber, u64)> {
        self.volumes.iter().map(|entry| (entry.number, entry.through))
    }

    /// Its octets.
    ///
    /// # Panics
    /// When [`Self::check`] fails: nobody could read it.
    pub(super) fn emit(&self) -> Vec<u8> {
        if let Err(error) = self.check() {
            panic!("{error}");
        }
        self.emit_unchecked()
    }

    fn emit_unchecked(&self) -> Vec<u8> {
        let counts = [self.volumes.len(), self.snapshots.len(), self.pack_lists.len()];
        let disks = (counts[0] + counts[1]) * (VOLUME_HEADER + NAME_MAX);
        let mut octets = Vec::with_capacity(MANIFEST_HEADER + disks + counts[2] * FRAME_REF);
        octets.extend_from_slice(&MANIFEST_MAGIC);
        octets.extend_from_slice(&VERSION.to_le_bytes());
        octets.extend_from_slice(&[self.layout.code(), u8::from(self.parent.is_some())]);
        octets.extend_from_slice(&self.block_bytes.to_le_bytes());
        octets.extend_from_slice(&self.store.0);
        octets.extend_from_slice(&self.commit.to_le_bytes());
        for features in [self.features.read, self.features.write, self.features.gc] {
            octets.extend_from_slice(&features.to_le_bytes());
        }
        octets.extend_from_slice(&self.parent.map_or([0; 32], |parent| parent.0));
        octets.extend_from_slice(&self.next_volume.to_le_bytes());
        octets.extend_from_slice(&self.next_pack.to_le_bytes());
        for count in counts {
            octets.extend_from_slice(&word(count).to_le_bytes());
        }
        octets.extend_from_slice(&[0; 4]);
        for volume in &self.volumes {
            Disk::of_volume(volume).emit(&mut octets);
        }
        for snapshot in &self.snapshots {
            Disk::of_snapshot(snapshot).emit(&mut octets);
        }
        for list in &self.pack_lists {
            octets.extend_from_slice(&list.emit());
        }
        octets
    }

    /// What `octets`, the whole content of its frame, say.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = start(octets, MANIFEST_MAGIC, MANIFEST_NAME)?;
        let header = reader.octets(MANIFEST_HEADER - 10).ok_or(cut_short(MANIFEST_NAME))?;
        let header = Self::parse_header(&mut Reader::new(header));
        let (mut manifest, counts) = header.ok_or(wrong("its header"))?;
        let unknown = manifest.features.read & !Features::KNOWN.read;
        if unknown != 0 {
            return Err(ManifestError::Features { unknown });
        }
        let [volumes, snapshots, pack_lists] = counts.map(|count| count as usize);
        // Before there is memory for them, since the counts are claims.
        let least = (volumes.saturating_add(snapshots).saturating_mul(VOLUME_HEADER))
            .saturating_add(pack_lists.saturating_mul(FRAME_REF));
        if least > reader.len() {
            return Err(cut_short(MANIFEST_NAME));
        }
        manifest.volumes.reserve_exact(volumes);
        for _ in 0..volumes {
            manifest.volumes.push(Disk::parse(&mut reader)?.into_volume());
        }
        manifest.snapshots.reserve_exact(snapshots);
        for _ in 0..snapshots {
            manifest.snapshots.push(Disk::parse(&mut reader)?.into_snapshot());
        }
        manifest.pack_lists.reserve_exact(pack_lists);
        for _ in 0..pack_lists {
            let list = FrameRef::parse(&mut reader).ok_or(wrong("the place of a list"))?;
            manifest.pack_lists.push(list);
        }
        if reader.len() != 0 {
            return Err(cut_short(MANIFEST_NAME));
        }
        manifest.check().map(|()| manifest)
    }

    /// A manifest without its lists, and how long those are.
    fn parse_header(reader: &mut Reader<'_>) -> Option<(Self, [u32; 3])> {
        let layout = Layout::from_code(reader.u8()?)?;
        let has_parent = reader.u8()?;
        let block_bytes = reader.u32()?;
        let store = StoreId(reader.array()?);
        let commit = reader.u64()?;
        let features = Features { read: reader.u64()?, write: reader.u64()?, gc: reader.u64()? };
        let parent = optional_id(has_parent, reader.content_id()?).ok()?;
        let (next_volume, next_pack) = (reader.u32()?, reader.u32()?);
        let counts = [reader.u32()?, reader.u32()?, reader.u32()?];
        reader.reserved::<4>()?;
        let manifest = Self {
            store,
            block_bytes,
            layout,
            commit,
            parent,
            next_volume,
            next_pack,
            features,
            volumes: Vec::new(),
            snapshots: Vec::new(),
            pack_lists: Vec::new(),
        };
        Some((manifest, counts))
    }
}

/// What follows magic and version.
fn start<'a>(
    octets: &'a [u8],
    magic: [u8; 8],
    what: &'static str,
) -> Result<Reader<'a>, ManifestError> {
    let mut reader = Reader::new(octets);
    if reader.array() != Some(magic) {
        return Err(ManifestError::Magic { what });
    }
    match reader.u16().ok_or(cut_short(what))? {
        VERSION => Ok(reader),
        found => Err(ManifestError::Version { what, found }),
    }
}

/// A pack of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackEntry {
    /// What the index calls it.
    pub(super) number: u32,
    /// The blob.
    pub(super) id: BlobId,
    /// Octets of the blob: 1 to [`BLOB_MAX`].
    pub(super) bytes: u32,
    pub(super) kind: PackKind,
}

/// Whether this can be a list of packs: they are in the order of their numbers, none twice.
fn check_pack_list(packs: &[PackEntry]) -> Result<(), ManifestError> {
    let wrong = |wrong| Err(ManifestError::Wrong { what: LIST_NAME, wrong });
    if !packs.iter().all(|pack| (1..=BLOB_MAX).contains(&(pack.bytes as usize))) {
        return wrong("the length of a pack");
    }
    if !packs.is_sorted_by(|one, next| one.number < next.number) {
        return wrong("the order of packs");
    }
    Ok(())
}

/// The octets of a list of packs, which are in the order of their numbers.
///
/// # Panics
/// When they are not, or one is there twice or has an impossible length: nobody could read it.
pub(super) fn emit_pack_list(packs: &[PackEntry]) -> Vec<u8> {
    if let Err(error) = check_pack_list(packs) {
        panic!("{error}");
    }
    let mut octets = Vec::with_capacity(LIST_HEADER + packs.len() * LIST_ENTRY);
    octets.extend_from_slice(&LIST_MAGIC);
    octets.extend_from_slice(&VERSION.to_le_bytes());
    octets.extend_from_slice(&[0; 2]);
    octets.extend_from_slice(&word(packs.len()).to_le_bytes());
    for PackEntry { number, id, bytes, kind } in packs {
        octets.extend_from_slice(&number.to_le_bytes());
        octets.extend_from_slice(&bytes.to_le_bytes());
        octets.extend_from_slice(&[kind.code(), 0, 0, 0]);
        octets.extend_from_slice(&id.0);
    }
    octets
}

/// The packs that `octets`, the whole content of a frame, list.
pub(super) fn parse_pack_list(octets: &[u8]) -> Result<Vec<PackEntry>, ManifestError> {
    let wrong = ManifestError::Wrong { what: LIST_NAME, wrong: "its header" };
    let mut reader = start(octets, LIST_MAGIC, LIST_NAME)?;
    reader.reserved::<2>().ok_or(wrong)?;
    let count = reader.u32().ok_or(cut_short(LIST_NAME))?;
    if Some(reader.len()) != (count as usize).checked_mul(LIST_ENTRY) {
        return Err(cut_short(LIST_NAME));
    }
    let mut packs = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let pack = parse_pack(&mut reader);
        packs.push(
            pack.ok_or(ManifestError::Wrong { what: LIST_NAME, wrong: "the kind of a pack" })?,
        );
    }
    check_pack_list(&packs).map(|()| packs)
}

fn parse_pack(reader: &mut Reader<'_>) -> Option<PackEntry> {
    let (number, bytes) = (reader.u32()?, reader.u32()?);
    let kind = PackKind::from_code(reader.u8()?)?;
    reader.reserved::<3>()?;
    Some(PackEntry { number, id: reader.blob_id()?, bytes, kind })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
