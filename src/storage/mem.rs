//! A RAM disk.
//!
//! It needs neither `std` nor an allocator: the octets are the caller's, be they a `Vec`, a static
//! array or memory that a boot loader has set aside.

use super::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use crate::protocol::ata::AtaText;
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// A disk in memory. Writes are applied and durable at once, as durable as memory is.
#[derive(Debug, Clone)]
pub struct MemStorage<O> {
    octets: O,
    info: DeviceInfo,
    last: Ticket,
}

impl<O: AsRef<[u8]> + AsMut<[u8]>> MemStorage<O> {
    /// A disk of the whole sectors in `octets`, with what they hold.
    pub fn new(octets: O, serial: &str) -> Self {
        let info = DeviceInfo {
            size: Sectors((octets.as_ref().len() / SECTOR_SIZE) as u64),
            serial: AtaText::new(serial),
            model: AtaText::new("aoe-server mem"),
            read_only: false,
            discard: true,
        };
        Self { octets, info, last: Ticket::NONE }
    }

    /// The octets, as writes have left them.
    pub fn octets(&self) -> &[u8] {
        self.octets.as_ref()
    }

    /// Gives the octets back.
    pub fn into_octets(self) -> O {
        self.octets
    }

    /// The octets of the sectors from `lba` on.
    fn span(&mut self, lba: Lba, bytes: usize) -> Result<&mut [u8], Fault> {
        // Both lie below the length of a slice once they fit.
        let start = lba.offset().and_then(|offset| usize::try_from(offset.0).ok());
        let start = start.ok_or(Fault::OutOfRange)?;
        let end = start.checked_add(bytes).ok_or(Fault::OutOfRange)?;
        let whole = self.octets.as_mut();
        // An incomplete last sector is not part of the disk.
        let size = whole.len() / SECTOR_SIZE * SECTOR_SIZE;
        whole.get_mut(..size).and_then(|disk| disk.get_mut(start..end)).ok_or(Fault::OutOfRange)
    }

    fn taken(&mut self) -> Accepted {
        self.last = Ticket(self.last.0 + 1);
        Accepted::Done(self.last)
    }
}

impl<O: AsRef<[u8]> + AsMut<[u8]>> BlockStorage for MemStorage<O> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        into.copy_from_slice(self.span(lba, into.len())?);
        Ok(Ready::Done)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        self.span(lba, data.len())?.copy_from_slice(data);
        Ok(self.taken())
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        Ok(self.taken())
    }

    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        let bytes = count.bytes().and_then(|bytes| usize::try_from(bytes).ok());
        self.span(lba, bytes.ok_or(Fault::OutOfRange)?)?.fill(0);
        Ok(self.taken())
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        if lba.fits(count, self.info.size) { Ok(Ready::Done) } else { Err(Fault::OutOfRange) }
    }

    fn applied(&self) -> Ticket {
        self.last
    }

    fn durable(&self) -> Ticket {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_array_is_a_disk_and_its_tail_is_not() {
        let mut disk = MemStorage::new([0xa5_u8; 3 * SECTOR_SIZE + 100], "ram0");
        assert_eq!(disk.info().size, Sectors(3));
        assert_eq!(disk.write(Lba(2), &[1; SECTOR_SIZE]), Ok(Accepted::Done(Ticket(1))));
        assert_eq!(disk.write(Lba(3), &[1; SECTOR_SIZE]), Err(Fault::OutOfRange));
        let mut sector = [0xa5; SECTOR_SIZE];
        assert_eq!(disk.read(Lba(2), &mut sector), Ok(Ready::Done));
        assert_eq!(sector, [1; SECTOR_SIZE]);
        assert_eq!(disk.read(Lba(u64::MAX), &mut sector), Err(Fault::OutOfRange));
        assert_eq!(disk.octets()[3 * SECTOR_SIZE..], [0xa5; 100]);
    }
}
