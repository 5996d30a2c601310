//! Every octet of every pack.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::error::{ReadError, chain};
use super::super::frame::open_frame;
use super::super::index::Location;
use super::super::manifest::PackEntry;
use super::super::orphan::Orphan;
use super::super::overlay::SectorMask;
use super::super::pack::{
    DirectoryEntry, Footer, PackError, parse_directory, parse_header, scan_frames,
};
use super::super::patch::Patch;
use super::super::reader::PackTable;
use super::super::{ContentId, FrameKind, StoreId};
use super::report::{Finding, PackPart};
use crate::blob::{BLOB_MAX, BlobError, BlobId, BlobStore};

/// Octets that are read at a time where a pack cannot be read in one piece.
const PIECE: usize = 64 << 10;

/// Of a pack that is not sound, what there is to be had.
#[derive(Debug)]
enum PackState {
    /// Its directory is sound; frames at these places are not.
    Without(HashSet<u32>),
    /// Its directory is not; these frames were found.
    Only(HashMap<u32, ContentId>),
}

/// What is known of packs that are not sound; all others are. And what was stored for want of what was lost.
#[derive(Debug, Default)]
pub(in super::super) struct PackStates {
    packs: BTreeMap<u32, PackState>,
    patches: HashMap<ContentId, (SectorMask, ContentId)>,
    orphans: HashMap<ContentId, Orphan>,
}

impl PackStates {
    /// Whether the frame of this name can be had from there.
    pub(in super::super) fn has(&self, id: ContentId, at: Location) -> bool {
        match self.packs.get(&at.pack) {
            None => true,
            Some(PackState::Without(bad)) => !bad.contains(&at.place.offset),
            Some(PackState::Only(found)) => found.get(&at.place.offset) == Some(&id),
        }
    }

    /// The sectors that a patch has, and what it is on; `None` for what is no patch.
    pub(super) fn patch(&self, id: ContentId) -> Option<(SectorMask, ContentId)> {
        self.patches.get(&id).copied()
    }

    /// What an orphan says; `None` for what is none.
    pub(super) fn orphan(&self, id: ContentId) -> Option<Orphan> {
        self.orphans.get(&id).copied()
    }

    /// Whether the directory of a pack can be used.
    pub(in super::super) fn has_directory(&self, pack: u32) -> bool {
        !matches!(self.packs.get(&pack), Some(PackState::Only(_)))
    }
}

/// What is known of a store whose packs are looked at.
pub(in super::super) struct PackCheck<'a> {
    pub(in super::super) blobs: &'a dyn BlobStore,
    pub(in super::super) store: StoreId,
    pub(in super::super) block_bytes: u32,
}

/// A pack that was read.
pub(in super::super) struct CheckedPack {
    /// Its octets, as many as there are.
    pub(in super::super) bytes: u64,
    /// Its frames, by its directory; those that were found, if that is damaged.
    pub(in super::super) frames: Vec<DirectoryEntry>,
}

