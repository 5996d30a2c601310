//! What the thread that commits is asked to do.

use std::sync::mpsc::SyncSender;

use super::error::CasError;
use super::shared::HandedOver;
use super::volume::CasVolume;
use super::{SnapshotInfo, VolumeInfo, VolumeNumber};
use crate::protocol::ata::AtaText;
use crate::storage::journal::Sequence;
use crate::units::Sectors;
use crate::wake::Waker;

/// Where an answer goes.
pub(super) type Reply<T> = SyncSender<Result<T, CasError>>;

/// Something to do.
#[derive(Debug)]
pub(super) enum Request {
    /// To make a front end of a volume.
    Attach(Attach, Reply<CasVolume>),
    /// To make a front end of a snapshot.
    AttachSnapshot { volume: String, snapshot: String, attach: Attach, reply: Reply<CasVolume> },
    /// To take what a front end that is gone had not handed over.
    Detach(VolumeNumber, HandedOver),
    /// To change what is in the store, with the next commit.
    Edit(Edit, Reply<Edited>),
    /// To commit what there is.
    Commit(Reply<()>),
    /// To commit what there is, and end. Nothing comes into the journal after this entry.
    Close(Sequence),
}

/// How a front end is to be.
#[derive(Debug, Clone)]
pub(super) struct Attach {
    /// The volume; its own name when it is attached, not a snapshot of it.
    pub(super) volume: String,
    pub(super) read_only: bool,
    /// `None` for one made of the store's and the volume's names.
    pub(super) serial: Option<AtaText<20>>,
    /// Wakes the loop that drives it.
    pub(super) waker: Option<Waker>,
}

/// Whether a volume may become smaller, and lose what lies beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shrink {
    /// It may not.
    Never,
    /// Unless an initiator has used it just now.
    WhenIdle,
    /// Even then.
    Always,
}

/// A change of what is in a store. `unix_seconds` is when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    CreateVolume {
        name: String,
        size: Sectors,
        unix_seconds: u64,
    },
    ResizeVolume {
        name: String,
        size: Sectors,
        shrink: Shrink,
    },
    DeleteVolume {
        name: String,
        with_snapshots: bool,
    },
    CreateSnapshot {
        volume: String,
        name: String,
        unix_seconds: u64,
    },
    DeleteSnapshot {
        volume: String,
        name: String,
    },
    RestoreSnapshot {
        volume: String,
        name: String,
        force: bool,
        unix_seconds: u64,
    },
    /// A volume that begins as what another one, or a snapshot of it, is.
    Clone {
        volume: String,
        snapshot: Option<String>,
        name: String,
        unix_seconds: u64,
    },
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edited {
    Done,
    Volume(VolumeInfo),
    Snapshot(SnapshotInfo),
}
