//! Root slots: the two places that say which manifest holds. What they name is the store; all else is
//! not yet in it, or no more.
//!
//! # Invariants
//! * A slot is written in turn with the other, so that one torn write never loses both.
//! * A slot that is not sound in every octet, or not in its place, is none.

use std::io;

use super::id::StoreId;
use super::manifest::FrameRef;
use super::octets::{Reader, Writer, is_sealed, seal};
use crate::blob::BLOB_MAX;
use crate::storage::journal::{JournalId, Medium, Sequence};

/// Octets of a slot: what disks and kernels write at once.
pub(super) const SLOT: usize = 4096;
/// How many slots there are.
const SLOTS: u64 = 2;
/// Octets of both slots.
pub(super) const ROOTS: u64 = SLOTS * SLOT as u64;

const MAGIC: [u8; 8] = *b"AoEroots";
/// The version that is written, and the only one that is read.
const VERSION: u16 = 1;
/// Octets of a slot that are not reserved, the checksum included.
const LEN: usize = 148;
/// More commits than any store will ever have: counting on from less never overflows.
const COMMIT_MAX: u64 = 1 << 63;

/// What a root slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootSlot {
    pub(super) store: StoreId,
    /// The journal that has the writes after this commit.
    pub(super) journal: JournalId,
    /// Counts the commits of the store: the higher one holds. Less than 2^63.
    pub(super) commit: u64,
    /// Where the manifest is.
    pub(super) manifest: FrameRef,
    /// The number of the pack that it is in.
    pub(super) pack_number: u32,
    /// Octets of that pack.
    pub(super) pack_bytes: u32,
    /// The journal may have given up entries up to here, and none after it: a journal that has given up
    /// more belongs to a later root.
    pub(super) released: Sequence,
}

/// Why octets are no root slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum RootError {
    /// Something else, or torn, or damaged.
    #[error("it is no root slot, or damaged")]
    Invalid,
    /// A later program wrote it.
    #[error("it has format {0}, and this program knows format 1 only")]
    Version(u16),
}

impl RootSlot {
    /// Where the slot of a commit is, in bytes.
    pub(super) const fn place(commit: u64) -> u64 {
        commit % SLOTS * SLOT as u64
    }

    /// The name of a journal that was made in place of the one that this names, whose loss was accepted.
    /// That one, should it turn up again, is none that this store goes on with.
    pub(super) fn next_journal(&self) -> JournalId {
        let mut hasher = blake3::Hasher::new_derive_key("aoe-server archive 2026 next journal");
        hasher.update(&self.journal.0);
        hasher.update(&self.commit.to_le_bytes());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        JournalId(id)
    }

    pub(super) fn emit(&self) -> [u8; SLOT] {
        let mut octets = [0; SLOT];
        let mut writer = Writer::new(&mut octets);
        writer.put(&MAGIC);
        writer.put(&VERSION.to_le_bytes());
        writer.put(&[0; 6]);
        writer.put(&self.store.0);
        writer.put(&self.journal.0);
        writer.put(&self.commit.to_le_bytes());
        writer.put(&self.manifest.emit());
        writer.put(&self.pack_number.to_le_bytes());
        writer.put(&self.pack_bytes.to_le_bytes());
        writer.put(&self.released.0.to_le_bytes());
        seal(&mut octets[..LEN]);
        octets
    }

    pub(super) fn parse(octets: &[u8; SLOT]) -> Result<Self, RootError> {
        let mut reader = Reader::new(octets);
        if reader.array() != Some(MAGIC) {
            return Err(RootError::Invalid);
        }
        match reader.u16() {
            Some(VERSION) => {}
            // Another version may have its checksum anywhere; a damaged number is as unknown as a
            // new one.
            found => return Err(RootError::Version(found.unwrap_or_default())),
        }
        let (slot, reserved) = octets.split_at(LEN);
        let sound = is_sealed(slot) && reserved.iter().all(|octet| *octet == 0);
        let root = sound.then(|| Self::parse_rest(reader)).flatten();
        root.ok_or(RootError::Invalid)
    }

