//! The poll loop over cables in memory, turned by hand: what is answered when, in which order, and
//! that nothing is lost when room runs out or targets come and go.

#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests count to few, and print their seeds"
)]

mod called;
mod end_to_end;
mod harness;
mod held;
mod idle;
mod order;
mod room;
mod settings;
mod stuck;
mod targets;