impl PackCheck<'_> {
    /// Reads a pack, and notes what of it is not as it should be.
    pub(in super::super) fn check(
        &self,
        pack: &PackEntry,
        states: &mut PackStates,
        findings: &mut Vec<Finding>,
    ) -> CheckedPack {
        let PackEntry { number, id, .. } = *pack;
        let nothing = CheckedPack { bytes: 0, frames: Vec::new() };
        let bytes = match self.blobs.info(id) {
            Ok(info) => info.len,
            Err(error) => {
                findings.push(match error {
                    BlobError::NotFound { .. } => Finding::PackMissing { pack: id, number },
                    error => Finding::PackUnreadable { pack: id, number, why: chain(&error) },
                });
                states.packs.insert(number, PackState::Only(HashMap::new()));
                return nothing;
            }
        };
        let (octets, unreadable) = read_all(self.blobs, id, bytes);
        if let Some(error) = unreadable {
            findings.push(Finding::PackUnreadable { pack: id, number, why: chain(&error) });
        } else if bytes != u64::from(pack.bytes) {
            let (found, wanted) = (bytes, u64::from(pack.bytes));
            findings.push(Finding::PackLength { pack: id, number, found, wanted });
        } else if BlobId::of(&octets) != id {
            findings.push(Finding::PackContent { pack: id, number });
        }
        self.check_header(pack, &octets, findings);
        let frames = match directory(&octets, bytes) {
            Ok(frames) => frames,
            Err((part, error)) => {
                let why = chain(&error);
                findings.push(Finding::PackPart { pack: id, number, part, why });
                return self.scan(pack, bytes, &octets, states);
            }
        };
        let mut bad = HashSet::new();
        for frame in &frames {
            if let Err(why) = self.check_frame(frame, &octets, states) {
                bad.insert(frame.place.offset);
                let (offset, kind) = (frame.place.offset, frame.kind);
                let id = frame.id;
                findings.push(Finding::Frame { pack: pack.id, number, offset, kind, id, why });
            }
        }
        if !bad.is_empty() {
            states.packs.insert(number, PackState::Without(bad));
        }
        CheckedPack { bytes, frames }
    }

    fn check_header(&self, pack: &PackEntry, octets: &[u8], findings: &mut Vec<Finding>) {
        let why = match parse_header(octets) {
            Ok(header) if header.store != self.store => {
                format!("it is of the store {}", header.store)
            }
            Ok(header) if header.kind != pack.kind => "it is of the other kind".into(),
            Ok(_) => return,
            Err(error) => chain(&error),
        };
        let (number, part) = (pack.number, PackPart::Header);
        findings.push(Finding::PackPart { pack: pack.id, number, part, why });
    }

    /// Finds what frames there are without a directory.
    fn scan(
        &self,
        pack: &PackEntry,
        bytes: u64,
        octets: &[u8],
        states: &mut PackStates,
    ) -> CheckedPack {
        let frames: Vec<DirectoryEntry> = scan_frames(octets)
            .filter(|frame| self.check_frame(frame, octets, states).is_ok())
            .collect();
        let found = frames.iter().map(|frame| (frame.place.offset, frame.id)).collect();
        states.packs.insert(pack.number, PackState::Only(found));
        CheckedPack { bytes, frames }
    }

    fn check_frame(
        &self,
        frame: &DirectoryEntry,
        pack: &[u8],
        states: &mut PackStates,
    ) -> Result<(), String> {
        let octets = frame.place.of(pack).ok_or("it is cut off")?;
        let raw = open_frame(octets, frame.kind, frame.id).map_err(|error| chain(&error))?;
        if frame.kind == FrameKind::Block && raw.len() != self.block_bytes as usize {
            return Err(format!("it has {} octets in place of {}", raw.len(), self.block_bytes));
        }
        if frame.kind == FrameKind::Patch {
            let patch = Patch::parse(&raw, self.block_bytes as usize).ok_or("it makes no sense")?;
            states.patches.insert(frame.id, (patch.valid, patch.base));
        }
        if frame.kind == FrameKind::Orphan {
            states.orphans.insert(frame.id, Orphan::parse(&raw).ok_or("it makes no sense")?);
        }
        Ok(())
    }
}

/// The octets of a blob, zeros where they cannot be had; and why they cannot.
fn read_all(blobs: &dyn BlobStore, id: BlobId, bytes: u64) -> (Vec<u8>, Option<BlobError>) {
    let len = usize::try_from(bytes).unwrap_or(BLOB_MAX).min(BLOB_MAX);
    let mut octets = vec![0; len];
    if blobs.get_range(id, 0, &mut octets).is_ok() {
        return (octets, None);
    }
    let mut trouble = None;
    for (index, piece) in octets.chunks_mut(PIECE).enumerate() {
        if let Err(error) = blobs.get_range(id, (index * PIECE) as u64, piece) {
            piece.fill(0);
            trouble.get_or_insert(error);
        }
    }
    (octets, trouble)
}

fn directory(octets: &[u8], bytes: u64) -> Result<Vec<DirectoryEntry>, (PackPart, PackError)> {
    let footer = Footer::parse(octets, bytes).map_err(|error| (PackPart::Footer, error))?;
    let directory = footer.directory_in(octets);
    let directory = directory.ok_or((PackPart::Directory, PackError::Directory))?;
    parse_directory(directory, &footer).map_err(|error| (PackPart::Directory, error))
}

/// The frames of a pack by its directory or, if that is damaged, those that are found in it; whether it
/// was the directory.
pub(in super::super) fn frames_of(
    blobs: &dyn BlobStore,
    pack: &PackEntry,
) -> (Vec<(ContentId, Location)>, Option<ReadError>) {
    match super::super::recover::read_directory(blobs, pack) {
        Ok(frames) => (frames, None),
        Err(error) => (scanned(blobs, pack), Some(error)),
    }
}

/// The frames that are found in a pack, of which each is what it is called.
fn scanned(blobs: &dyn BlobStore, pack: &PackEntry) -> Vec<(ContentId, Location)> {
    let Ok(info) = blobs.info(pack.id) else { return Vec::new() };
    let (octets, _) = read_all(blobs, pack.id, info.len);
    let sound = |frame: &DirectoryEntry| {
        let octets = frame.place.of(&octets);
        octets.is_some_and(|octets| open_frame(octets, frame.kind, frame.id).is_ok())
    };
    let located =
        |frame: DirectoryEntry| (frame.id, Location { pack: pack.number, place: frame.place });
    scan_frames(&octets).filter(sound).map(located).collect()
}

/// Where frames are by what the packs say themselves, for when the index cannot be relied upon.
pub(super) fn places_of(
    blobs: &dyn BlobStore,
    packs: &PackTable,
    states: &PackStates,
) -> HashMap<ContentId, Location> {
    let mut places = HashMap::new();
    for pack in packs.iter() {
        let (frames, _) = frames_of(blobs, &pack);
        // A sound copy is as good as any other.
        places.extend(frames.into_iter().filter(|(id, at)| states.has(*id, *at)));
    }
    places
}