    fn parse_rest(mut reader: Reader<'_>) -> Option<Self> {
        reader.reserved::<6>()?;
        let root = Self {
            store: StoreId(reader.array()?),
            journal: JournalId(reader.array()?),
            commit: reader.u64()?,
            manifest: FrameRef::parse(&mut reader)?,
            pack_number: reader.u32()?,
            pack_bytes: reader.u32()?,
            released: Sequence(reader.u64()?),
        };
        let possible = root.commit < COMMIT_MAX
            && root.pack_bytes as usize <= BLOB_MAX
            && root.manifest.place.is_within(u64::from(root.pack_bytes));
        possible.then_some(root)
    }
}

/// Why no root can be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// Neither slot is sound.
    #[error("it has no root: it is something else, or both copies are damaged")]
    Neither,
    /// A later program wrote one of them.
    #[error("it has format {found}, and this program knows format 1 only")]
    Version {
        /// The format.
        found: u16,
    },
    /// The two are of different stores.
    #[error("its two roots are of different stores, {newer} and {older}")]
    Stores {
        /// The one with the higher commit.
        newer: StoreId,
        /// The other one.
        older: StoreId,
    },
    /// They cannot be read.
    #[error("cannot {op} it")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// What is in the place of a slot.
#[derive(Debug)]
pub(super) enum SlotState {
    /// Nothing but zeros: no slot was ever written there.
    Empty,
    Sound(RootSlot),
    /// Torn, damaged, or the slot of the other place.
    Damaged,
    /// A later program wrote it.
    Version(u16),
    Unreadable,
}

/// Looks at each slot by itself, for who wants to know how both are.
pub(super) fn examine_roots(medium: &impl Medium) -> [SlotState; 2] {
    [0, 1].map(|commit| {
        let place = RootSlot::place(commit);
        let mut octets = [0; SLOT];
        match medium.read_at(place, &mut octets) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return SlotState::Damaged;
            }
            Err(_) => return SlotState::Unreadable,
        }
        match RootSlot::parse(&octets) {
            Ok(root) if RootSlot::place(root.commit) == place => SlotState::Sound(root),
            Err(RootError::Version(found)) => SlotState::Version(found),
            Err(RootError::Invalid) if octets.iter().all(|octet| *octet == 0) => SlotState::Empty,
            Ok(_) | Err(RootError::Invalid) => SlotState::Damaged,
        }
    })
}

