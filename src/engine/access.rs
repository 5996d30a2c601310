//! Who may use a target: the MAC mask list (`AoEr11` 3.3) and the reservation (3.4).

use super::target::{Outcome, Settings, Target};
use super::{After, Port, Request};
use crate::protocol::{
    AoeError, DIRECTIVE_LEN, Directive, DirectiveCommand, FrameFields, FrameWriter, HEADER_LEN,
    MASK_LEN, MacAddr, MaskArg, MaskCommand, MaskError, MaskFields, RESERVE_LEN, ReserveArg,
    ReserveCommand,
};

/// The most addresses of one list: what a directive count of one octet can say.
pub(super) const MAC_LIST_MAX: usize = 255;

/// A list that takes no more addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a list of {MAC_LIST_MAX} addresses is full")]
pub struct MacListFull;

/// A list of different Ethernet addresses, in the order they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MacList(heapless::Vec<MacAddr, MAC_LIST_MAX>);

impl MacList {
    /// An empty list.
    pub const fn new() -> Self {
        Self(heapless::Vec::new())
    }

    /// The addresses.
    pub fn as_slice(&self) -> &[MacAddr] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are; 255 at most.
    pub fn len(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }

    /// Whether `mac` is listed.
    pub fn contains(&self, mac: MacAddr) -> bool {
        self.0.contains(&mac)
    }

    /// Whether a list of those who may shuts `mac` out: an empty one shuts out nobody.
    pub fn shuts_out(&self, mac: MacAddr) -> bool {
        !self.is_empty() && !self.contains(mac)
    }

    /// Adds `mac`, unless it is there.
    ///
    /// # Errors
    /// [`MacListFull`] when 255 others are.
    pub fn add(&mut self, mac: MacAddr) -> Result<(), MacListFull> {
        if self.contains(mac) {
            return Ok(());
        }
        self.0.push(mac).map_err(|_| MacListFull)
    }

    /// Takes `mac` off, if it is there.
    pub fn remove(&mut self, mac: MacAddr) {
        self.0.retain(|listed| *listed != mac);
    }
}

impl Target {
    /// Answers a MAC mask command.
    pub(super) fn mask(&mut self, request: &Request<'_>, reply: &mut [u8]) -> Outcome {
        let Ok(arg) = MaskArg::parse(request.frame.header.arg()) else {
            return self.malformed();
        };
        let command = arg.command();
        let fields = self.reply_fields(request);
        if command == MaskCommand::READ {
            let len = tell_mask(&fields, command, &self.settings.mask, request.port, reply);
            return Outcome::Reply(len, After::Now);
        }
        let Some(directives) = arg.directives().filter(|_| command == MaskCommand::EDIT) else {
            return Outcome::Refuse(AoeError::BAD_ARGUMENT);
        };
        if self.is_saving() {
            return Outcome::Park;
        }
        // What comes before a bad directive stays done, as the specification has it.
        let mut mask = self.settings.mask.clone();
        let stopped = edit(&mut mask, directives, listed_max(request.port));
        let len = match stopped {
            None => tell_mask(&fields, command, &mask, request.port, reply),
            Some((directive_count, error)) => FrameWriter::new(reply, &fields)
                .mask(&MaskFields { command, error, directive_count })
                .finish(),
        };
        if mask == self.settings.mask {
            return Outcome::Reply(len, After::Now);
        }
        let settings = Settings { mask, ..self.settings.clone() };
        self.stage(settings, len)
    }

    /// Answers a reserve/release command.
    pub(super) fn reserve(&mut self, request: &Request<'_>, reply: &mut [u8]) -> Outcome {
        let Ok(arg) = ReserveArg::parse(request.frame.header.arg()) else {
            return self.malformed();
        };
        let command = arg.command();
        let fields = self.reply_fields(request);
        let holders = &self.settings.reservation;
        if command == ReserveCommand::READ {
            let len = tell_holders(&fields, command, holders, request.port, reply);
            return Outcome::Reply(len, After::Now);
        }
        let may = matches!(command, ReserveCommand::SET | ReserveCommand::FORCE_SET);
        let Some(macs) = arg.macs().filter(|_| may) else {
            return Outcome::Refuse(AoeError::BAD_ARGUMENT);
        };
        if command == ReserveCommand::SET && holders.shuts_out(request.frame.source) {
            self.counters.refused_reserved += 1;
            let fields = fields.refusing(AoeError::TARGET_RESERVED);
            let len = tell_holders(&fields, command, holders, request.port, reply);
            return Outcome::Reply(len, After::Now);
        }
        if self.is_saving() {
            return Outcome::Park;
        }
        let mut reservation = MacList::new();
        for mac in macs {
            // There are 255 at most, so that the list cannot be full.
            let _ = reservation.add(mac);
        }
        let len = tell_holders(&fields, command, &reservation, request.port, reply);
        if reservation == *holders {
            return Outcome::Reply(len, After::Now);
        }
        let settings = Settings { reservation, ..self.settings.clone() };
        self.stage(settings, len)
    }
}

/// How many directives a reply on this link can list. A longer list could not be read back, so that
/// it counts as full: 185 at MTU 1500.
fn listed_max(port: Port) -> usize {
    (port.mtu.saturating_sub(HEADER_LEN + MASK_LEN) / DIRECTIVE_LEN).min(MAC_LIST_MAX)
}

/// Applies directives up to the first that cannot be; tells which one that was, and why.
fn edit(
    mask: &mut MacList,
    directives: impl Iterator<Item = Directive>,
    capacity: usize,
) -> Option<(u8, MaskError)> {
    // The counter second: it is not asked for a number after that of the 255th.
    for (Directive { command, mac }, index) in directives.zip(0_u8..) {
        match command {
            DirectiveCommand::NONE => {}
            DirectiveCommand::DELETE => mask.remove(mac),
            DirectiveCommand::ADD if mask.contains(mac) => {}
            DirectiveCommand::ADD if usize::from(mask.len()) < capacity => {
                if mask.add(mac).is_err() {
                    return Some((index, MaskError::LIST_FULL));
                }
            }
            DirectiveCommand::ADD => return Some((index, MaskError::LIST_FULL)),
            _ => return Some((index, MaskError::BAD_DIRECTIVE)),
        }
    }
    None
}

/// A reply with a whole mask list, as far as the link can carry it.
fn tell_mask(
    fields: &FrameFields,
    command: MaskCommand,
    mask: &MacList,
    port: Port,
    reply: &mut [u8],
) -> Option<usize> {
    let listed = mask.as_slice().get(..listed_max(port)).unwrap_or(mask.as_slice());
    let directive_count = u8::try_from(listed.len()).unwrap_or(u8::MAX);
    let mut writer = FrameWriter::new(reply, fields);
    writer.mask(&MaskFields { command, error: MaskError::NONE, directive_count });
    for mac in listed {
        writer.directive(Directive { command: DirectiveCommand::NONE, mac: *mac });
    }
    writer.finish()
}

/// A reply with all who hold the target, as far as the link can carry it.
fn tell_holders(
    fields: &FrameFields,
    command: ReserveCommand,
    holders: &MacList,
    port: Port,
    reply: &mut [u8],
) -> Option<usize> {
    let most = port.mtu.saturating_sub(HEADER_LEN + RESERVE_LEN) / 6;
    let listed = holders.as_slice().get(..most).unwrap_or(holders.as_slice());
    let mut writer = FrameWriter::new(reply, fields);
    writer.reserve(command, u8::try_from(listed.len()).unwrap_or(u8::MAX));
    for mac in listed {
        writer.mac(*mac);
    }
    writer.finish()
}
