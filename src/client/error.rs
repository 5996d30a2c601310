//! What can go wrong for an initiator.

use std::io;
use std::time::Duration;

use crate::link::LinkError;
use crate::protocol::{Address, AoeError, Command, MaskError, Opcode};
use crate::units::{Lba, Sectors};

/// Why a target could not be used as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing came back in time.
    #[error(
        "no answer from {address} within {} ms, asked {transmissions} times",
        waited.as_millis()
    )]
    NoAnswer {
        /// Who was asked.
        address: Address,
        /// For how long it was waited.
        waited: Duration,
        /// How often it was asked.
        transmissions: u32,
    },
    /// The target answered with an AoE error.
    #[error("{address} refuses the {command} command: {error}")]
    Refused {
        /// Who refused.
        address: Address,
        /// What was asked.
        command: Command,
        /// Its reason.
        error: AoeError,
    },
    /// The target answered with an ATA error.
    #[error(
        "{address} fails {opcode} at LBA {lba}, {count} sectors: {} (status {status:#04x}, error {error:#04x})",
        describe(*status, *error)
    )]
    Ata {
        /// Who failed.
        address: Address,
        /// What was asked.
        opcode: Opcode,
        /// From where on.
        lba: Lba,
        /// How many sectors.
        count: Sectors,
        /// The status register.
        status: u8,
        /// The error register.
        error: u8,
    },
    /// The target reports success, but sent less than was asked for.
    #[error("{address} sent {have} of {expected} octets")]
    ShortReply {
        /// Who sent them.
        address: Address,
        /// The octets asked for.
        expected: usize,
        /// The octets that came.
        have: usize,
    },
    /// The argument of an answer contradicts itself.
    #[error("{address} sent a malformed answer to the {command} command")]
    Malformed {
        /// Who sent it.
        address: Address,
        /// What it answers.
        command: Command,
    },
    /// An edit of the MAC mask list stopped; the directives before this one were done.
    #[error("{address} stopped at change {index} of its MAC mask list: {error}")]
    MaskEdit {
        /// Who stopped.
        address: Address,
        /// The place of the directive, from zero.
        index: u8,
        /// Its reason.
        error: MaskError,
    },
    /// More addresses than one frame can list.
    #[error("{count} addresses are more than one frame can list; {most} fit")]
    ListTooLong {
        /// How many there are.
        count: usize,
        /// How many fit.
        most: usize,
    },
    /// A config string that is longer than the protocol allows.
    #[error("a config string of {len} octets is too long; 1024 are allowed")]
    StringTooLong {
        /// Its length.
        len: usize,
    },
    /// A wildcard, where one target must be named.
    #[error("{address} names many targets; name one, as in e7.3")]
    Wildcard {
        /// The wildcard.
        address: Address,
    },
    /// Frames of the interface are too short for a single sector.
    #[error("an MTU of {mtu} octets has no room for a sector; 548 are needed")]
    MtuTooSmall {
        /// The interface's MTU.
        mtu: usize,
    },
    /// Sectors that the disk does not have.
    #[error("{count} sectors at LBA {lba} do not lie on {address}, which has {size}")]
    OutOfRange {
        /// The target.
        address: Address,
        /// The first sector.
        lba: Lba,
        /// How many.
        count: Sectors,
        /// The size of the disk.
        size: Sectors,
    },
    /// What was to be written does not fit. As much as fits was.
    #[error("the data does not end where the {count} sectors at LBA {lba} of {address} do")]
    SourceTooLong {
        /// The target.
        address: Address,
        /// The first sector that was written.
        lba: Lba,
        /// How many there is room for.
        count: Sectors,
    },
    /// More sectors than the load generator can remember.
    #[error("to verify {units} different requests takes too much memory; {most} are possible")]
    TooManyToVerify {
        /// How many there would be.
        units: u64,
        /// How many are possible.
        most: u64,
    },
    /// What was read back is not what was written.
    #[error("{address} does not hold what was written, between LBA {lba} and {count} sectors on")]
    Differs {
        /// The target.
        address: Address,
        /// The start of the first part that differs.
        lba: Lba,
        /// How long the part is.
        count: Sectors,
    },
    /// The network interface could not be used.
    #[error("cannot {doing} frames")]
    Link {
        /// What was tried: to send, to receive or to wait for.
        doing: &'static str,
        /// Why it failed.
        source: LinkError,
    },
    /// What is read into or written from could not be used.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl ClientError {
    /// Whether a target has answered, and its answer is no: asking again would not help.
    pub const fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Ata { .. } | Self::MaskEdit { .. } | Self::Differs { .. }
        )
    }
}

/// What the two registers say, in words.
const fn describe(status: u8, error: u8) -> &'static str {
    use crate::protocol::ata::{error as e, status as s};
    if error & e::UNC != 0 {
        "uncorrectable data"
    } else if error & e::IDNF != 0 {
        "no such address"
    } else if status & s::DF != 0 {
        "device fault"
    } else if error & e::ABRT != 0 {
        "the command was aborted"
    } else if status & s::BSY != 0 {
        "the device is busy"
    } else {
        "unknown error"
    }
}