/// The roots of a store, the newest first: two as a rule. There is one when the other has not been
/// written yet, was torn in writing, or is damaged; whether something newer is lost then shows in the
/// journal, which has given up more than [`RootSlot::released`], or is marked with a later commit. One that
/// the disk does not hand out may be the newest, and sound the next time.
pub(super) fn read_roots(medium: &impl Medium) -> Result<Vec<RootSlot>, RootsError> {
    // What is found must not vanish after it was acted upon: a process that died may have left it in
    // the page cache only.
    medium.distrust().map_err(|source| RootsError::Io { op: "sync", source })?;
    let mut roots = Vec::new();
    for place in (0..SLOTS).map(RootSlot::place) {
        let mut octets = [0; SLOT];
        match medium.read_at(place, &mut octets) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            // It may be the newer one, and sound when it is read again.
            Err(source) => return Err(RootsError::Io { op: "read", source }),
        }
        match RootSlot::parse(&octets) {
            Ok(root) if RootSlot::place(root.commit) == place => roots.push(root),
            // A copy of the other one.
            Ok(_) | Err(RootError::Invalid) => {}
            // It may name things that this program would overwrite.
            Err(RootError::Version(found)) => return Err(RootsError::Version { found }),
        }
    }
    roots.sort_unstable_by_key(|root| std::cmp::Reverse(root.commit));
    match roots[..] {
        [] => Err(RootsError::Neither),
        [newer, older] if newer.store != older.store => {
            Err(RootsError::Stores { newer: newer.store, older: older.store })
        }
        _ => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hex_literal::hex;
    use proptest::prelude::*;

    use super::super::id::ContentId;
    use super::super::pack::FramePlace;
    use super::*;
    use crate::blob::BlobId;

    const KNOWN: [u8; LEN] = hex!(
        "41 6f 45 72 6f 6f 74 73"              // AoEroots
        "01 00 00 00 00 00 00 00"              // version 1, reserved
        "00 01 02 03 04 05 06 07"              // the store
        "08 09 0a 0b 0c 0d 0e 0f"
        "10 11 12 13 14 15 16 17"              // its journal
        "18 19 1a 1b 1c 1d 1e 1f"
        "09 00 00 00 00 00 00 00"              // commit 9
        "88 88 88 88 88 88 88 88"              // the pack of the manifest
        "88 88 88 88 88 88 88 88"
        "88 88 88 88 88 88 88 88"
        "88 88 88 88 88 88 88 88"
        "24 00 00 00 00 01 00 00"              // at 36, 256 octets
        "99 99 99 99 99 99 99 99"              // the manifest
        "99 99 99 99 99 99 99 99"
        "99 99 99 99 99 99 99 99"
        "99 99 99 99 99 99 99 99"
        "0c 00 00 00"                          // the pack is number 12
        "00 10 00 00"                          // and has 4096 octets
        "23 01 00 00 00 00 00 00"              // given up: entry 0x123
        "0c 88 de a4"                          // checksum
    );
    const ROOT: RootSlot = RootSlot {
        store: StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        journal: JournalId([16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]),
        commit: 9,
        manifest: FrameRef {
            pack: BlobId([0x88; 32]),
            place: FramePlace { offset: 36, len: 256 },
            id: ContentId([0x99; 32]),
        },
        pack_number: 12,
        pack_bytes: 4096,
        released: Sequence(0x0123),
    };

    /// Memory, of which some pages cannot be read.
    struct Disk {
        octets: Mutex<Vec<u8>>,
        bad: Option<u64>,
    }

    impl Disk {
        fn with(roots: &[RootSlot]) -> Self {
            let disk = Self { octets: Mutex::new(vec![0; 2 * SLOT]), bad: None };
            for root in roots {
                disk.write_at(RootSlot::place(root.commit), &root.emit()).unwrap();
            }
            disk
        }

        fn flip(&self, at: usize) {
            self.octets.lock().unwrap()[at] ^= 1;
        }
    }

    impl Medium for Disk {
        fn bytes(&self) -> io::Result<u64> {
            Ok(self.octets.lock().unwrap().len() as u64)
        }

        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            if self.bad == Some(offset) {
                return Err(io::Error::other("bad sector"));
            }
            let octets = self.octets.lock().unwrap();
            let from = octets.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
            let from = from.get(..into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(from);
            Ok(())
        }

        fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).unwrap();
            self.octets.lock().unwrap()[offset..offset + octets.len()].copy_from_slice(octets);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn commit(commit: u64) -> RootSlot {
        RootSlot { commit, ..ROOT }
    }

    #[test]
    fn a_known_slot() {
        let octets = ROOT.emit();
        assert_eq!(octets[..LEN], KNOWN);
        assert!(octets[LEN..].iter().all(|octet| *octet == 0));
        assert_eq!(RootSlot::parse(&octets), Ok(ROOT));
        assert_eq!(RootSlot::place(9), 4096);
        assert_eq!(RootSlot::place(10), 0);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for bit in 0..SLOT * 8 {
            let mut octets = ROOT.emit();
            octets[bit / 8] ^= 1 << (bit % 8);
            assert!(RootSlot::parse(&octets).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let place = |offset, len| RootSlot {
            manifest: FrameRef { place: FramePlace { offset, len }, ..ROOT.manifest },
            ..ROOT
        };
        for root in [
            commit(1 << 63),
            RootSlot { pack_bytes: (64 << 20) + 1, ..ROOT },
            RootSlot { pack_bytes: 36 + 256 + 48 + 63, ..ROOT },
            place(35, 256),
            place(36, 56),
            place(4096, 256),
            place(u32::MAX, u32::MAX),
        ] {
            assert_eq!(RootSlot::parse(&root.emit()), Err(RootError::Invalid), "{root:?}");
        }
        for root in [RootSlot { pack_bytes: 36 + 256 + 48 + 64, ..ROOT }, place(36, 57)] {
            assert_eq!(RootSlot::parse(&root.emit()), Ok(root));
        }
        let mut later = ROOT.emit();
        later[8] = 2;
        assert_eq!(RootSlot::parse(&later), Err(RootError::Version(2)));
    }

    #[test]
    fn the_newest_root_comes_first() {
        let roots = |commits: &[u64]| -> Vec<u64> {
            let slots: Vec<_> = commits.iter().copied().map(commit).collect();
            let roots = read_roots(&Disk::with(&slots)).unwrap();
            assert!(roots.iter().all(|root| slots.contains(root)));
            roots.iter().map(|root| root.commit).collect()
        };
        assert_eq!(roots(&[1]), [1]);
        assert_eq!(roots(&[1, 2]), [2, 1]);
        assert_eq!(roots(&[1, 2, 3]), [3, 2]);
    }

    #[test]
    fn one_damaged_slot_leaves_the_other() {
        let newer_is_torn = Disk::with(&[commit(8), commit(9)]);
        newer_is_torn.flip(SLOT + 60);
        assert_eq!(read_roots(&newer_is_torn).unwrap(), [commit(8)]);
        newer_is_torn.flip(60);
        assert!(matches!(read_roots(&newer_is_torn), Err(RootsError::Neither)));
        let short = Disk { octets: Mutex::new(vec![0; 100]), bad: None };
        assert!(matches!(read_roots(&short), Err(RootsError::Neither)));
    }

    #[test]
    fn a_slot_that_cannot_be_read_may_be_the_newer_one() {
        for place in [0, SLOT as u64] {
            let disk = Disk { bad: Some(place), ..Disk::with(&[commit(8), commit(9)]) };
            assert!(matches!(read_roots(&disk), Err(RootsError::Io { op: "read", .. })));
        }
    }

    #[test]
    fn a_slot_in_the_place_of_the_other_does_not_count() {
        let disk = Disk::with(&[commit(9)]);
        disk.write_at(0, &commit(9).emit()).unwrap();
        assert_eq!(read_roots(&disk).unwrap(), [commit(9)]);
        let disk = Disk::with(&[]);
        disk.write_at(0, &commit(9).emit()).unwrap();
        assert!(matches!(read_roots(&disk), Err(RootsError::Neither)));
    }

    #[test]
    fn a_later_version_beside_a_known_one_is_refused() {
        let disk = Disk::with(&[commit(8), commit(9)]);
        disk.octets.lock().unwrap()[8] = 2;
        assert!(matches!(read_roots(&disk), Err(RootsError::Version { found: 2 })));
    }

    #[test]
    fn roots_of_two_stores_are_refused() {
        let other = StoreId([0xee; 16]);
        let disk = Disk::with(&[RootSlot { store: other, ..commit(8) }, commit(9)]);
        let Err(RootsError::Stores { newer, older }) = read_roots(&disk) else {
            panic!("which of them is it?");
        };
        assert_eq!((newer, older), (ROOT.store, other));
    }

    proptest! {
        #[test]
        fn a_slot_has_one_form(at in 0_usize..LEN - 4, octets in any::<[u8; 4]>()) {
            let mut slot = ROOT.emit();
            slot[at..at + 4].copy_from_slice(&octets);
            seal(&mut slot[..LEN]);
            slot[LEN..].fill(0);
            if let Ok(root) = RootSlot::parse(&slot) {
                prop_assert_eq!(root.emit(), slot);
            }
        }

        #[test]
        fn what_is_written_is_read(
            (store, journal, pack, id) in any::<([u8; 16], [u8; 16], [u8; 32], [u8; 32])>(),
            commit in 0_u64..1 << 63,
            (offset, len) in (36_u32..1 << 24, 57_u32..1 << 20),
            (pack_number, released) in any::<(u32, u64)>(),
        ) {
            let root = RootSlot {
                store: StoreId(store),
                journal: JournalId(journal),
                commit,
                manifest: FrameRef {
                    pack: BlobId(pack),
                    place: FramePlace { offset, len },
                    id: ContentId(id),
                },
                pack_number,
                pack_bytes: 32 << 20,
                released: Sequence(released),
            };
            prop_assert_eq!(RootSlot::parse(&root.emit()), Ok(root));
        }
    }
}
