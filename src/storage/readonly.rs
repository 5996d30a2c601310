//! A wrapper that lets nothing through that would change the disk.

use super::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use crate::units::{Lba, Sectors};

/// A disk that takes no writes, whatever the one inside would take.
#[derive(Debug, Clone)]
pub struct ReadOnly<S> {
    inner: S,
    info: DeviceInfo,
}

impl<S: BlockStorage> ReadOnly<S> {
    /// Protects `inner`.
    pub fn new(inner: S) -> Self {
        let info = Self::protected(&inner);
        Self { inner, info }
    }

    /// Gives the disk back, unprotected.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn protected(inner: &S) -> DeviceInfo {
        DeviceInfo { read_only: true, discard: false, ..*inner.info() }
    }
}

impl<S: BlockStorage> BlockStorage for ReadOnly<S> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        self.inner.read(lba, into)
    }

    fn write(&mut self, _: Lba, _: &[u8]) -> Result<Accepted, Fault> {
        Err(Fault::WriteProtected)
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        // Nothing was written, so that all of it is durable.
        Ok(Accepted::Done(Ticket::NONE))
    }

    fn discard(&mut self, _: Lba, _: Sectors) -> Result<Accepted, Fault> {
        Err(Fault::WriteProtected)
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        self.inner.verify(lba, count)
    }

    fn applied(&self) -> Ticket {
        self.inner.applied()
    }

    fn durable(&self) -> Ticket {
        self.inner.durable()
    }

    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        self.inner.outcome(ticket)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.inner.finish()
    }

    fn refresh(&mut self) -> bool {
        let changed = self.inner.refresh();
        self.info = Self::protected(&self.inner);
        changed
    }

    fn progress(&mut self) -> bool {
        let news = self.inner.progress();
        self.info = Self::protected(&self.inner);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::super::mem::MemStorage;
    use super::*;
    use crate::units::SECTOR_SIZE;

    #[test]
    fn reads_pass_and_writes_do_not() {
        let mut disk = ReadOnly::new(MemStorage::new([7_u8; 2 * SECTOR_SIZE], "ram0"));
        assert!(disk.info().read_only && !disk.info().discard);
        assert_eq!(disk.write(Lba(0), &[1; SECTOR_SIZE]), Err(Fault::WriteProtected));
        assert_eq!(disk.discard(Lba(0), Sectors(1)), Err(Fault::WriteProtected));
        assert_eq!(disk.flush(), Ok(Accepted::Done(Ticket::NONE)));
        let mut sector = [0xa5; SECTOR_SIZE];
        assert_eq!(disk.read(Lba(1), &mut sector), Ok(Ready::Done));
        assert_eq!(sector, [7; SECTOR_SIZE]);
    }
}
