//! The archive, through its public interface and on real files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod basic;
mod disk;
