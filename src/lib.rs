//! A userspace ATA-over-Ethernet target.
//!
//! The layers, each using only those above it:
//!
//! | module | what it is | needs |
//! | --- | --- | --- |
//! | [`protocol`], [`units`], [`clock`] | frames as octets; quantities; time as a number | nothing |
//!
//! Without features the crate is `no_std`, allocates nothing and does no I/O: the engine runs on
//! bare metal as it does here. See `examples/freestanding`.

#![cfg_attr(not(feature = "std"), no_std)]

pub mod clock;
pub mod protocol;
pub mod units;

