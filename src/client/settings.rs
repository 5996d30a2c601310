//! What initiators keep with a target: config string, MAC mask list, reservation.

use super::discover::found;
use super::{Client, ClientError, DiskFacts, Found};
use crate::engine::initiator::{Ask, Reply};
use crate::engine::{ConfigString, MacList};
use crate::protocol::{
    Address, AoeError, CONFIG_STRING_MAX, Command, ConfigCommand, ConfigFields, Directive,
    DirectiveCommand, MacAddr, MaskArg, MaskCommand, MaskError, MaskFields, ReserveArg,
    ReserveCommand,
};

/// Octets before the list in a frame: headers, and the fixed part of the mask argument.
const MASK_OVERHEAD: usize = 14;
/// The same for a reservation.
const RESERVE_OVERHEAD: usize = 12;

/// A change to a MAC mask list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskChange {
    /// Adds an address.
    Add(MacAddr),
    /// Takes an address off.
    Remove(MacAddr),
}

/// Everything that a target tells.
#[derive(Debug, Clone)]
pub struct Stat {
    /// The answers to a config query: one, unless two stations have the address.
    pub found: Vec<Found>,
    /// What the IDENTIFY page says.
    pub disk: DiskFacts,
    /// Who is heard; `None` from a target that knows no such list.
    pub mask: Option<MacList>,
    /// Who holds it; `None` from a target that knows no reservations.
    pub reservation: Option<MacList>,
}

