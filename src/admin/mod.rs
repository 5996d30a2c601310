//! Control of a running server: requests and answers as JSON, a line each, over a Unix socket.
//!
//! `docs/control.md` is the reference of the requests and the answers.
//!
//! # Invariants
//! * Nothing here is done by the poll loop, nor makes it wait: it is only ever sent orders, and its
//!   state is read where it publishes it.
//! * Who may connect is who the socket's mode lets: the user that the server runs as.
//! * A client takes up a bounded amount of memory, and there is a bounded number of them.
//! * An archive that no server has open is asked the same questions by [`perform`], and answers the
//!   same.

#![forbid(unsafe_code)]

mod answer;
mod call;
mod change;
#[cfg(feature = "cas")]
mod perform;
mod request;
mod session;
mod socket;
mod status;

pub use answer::{Refusal, RefusalKind};
pub use call::{CallError, Caller};
#[cfg(feature = "cas")]
pub use perform::{perform, usage};
pub use request::{REQUESTS, Request, StoreRequest, VolumeSnapshot, parse_volume_snapshot};
pub use socket::{ControlError, ControlSocket, SharedServer};

/// The most octets of a request, its newline included: the longest is a fraction of it.
pub const REQUEST_MAX: usize = 64 << 10;
