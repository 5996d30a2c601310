//! Blocks that are there in part.
//!
//! When some sectors of a block are written, and what is stored of it cannot be read, the written ones
//! are kept as a *patch*, with the name of the block that all others are in. So nothing is made up for
//! those others, and nothing is given up: as long as that block cannot be had they are errors, and when it
//! is put back they are what they were. When all sectors of a patched block have been written, or can be
//! read again, it is stored as any other.
//!
//! # Invariants
//! * A patch has at least one sector, and lacks at least one.
//! * What a patch is on is a block, or what stands for one: another patch that could not be read, or an orphan.

use super::ContentId;
use super::overlay::{SectorMask, copy_sectors, mask, runs};
use crate::units::SECTOR_SIZE;

/// Octets of a patch before its sectors.
const HEADER: usize = 48;

/// Some sectors of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patch {
    /// The block that the other sectors are in.
    pub(super) base: ContentId,
    /// The sectors that are here.
    pub(super) valid: SectorMask,
    /// Octets of the whole block, of which only those count.
    pub(super) octets: Vec<u8>,
}

impl Patch {
    /// What is stored of it.
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(HEADER + self.octets.len());
        raw.extend_from_slice(&self.base.0);
        raw.extend_from_slice(&self.valid.to_le_bytes());
        for run in runs(self.valid) {
            let sectors = run.start * SECTOR_SIZE..run.end * SECTOR_SIZE;
            raw.extend_from_slice(&self.octets[sectors]);
        }
        raw
    }

    /// What was stored, in a store with blocks of `block_bytes`.
    pub(super) fn parse(raw: &[u8], block_bytes: usize) -> Option<Self> {
        let (base, rest) = raw.split_first_chunk()?;
        let (valid, mut sectors) = rest.split_first_chunk()?;
        let valid = SectorMask::from_le_bytes(*valid);
        let all = mask(0, block_bytes / SECTOR_SIZE);
        let is_possible = valid != 0
            && valid & !all == 0
            && valid != all
            && sectors.len() == valid.count_ones() as usize * SECTOR_SIZE;
        if !is_possible {
            return None;
        }
        let mut octets = vec![0; block_bytes];
        for run in runs(valid) {
            let (here, rest) = sectors.split_at(run.len() * SECTOR_SIZE);
            octets[run.start * SECTOR_SIZE..run.end * SECTOR_SIZE].copy_from_slice(here);
            sectors = rest;
        }
        Some(Self { base: ContentId(*base), valid, octets })
    }

    /// The block, on top of what it is on: whole if that is, or if it has what that lacks.
    pub(super) fn on(mut self, base: &[u8]) -> Vec<u8> {
        let block_bytes = self.octets.len();
        let all = mask(0, block_bytes / SECTOR_SIZE);
        let have = sectors_of(base, block_bytes);
        copy_sectors(have & !self.valid, 0, &mut self.octets, |range| &base[range]);
        self.valid |= have;
        match base_of(base, block_bytes) {
            Some(base) if self.valid != all => Self { base, ..self }.in_part(),
            _ => self.octets,
        }
    }

    /// The block in part: its octets, and behind them what [`sectors_of`] and [`base_of`] tell.
    pub(super) fn in_part(self) -> Vec<u8> {
        let Self { base, valid, mut octets } = self;
        octets.extend_from_slice(&base.0);
        octets.extend_from_slice(&valid.to_le_bytes());
        octets
    }
}

/// The sectors that a block has which was read, whole or in part.
pub(super) fn sectors_of(octets: &[u8], block_bytes: usize) -> SectorMask {
    let valid = octets.get(block_bytes + 32..).and_then(|tail| tail.first_chunk());
    valid.map_or(mask(0, block_bytes / SECTOR_SIZE), |valid| SectorMask::from_le_bytes(*valid))
}

/// The block that the other sectors are in, of one that is there in part.
pub(super) fn base_of(octets: &[u8], block_bytes: usize) -> Option<ContentId> {
    octets.get(block_bytes..)?.first_chunk().copied().map(ContentId)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 4096;
    const BASE: ContentId = ContentId([0x77; 32]);

    fn patch(valid: SectorMask) -> Patch {
        let mut octets = vec![0; BLOCK];
        for run in runs(valid) {
            octets[run.start * SECTOR_SIZE..run.end * SECTOR_SIZE].fill(0x5a);
        }
        Patch { base: BASE, valid, octets }
    }

    #[test]
    fn a_known_patch() {
        let raw = patch(0b0010_0110).emit();
        let mut known = vec![0x77; 32];
        known.extend([0x26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        known.extend([0x5a; 3 * 512]);
        assert_eq!(raw, known);
        assert_eq!(Patch::parse(&raw, BLOCK), Some(patch(0b0010_0110)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let raw = patch(0b0010_0110).emit();
        for len in [0, 31, 47, 48, raw.len() - 1, raw.len() - 512] {
            assert_eq!(Patch::parse(&raw[..len], BLOCK), None, "{len} octets");
        }
        for valid in [0_u128, 0xff, 0b111 << 7, 1 << 127] {
            let mut wrong = raw[..48].to_vec();
            wrong[32..].copy_from_slice(&valid.to_le_bytes());
            wrong.resize(48 + valid.count_ones() as usize * 512, 0x5a);
            assert_eq!(Patch::parse(&wrong, BLOCK), None, "{valid:#x}");
        }
        // There is room for more in larger blocks.
        assert!(Patch::parse(&patch(0x26).emit(), 2 * BLOCK).is_some());
    }

    #[test]
    fn a_block_is_whole_on_its_base_and_in_part_without() {
        let whole = patch(0b0000_0011).on(&[0x33; BLOCK]);
        assert_eq!(whole[..1024], [0x5a; 1024]);
        assert_eq!(whole[1024..], [0x33; BLOCK - 1024]);
        assert_eq!((sectors_of(&whole, BLOCK), base_of(&whole, BLOCK)), (0xff, None));
        let part = patch(0b0000_0011).in_part();
        assert_eq!((sectors_of(&part, BLOCK), base_of(&part, BLOCK)), (0b11, Some(BASE)));
    }

    #[test]
    fn a_patch_on_a_block_in_part_has_the_sectors_of_both() {
        let other = ContentId([0x66; 32]);
        let below = Patch { base: other, octets: vec![0x33; BLOCK], valid: 0b0000_0110 };
        let both = patch(0b0000_0011).on(&below.clone().in_part());
        assert_eq!((sectors_of(&both, BLOCK), base_of(&both, BLOCK)), (0b111, Some(other)));
        assert_eq!((both[1023], both[1024], both[1535]), (0x5a, 0x33, 0x33));
        let whole = patch(0b1111_1001).on(&below.in_part());
        assert_eq!((sectors_of(&whole, BLOCK), base_of(&whole, BLOCK)), (0xff, None));
        assert_eq!((whole[0], whole[512], whole[1536]), (0x5a, 0x33, 0x5a));
    }
}
