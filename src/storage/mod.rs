//! What a target stores its sectors in.
//!
//! The traits here are `no_std`; the back ends below need `std`. A back end is driven by one
//! thread, the poll loop, and no method may block it: what has to wait answers [`Ready::Later`] or
//! [`Accepted::Later`], goes on elsewhere, and is asked again after [`BlockStorage::progress`].
//!
//! # Invariants every back end keeps
//! * All or nothing: a call that fails has written nothing; a read that fails may have scribbled on
//!   its buffer, which is then not sent.
//! * Writes to one sector take effect in the order of their calls, and a read sees every write
//!   whose ticket [`BlockStorage::applied`] has reached.
//! * [`BlockStorage::durable`] never passes [`BlockStorage::applied`]; neither ever goes back.
//! * Octets that cannot be had are a [`Fault`]. Zeros are never made up.

#[cfg(feature = "std")]
mod aligned;
#[cfg(feature = "cas")]
pub mod cas;
#[cfg(feature = "std")]
pub mod device;
#[cfg(feature = "std")]
pub mod fault;
#[cfg(feature = "std")]
pub mod file;
#[cfg(feature = "std")]
pub mod journal;
#[cfg(feature = "std")]
mod lock;
pub mod mem;
#[cfg(feature = "std")]
pub mod readonly;
#[cfg(feature = "std")]
mod slots;
pub mod window;
#[cfg(feature = "std")]
mod writer;

#[cfg(feature = "std")]
pub use writer::SyncPolicy;

use crate::protocol::ata::AtaText;
use crate::units::{Lba, Sectors};

/// What a target's IDENTIFY page and the engine have to know of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Size of the disk.
    pub size: Sectors,
    /// Twenty characters that stay the same as long as the disk does.
    pub serial: AtaText<20>,
    /// What kind of disk this is.
    pub model: AtaText<40>,
    /// Writes are refused.
    pub read_only: bool,
    /// Discards are taken.
    pub discard: bool,
}

/// Why a disk cannot do what it was asked: only what ATA can express. The details stay in the back
/// end and its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Sectors past the end were named.
    #[error("address out of range")]
    OutOfRange,
    /// The sectors cannot be read or written: an I/O error, damage, a truncated image.
    #[error("medium error")]
    Media,
    /// The disk has no room left for this write.
    #[error("no space left")]
    NoSpace,
    /// The disk takes no writes.
    #[error("write protected")]
    WriteProtected,
    /// The back end does not do this.
    #[error("aborted")]
    Aborted,
}

/// A place in a disk's sequence of writes. Tickets of one disk only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// The ticket of what needs no waiting: durable before the first write.
    pub const NONE: Self = Self(0);
}

/// The answer to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Ready {
    /// The buffer is filled.
    Done,
    /// It was started; ask again after [`BlockStorage::progress`].
    Later,
}

/// The answer to a write, a flush or a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Accepted {
    /// Taken. It may be acknowledged when [`BlockStorage::durable`] reaches the ticket; to a user
    /// who chose a volatile target, when [`BlockStorage::applied`] does.
    Done(Ticket),
    /// Not taken, there is no room; ask again after [`BlockStorage::progress`]. Until this one is
    /// taken no later write may be offered, or order would be lost.
    Later,
}

/// A disk, as the poll loop drives it.
pub trait BlockStorage {
    /// Size, names and abilities. Changes only between calls of [`Self::progress`].
    fn info(&self) -> &DeviceInfo;

    /// Fills `into`, a whole number of sectors, from the sectors at `lba`.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] past the end, [`Fault::Media`] when any sector cannot be had.
    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault>;

    /// Takes `data`, a whole number of sectors, for the sectors at `lba`.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`], [`Fault::WriteProtected`], [`Fault::NoSpace`] or [`Fault::Media`];
    /// nothing was written then. What fails after it was taken shows in [`Self::outcome`].
    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault>;

    /// Asks that everything taken so far become durable; the ticket tells when.
    ///
    /// # Errors
    /// [`Fault::Media`] when it cannot.
    fn flush(&mut self) -> Result<Accepted, Fault>;

    /// Forgets `count` sectors at `lba`, which read as zeros from then on.
    ///
    /// # Errors
    /// [`Fault::Aborted`] unless [`DeviceInfo::discard`]; else as [`Self::write`].
    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        let _ = (lba, count);
        Err(Fault::Aborted)
    }

    /// Reads the sectors for nothing but to see that they can be read.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault>;

    /// Up to which ticket everything is done with and seen by reads, though power loss may undo it.
    fn applied(&self) -> Ticket;

    /// Up to which ticket everything is done with and survives power loss.
    fn durable(&self) -> Ticket;

    /// Carries out everything that was taken and makes it durable, for the end: no write is taken
    /// afterwards. Unlike all others this method waits, and is not for the poll loop.
    ///
    /// # Errors
    /// [`Fault::Media`] when not everything is durable.
    fn finish(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// How the write, flush or discard with `ticket` ended, asked when [`Self::applied`] or
    /// [`Self::durable`] has reached it, at most once, before it is acknowledged. A write can fail
    /// after it was taken: the disk was full, or syncing failed, after which every later one fails.
    /// A write that is asked about when it is durable also answers for the sync that made it so.
    ///
    /// # Errors
    /// The [`Fault`] to answer with instead of success.
    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        let _ = ticket;
        Ok(())
    }

    /// Takes in what others have finished, and passes on reads that have begun. `true` when something
    /// that answered [`Ready::Later`] or [`Accepted::Later`] is worth asking again. Cheap, called
    /// every turn while something waits, and always between a read that answered [`Ready::Later`]
    /// and a sleep; with nothing that waits some times a second, and soon after the loop is called.
    fn progress(&mut self) -> bool {
        false
    }

    /// Looks again at what the disk is stored in; `true` when its size has changed. A few system
    /// calls, made when the server is told to reload.
    fn refresh(&mut self) -> bool {
        false
    }
}

/// A pointer to a disk is a disk.
macro_rules! forward_to_the_disk {
    ($pointer:ty) => {
        impl<S: BlockStorage + ?Sized> BlockStorage for $pointer {
            fn info(&self) -> &DeviceInfo {
                (**self).info()
            }
            fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
                (**self).read(lba, into)
            }
            fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
                (**self).write(lba, data)
            }
            fn flush(&mut self) -> Result<Accepted, Fault> {
                (**self).flush()
            }
            fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
                (**self).discard(lba, count)
            }
            fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
                (**self).verify(lba, count)
            }
            fn applied(&self) -> Ticket {
                (**self).applied()
            }
            fn durable(&self) -> Ticket {
                (**self).durable()
            }
            fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
                (**self).outcome(ticket)
            }
            fn progress(&mut self) -> bool {
                (**self).progress()
            }
            fn refresh(&mut self) -> bool {
                (**self).refresh()
            }
            fn finish(&mut self) -> Result<(), Fault> {
                (**self).finish()
            }
        }
    };
}

forward_to_the_disk!(&mut S);
#[cfg(feature = "std")]
forward_to_the_disk!(Box<S>);