/// What a target of the year 2006 says to a command of the year 2009.
fn if_known<T>(result: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ClientError::Refused { error: AoeError::UNRECOGNIZED_COMMAND, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The addresses of a list, without repetitions. `None` when they are more than there can be.
fn list(macs: impl Iterator<Item = MacAddr>) -> Option<MacList> {
    let mut list = MacList::new();
    for mac in macs {
        list.add(mac).ok()?;
    }
    Some(list)
}

impl Client {
    /// Asks a target for everything that it tells.
    ///
    /// # Errors
    /// [`ClientError`] when it does not answer, or refuses.
    pub fn stat(&mut self, address: Address) -> Result<Stat, ClientError> {
        let found = self.locate(address)?;
        let mac = found.first().map_or(MacAddr::BROADCAST, |found| found.mac);
        Ok(Stat {
            disk: self.identify(mac, address)?,
            mask: if_known(self.mask(address))?,
            reservation: if_known(self.reservation(address))?,
            found,
        })
    }

    /// The target's config string.
    ///
    /// # Errors
    /// [`ClientError`] when it does not answer, or refuses.
    pub fn config_string(&mut self, address: Address) -> Result<ConfigString, ClientError> {
        self.config(address, ConfigCommand::READ, &[])
    }

    /// Whether the target's config string is `string`, or, with `prefix`, starts with it. A target
    /// for which it is not stays silent: the answer `false` takes as long as the client's patience,
    /// and says nothing about whether there is a target at all.
    ///
    /// # Errors
    /// [`ClientError`] when the target refuses, or the interface cannot be used.
    pub fn test_config_string(
        &mut self,
        address: Address,
        string: &[u8],
        prefix: bool,
    ) -> Result<bool, ClientError> {
        let command = if prefix { ConfigCommand::TEST_PREFIX } else { ConfigCommand::TEST };
        match self.config(address, command, string) {
            Ok(_) => Ok(true),
            Err(ClientError::NoAnswer { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets the target's config string: only if it is empty or the same, unless `force`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`AoeError::CONFIG_STRING_PRESENT`] when it is another, or
    /// another [`ClientError`].
    pub fn set_config_string(
        &mut self,
        address: Address,
        string: &[u8],
        force: bool,
    ) -> Result<ConfigString, ClientError> {
        let command = if force { ConfigCommand::FORCE_SET } else { ConfigCommand::SET };
        self.config(address, command, string)
    }

    fn config(
        &mut self,
        address: Address,
        command: ConfigCommand,
        string: &[u8],
    ) -> Result<ConfigString, ClientError> {
        let len = string.len();
        if len > CONFIG_STRING_MAX {
            return Err(ClientError::StringTooLong { len });
        }
        let ask = self.ask_one(address, Command::CONFIG)?;
        let fields = ConfigFields { command, ..ConfigFields::default() };
        self.exchange(
            ask,
            |writer| {
                writer.config(&fields, string);
            },
            |reply| found(reply).map(|found| found.config_string),
        )
    }

    /// The target's MAC mask list.
    ///
    /// # Errors
    /// [`ClientError`] when it does not answer, or refuses.
    pub fn mask(&mut self, address: Address) -> Result<MacList, ClientError> {
        self.mask_command(address, MaskCommand::READ, &[])
    }

    /// Changes the target's MAC mask list, in order, and tells what has become of it. A list that
    /// leaves this station out shuts it out from then on.
    ///
    /// # Errors
    /// [`ClientError::MaskEdit`] when the target stopped at one of the changes, or another
    /// [`ClientError`].
    pub fn change_mask(
        &mut self,
        address: Address,
        changes: &[MaskChange],
    ) -> Result<MacList, ClientError> {
        self.mask_command(address, MaskCommand::EDIT, changes)
    }

    fn mask_command(
        &mut self,
        address: Address,
        command: MaskCommand,
        changes: &[MaskChange],
    ) -> Result<MacList, ClientError> {
        let directive_count = self.count_fits(changes.len(), MASK_OVERHEAD, 8)?;
        let ask = self.ask_one(address, Command::MASK)?;
        let fields = MaskFields { command, error: MaskError::NONE, directive_count };
        self.exchange(
            ask,
            |writer| {
                writer.mask(&fields);
                for change in changes {
                    let (command, mac) = match *change {
                        MaskChange::Add(mac) => (DirectiveCommand::ADD, mac),
                        MaskChange::Remove(mac) => (DirectiveCommand::DELETE, mac),
                    };
                    writer.directive(Directive { command, mac });
                }
            },
            |reply| read_mask(reply, address),
        )
    }

    /// Who holds the target; an empty list when nobody does.
    ///
    /// # Errors
    /// [`ClientError`] when it does not answer, or refuses.
    pub fn reservation(&mut self, address: Address) -> Result<MacList, ClientError> {
        self.reserve_command(address, ReserveCommand::READ, &[])
    }

    /// Makes `holders` the only stations that may use the target, or, without any, releases it. Only
    /// a holder may replace others, unless `force`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`AoeError::TARGET_RESERVED`] when others hold it, or another
    /// [`ClientError`].
    pub fn reserve(
        &mut self,
        address: Address,
        holders: &[MacAddr],
        force: bool,
    ) -> Result<MacList, ClientError> {
        let command = if force { ReserveCommand::FORCE_SET } else { ReserveCommand::SET };
        self.reserve_command(address, command, holders)
    }

    fn reserve_command(
        &mut self,
        address: Address,
        command: ReserveCommand,
        holders: &[MacAddr],
    ) -> Result<MacList, ClientError> {
        let mac_count = self.count_fits(holders.len(), RESERVE_OVERHEAD, 6)?;
        let ask = self.ask_one(address, Command::RESERVE)?;
        self.exchange(
            ask,
            |writer| {
                writer.reserve(command, mac_count);
                for mac in holders {
                    writer.mac(*mac);
                }
            },
            |reply| {
                let malformed = ClientError::Malformed { address, command: Command::RESERVE };
                let Ok(reserve) = ReserveArg::parse(reply.frame.header.arg()) else {
                    return Err(malformed);
                };
                reserve.macs().and_then(list).ok_or(malformed)
            },
        )
    }

    /// A request to one target, sent to everybody: these commands are rare, and finding the station
    /// would take as long again.
    fn ask_one(&self, address: Address, command: Command) -> Result<Ask, ClientError> {
        if address.is_wildcard() {
            return Err(ClientError::Wildcard { address });
        }
        Ok(self.ask(MacAddr::BROADCAST, address, command))
    }

    /// `count` as a frame counts the entries of a list, each `size` octets, if they fit one.
    fn count_fits(&self, count: usize, overhead: usize, size: usize) -> Result<u8, ClientError> {
        let fits = self.link.info().mtu.saturating_sub(overhead) / size;
        let most = fits.min(usize::from(u8::MAX));
        match u8::try_from(count) {
            Ok(number) if count <= most => Ok(number),
            _ => Err(ClientError::ListTooLong { count, most }),
        }
    }
}

fn read_mask(reply: &Reply<'_>, address: Address) -> Result<MacList, ClientError> {
    let malformed = ClientError::Malformed { address, command: Command::MASK };
    let Ok(mask) = MaskArg::parse(reply.frame.header.arg()) else { return Err(malformed) };
    if mask.error() != MaskError::NONE {
        let (index, error) = (mask.directive_count(), mask.error());
        return Err(ClientError::MaskEdit { address, index, error });
    }
    let macs = mask.directives().map(|directives| directives.map(|directive| directive.mac));
    macs.and_then(list).ok_or(malformed)
}
