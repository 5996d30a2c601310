//! The journal: writes that were accepted and may not yet be where they belong.
//!
//! One journal serves all images of a process. What any of them is told to write is gathered into
//! one record and made durable with one sync of the journal, which lies in one piece on its disk;
//! the images themselves, where writes lie scattered, are synced once in a while and in the
//! background. Then the segments of the journal that told of those writes are used again.
//!
//! The parts, from below: [`Medium`] keeps octets; `format` says what they mean; [`Appender`] writes
//! records and [`Reclaimer`] gives them up; [`Scan`] reads them after a crash. Up to here an entry
//! is any string of octets. On top, [`FileJournal`] and its threads journal images, and
//! [`Recovery`] replays.
//!
//! # Invariants
//! * A record is written when the one before it is durable. So a bad record at the end is a torn
//!   write, which nobody was told of; a bad one with good ones after it is damage, and refused.
//! * What is overwritten was given up before, durably.
//! * Entries are replayed in their order, from the oldest that was not given up to the last. Doing
//!   so twice has the same result as once.
//! * Nothing is assumed of octets that a failed sync left.

mod checkpointer;
mod committer;
mod error;
mod file_journal;
mod format;
mod images;
mod journal_file;
mod log;
mod mark;
mod medium;
mod replay;
mod scan;

pub use error::JournalError;
pub use file_journal::{FileJournal, JournalOptions};
pub use format::{Geometry, JournalId, Sequence, UNIT};
pub use images::ImageNumber;
pub use log::{Appender, Reclaimer, Retired, Room};
pub use medium::Medium;
#[doc(hidden)]
pub use replay::fuzz;
pub use replay::{PendingImage, Recovery, Replayed};
pub use scan::{Scan, ScanError};

pub(super) use committer::Order;
pub(super) use error::Word;
pub(super) use file_journal::{ImageFacts, JournalLink};
#[cfg(feature = "cas")]
pub(super) use journal_file::{JournalFile, format, random_id};
pub(super) use mark::Mark;
pub(super) use medium::SyncGuard;
#[cfg(feature = "cas")]
pub(super) use medium::{DirectFile, Guarded};
pub(super) use replay::is_left_over;

#[cfg(test)]
pub(super) mod simulation;
