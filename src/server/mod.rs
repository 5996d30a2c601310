//! Serving: the poll loop, and what starts, changes and stops it.

mod admit;
mod control;
mod idle;
mod links;
mod listener;
mod pending;
mod port;
mod probe;
mod settle;
pub mod state;
mod supervisor;
mod target;

pub use control::{Answer, Control, LinkStatus, LoopEnded, Status, TargetStatus};
pub use idle::Idle;
pub use links::{LiveLink, LiveOptions, open_link};
pub use listener::{Backend, Listener};
pub use probe::{Admission, PortSet};
pub use supervisor::{Server, ServerError};
pub use target::{StorageMeans, TargetError, open_target};
