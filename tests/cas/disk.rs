//! Driving a volume as the poll loop does, but waiting.

use aoe_server::storage::cas::{CasStore, CasVolume};
use aoe_server::storage::{Accepted, BlockStorage, Fault, Ready, Ticket};
use aoe_server::units::{Lba, Sectors};
use std::time::Duration;

/// How often anything is asked for, and how long to wait in between: ten seconds at least. Reads are many, so
/// that a test is as slow as each of them is.
const PATIENCE: u32 = 200_000;
const PAUSE: Duration = Duration::from_micros(50);

/// Octets of a sector that say where and when they were written.
pub(crate) fn stamp(lba: u64, version: u64) -> [u8; 512] {
    let mut octets = [0; 512];
    for (place, chunk) in octets.chunks_exact_mut(16).enumerate() {
        chunk[..8].copy_from_slice(&(lba * 0x0101 + place as u64).to_le_bytes());
        chunk[8..].copy_from_slice(&version.to_le_bytes());
    }
    octets
}

/// Asks again and again until there is an answer.
pub(crate) fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::park_timeout(PAUSE);
    }
    panic!("no answer");
}

pub(crate) fn read(disk: &mut impl BlockStorage, lba: u64, count: usize) -> Result<Vec<u8>, Fault> {
    let mut into = vec![0xa5; count * 512];
    wait(|| match disk.read(Lba(lba), &mut into) {
        Ok(Ready::Done) => Some(Ok(())),
        Ok(Ready::Later) => {
            disk.progress();
            None
        }
        Err(fault) => Some(Err(fault)),
    })?;
    Ok(into)
}

/// Writes without waiting for it to be durable.
pub(crate) fn offer(disk: &mut impl BlockStorage, lba: u64, data: &[u8]) -> Result<Ticket, Fault> {
    wait(|| match disk.write(Lba(lba), data) {
        Ok(Accepted::Done(ticket)) => Some(Ok(ticket)),
        Ok(Accepted::Later) => {
            disk.progress();
            None
        }
        Err(fault) => Some(Err(fault)),
    })
}

pub(crate) fn settle(disk: &mut impl BlockStorage, ticket: Ticket) -> Result<(), Fault> {
    wait(|| {
        disk.progress();
        (disk.durable() >= ticket).then(|| disk.outcome(ticket))
    })
}

pub(crate) fn write(disk: &mut impl BlockStorage, lba: u64, data: &[u8]) -> Result<(), Fault> {
    let ticket = offer(disk, lba, data)?;
    settle(disk, ticket)
}

pub(crate) fn discard(disk: &mut impl BlockStorage, lba: u64, count: u64) -> Result<(), Fault> {
    let ticket = wait(|| match disk.discard(Lba(lba), Sectors(count)) {
        Ok(Accepted::Done(ticket)) => Some(Ok(ticket)),
        Ok(Accepted::Later) => {
            disk.progress();
            None
        }
        Err(fault) => Some(Err(fault)),
    })?;
    settle(disk, ticket)
}

/// Lets somebody else do something that needs the disk to be driven meanwhile.
pub(crate) fn while_driven<T: Send>(
    disk: &mut (impl BlockStorage + Send),
    work: impl FnOnce() -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            disk.progress();
            std::thread::park_timeout(Duration::from_millis(1));
        }
        work.join().unwrap()
    })
}

/// Has everything committed, and closes the store in order.
pub(crate) fn commit_and_close(store: &CasStore, mut disk: CasVolume) {
    while_driven(&mut disk, || store.commit()).unwrap();
    disk.finish().unwrap();
    drop(disk);
    store.close().unwrap();
}
