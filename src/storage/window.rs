//! A part of another disk, as a disk.

use super::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// Sectors of another disk that do not hold what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a window of {length} sectors at {offset} does not lie on a disk of {size} sectors")]
pub struct OutsideDisk {
    /// Where the window starts.
    pub offset: Sectors,
    /// How many sectors it has.
    pub length: Sectors,
    /// How many there are.
    pub size: Sectors,
}

/// The sectors of a disk from `offset` on, `length` of them, as a disk of their own.
#[derive(Debug)]
pub struct Window<S> {
    disk: S,
    offset: Sectors,
    /// As many sectors as were asked for; all that follow, when that was not said.
    length: Option<Sectors>,
    info: DeviceInfo,
}

impl<S: BlockStorage> Window<S> {
    /// A window of `length` sectors, or of all there are from `offset` on.
    ///
    /// # Errors
    /// [`OutsideDisk`] when there are fewer, or none.
    pub fn new(disk: S, offset: Sectors, length: Option<Sectors>) -> Result<Self, OutsideDisk> {
        let info = *disk.info();
        let rest = Sectors(info.size.0.saturating_sub(offset.0));
        let wanted = length.unwrap_or(rest);
        if wanted.0 == 0 || wanted > rest {
            return Err(OutsideDisk { offset, length: wanted, size: info.size });
        }
        Ok(Self { disk, offset, length, info: DeviceInfo { size: wanted, ..info } })
    }

    /// Where a sector of the window is on the disk below.
    fn below(&self, lba: Lba, count: Sectors) -> Result<Lba, Fault> {
        if !lba.fits(count, self.info.size) {
            return Err(Fault::OutOfRange);
        }
        lba.checked_add(self.offset).ok_or(Fault::OutOfRange)
    }
}

/// The sectors of a buffer.
const fn sectors(data: &[u8]) -> Sectors {
    Sectors((data.len() / SECTOR_SIZE) as u64)
}

impl<S: BlockStorage> BlockStorage for Window<S> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        self.disk.read(self.below(lba, sectors(into))?, into)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        self.disk.write(self.below(lba, sectors(data))?, data)
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        self.disk.flush()
    }

    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        self.disk.discard(self.below(lba, count)?, count)
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        self.disk.verify(self.below(lba, count)?, count)
    }

    fn applied(&self) -> Ticket {
        self.disk.applied()
    }

    fn durable(&self) -> Ticket {
        self.disk.durable()
    }

    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        self.disk.outcome(ticket)
    }

    fn progress(&mut self) -> bool {
        self.disk.progress()
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.disk.finish()
    }

    fn refresh(&mut self) -> bool {
        if !self.disk.refresh() {
            return false;
        }
        let rest = Sectors(self.disk.info().size.0.saturating_sub(self.offset.0));
        let size = self.length.map_or(rest, |length| length.min(rest));
        let changed = size != self.info.size;
        self.info = DeviceInfo { size, ..*self.disk.info() };
        changed
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::storage::mem::MemStorage;

    #[test]
    fn a_window_shows_its_part_and_nothing_else() {
        let mut disk = MemStorage::new(vec![0_u8; 10 * SECTOR_SIZE], "disk");
        let _ = disk.write(Lba(3), &[7; SECTOR_SIZE]).unwrap();
        let mut window = Window::new(disk, Sectors(3), Some(Sectors(4))).unwrap();
        assert_eq!(window.info().size, Sectors(4));
        let mut sector = [0xa5; SECTOR_SIZE];
        assert_eq!(window.read(Lba(0), &mut sector), Ok(Ready::Done));
        assert_eq!(sector, [7; SECTOR_SIZE]);
        assert_eq!(window.read(Lba(4), &mut sector), Err(Fault::OutOfRange));
        assert_eq!(window.write(Lba(3), &[1; 2 * SECTOR_SIZE]), Err(Fault::OutOfRange));
        assert_eq!(window.verify(Lba(u64::MAX), Sectors(1)), Err(Fault::OutOfRange));
    }

    #[test]
    fn a_window_must_lie_on_its_disk() {
        let disk = || MemStorage::new(vec![0_u8; 10 * SECTOR_SIZE], "disk");
        assert!(Window::new(disk(), Sectors(9), None).is_ok());
        assert!(Window::new(disk(), Sectors(10), None).is_err());
        assert!(Window::new(disk(), Sectors(3), Some(Sectors(8))).is_err());
    }
}
