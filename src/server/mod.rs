//! Serving: the poll loop, and what starts, changes and stops it.

mod admit;
mod control;
mod exports;
mod idle;
mod links;
mod listener;
mod pending;
mod port;
mod probe;
mod settle;
pub mod state;
#[cfg_attr(not(feature = "cas"), path = "no_stores.rs")]
mod stores;
mod supervisor;
mod target;

pub use control::{Answer, Control, LinkStatus, LoopEnded, Status, TargetStatus};
pub use exports::{Observer, ServedTarget, SnapshotExport};
pub use idle::Idle;
pub use links::{LiveLink, LiveOptions, open_link};
pub use listener::{Backend, Listener};
pub use probe::{Admission, PortSet};
pub use stores::{ArchiveError, Stores};
pub use supervisor::{Server, ServerError};
pub use target::{StorageMeans, TargetError, open_target};
