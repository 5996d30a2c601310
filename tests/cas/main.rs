//! The archive, through its public interface and on real files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::cast_possible_truncation, reason = "the stores here are small")]

mod basic;
mod damage;
mod disk;
mod fixture;
mod heal;
mod index_heals;
mod no_space;
#[path = "../common/noise.rs"]
mod noise;
#[path = "../common/octets.rs"]
mod octets;
mod older;
mod read_ahead;
#[path = "../common/small_disk.rs"]
mod small_disk;
mod stores;
mod stores_base;
