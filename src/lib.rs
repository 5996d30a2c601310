//! A userspace ATA-over-Ethernet target.
//!
//! The layers, each using only those above it:
//!
//! | module | what it is | needs |
//! | --- | --- | --- |
//! | [`protocol`], [`units`], [`clock`] | frames as octets; quantities; time as a number | nothing |
//! | [`engine`], the traits of [`link`] and [`storage`] | one request in, one decision out | nothing |
//! | back ends of [`link`] and [`storage`] | sockets, captures, files, devices | `std` |
#![cfg_attr(feature = "cas", doc = "| [`blob`] | octets by the name of their hash | `cas` |")]
#![cfg_attr(
    feature = "std",
    doc = "| [`config`], [`server`], [`client`] | configuration; the poll loop; an initiator | `std` |"
)]
#![cfg_attr(feature = "admin", doc = "| [`admin`] | control of a running server | `admin` |")]
#![cfg_attr(feature = "cli", doc = "| [`cli`] | the commands | `cli` |")]
//!
//! Without features the crate is `no_std`, allocates nothing and does no I/O: the engine runs on
//! bare metal as it does here. See `examples/freestanding`.

#![cfg_attr(not(feature = "std"), no_std)]

pub mod clock;
pub mod engine;
pub mod link;
pub mod protocol;
pub mod storage;
pub mod units;

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "cas")]
pub mod blob;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "std")]
pub mod client;
#[cfg(feature = "std")]
pub mod config;
#[cfg(feature = "std")]
pub mod holder;
#[cfg(feature = "std")]
pub mod scheduling;
#[cfg(feature = "std")]
pub mod server;
#[cfg(feature = "std")]
pub mod wake;
