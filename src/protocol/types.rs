//! The vocabulary of the wire: addresses, codes and constants of `AoEr11`.

use core::fmt;
use core::str::FromStr;

/// The `EtherType` registered for ATA over Ethernet.
pub const ETHERTYPE: u16 = 0x88a2;
/// The one protocol version there is.
pub const VERSION: u8 = 1;
/// Octets of an Ethernet header without a VLAN tag.
pub const ETHERNET_LEN: usize = 14;
/// Octets of the AoE header that follows it.
pub const HEADER_LEN: usize = 10;
/// Octets of the fixed part of an ATA argument.
pub const ATA_LEN: usize = 12;
/// Octets of the fixed part of a query-config argument.
pub const CONFIG_LEN: usize = 8;
/// Octets of the fixed part of a MAC mask argument.
pub const MASK_LEN: usize = 4;
/// Octets of one directive of a MAC mask argument.
pub const DIRECTIVE_LEN: usize = 8;
/// Octets of the fixed part of a reserve/release argument.
pub const RESERVE_LEN: usize = 2;
/// Octets before the data of an ATA frame: Ethernet, AoE and ATA headers.
pub const ATA_DATA_OFFSET: usize = ETHERNET_LEN + HEADER_LEN + ATA_LEN;
/// The shortest frame that Ethernet carries, without its checksum. Replies are padded to it here,
/// since veth and tap do not pad and aoetools discard anything shorter.
pub const MIN_FRAME_LEN: usize = 60;
/// The largest MTU that is made use of, in octets after the Ethernet header. What is above (`lo`
/// has 65536) would only make pools of frames outgrow the cache.
pub const MAX_MTU: usize = 9216;
/// Octets a config string may have (`AoEr11` 3.2).
pub const CONFIG_STRING_MAX: usize = 1024;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody on the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set, as in broadcast and multicast addresses.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an Ethernet address is six pairs of hexadecimal digits, as in 52:54:00:12:34:56")]
pub struct BadMacAddr;

impl FromStr for MacAddr {
    type Err = BadMacAddr;

    fn from_str(text: &str) -> Result<Self, BadMacAddr> {
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or(BadMacAddr)?;
            // `from_str_radix` alone would take "+1" and "001".
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(BadMacAddr);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| BadMacAddr)?;
        }
        if parts.next().is_some() { Err(BadMacAddr) } else { Ok(Self(octets)) }
    }
}

/// Where a target is: its shelf (major) and slot (minor). Written `e7.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Major address. `0xffff` in a request means every shelf.
    pub shelf: u16,
    /// Minor address. `0xff` in a request means every slot.
    pub slot: u8,
}

impl Address {
    /// The shelf that addresses all shelves.
    pub const EVERY_SHELF: u16 = 0xffff;
    /// The slot that addresses all slots.
    pub const EVERY_SLOT: u8 = 0xff;
    /// Every target on the segment.
    pub const EVERYONE: Self = Self { shelf: Self::EVERY_SHELF, slot: Self::EVERY_SLOT };

    /// The address of one target, or a wildcard.
    pub const fn new(shelf: u16, slot: u8) -> Self {
        Self { shelf, slot }
    }

    /// Whether shelf or slot is the wildcard.
    pub const fn is_wildcard(self) -> bool {
        self.shelf == Self::EVERY_SHELF || self.slot == Self::EVERY_SLOT
    }

    /// Whether a request to `self` is meant for `target`. The two wildcards are independent.
    pub const fn matches(self, target: Self) -> bool {
        (self.shelf == target.shelf || self.shelf == Self::EVERY_SHELF)
            && (self.slot == target.slot || self.slot == Self::EVERY_SLOT)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.shelf, self.slot) {
            (Self::EVERY_SHELF, Self::EVERY_SLOT) => write!(f, "e*.*"),
            (Self::EVERY_SHELF, slot) => write!(f, "e*.{slot}"),
            (shelf, Self::EVERY_SLOT) => write!(f, "e{shelf}.*"),
            (shelf, slot) => write!(f, "e{shelf}.{slot}"),
        }
    }
}

/// Why a text is not a target's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is a shelf of 0-65534 and a slot of 0-254, as in e7.3")]
pub struct BadAddress;

impl FromStr for Address {
    type Err = BadAddress;

    /// Reads `e7.3` or `7.3`; a `*` stands for the wildcard.
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        fn number<T: FromStr + PartialEq>(text: &str, every: T) -> Result<T, BadAddress> {
            if text == "*" {
                return Ok(every);
            }
            // `parse` alone would take "+7".
            if !text.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(BadAddress);
            }
            match text.parse() {
                Ok(number) if number != every => Ok(number),
                _ => Err(BadAddress),
            }
        }
        let (shelf, slot) =
            text.strip_prefix('e').unwrap_or(text).split_once('.').ok_or(BadAddress)?;
        Ok(Self { shelf: number(shelf, Self::EVERY_SHELF)?, slot: number(slot, Self::EVERY_SLOT)? })
    }
}

/// The initiator's four octets, returned as they came. They identify nothing to a target: Linux
/// retransmits under a new tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(pub [u8; 4]);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// A set of named one-octet codes. Unknown ones are kept, never refused: what to do about them is
/// for the engine to say.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$code_doc:meta])* $code:ident = $value:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$code_doc])* pub const $code: Self = Self($value);)*

            /// What the specification calls this code; `None` for one that it does not name.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#04x}", self.0),
                }
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// What an AoE frame asks for (`AoEr11` 2.5).
    Command {
        /// Issue an ATA command.
        ATA = 0 "ata",
        /// Query config information.
        CONFIG = 1 "config",
        /// MAC mask list.
        MASK = 2 "mask",
        /// Reserve or release.
        RESERVE = 3 "reserve",
    }
}

impl Command {
    /// Whether this code is left to vendors (`AoEr11` 2.5): 240 and above.
    pub const fn is_vendor(self) -> bool {
        self.0 >= 0xf0
    }
}

codes! {
    /// Why a target refuses an AoE command (`AoEr11` 2.4).
    AoeError {
        /// Not an error.
        NONE = 0 "none",
        /// The command code is unknown.
        UNRECOGNIZED_COMMAND = 1 "unrecognized command code",
        /// Something in the argument is illegal.
        BAD_ARGUMENT = 2 "bad argument parameter",
        /// The target can't take ATA commands any more.
        DEVICE_UNAVAILABLE = 3 "device unavailable",
        /// The config string is set already.
        CONFIG_STRING_PRESENT = 4 "config string present",
        /// The version is not ours.
        UNSUPPORTED_VERSION = 5 "unsupported version",
        /// Others hold the target.
        TARGET_RESERVED = 6 "target is reserved",
    }
}

codes! {
    /// What a query-config frame does with the config string (`CCmd`).
    ConfigCommand {
        /// Tell it.
        READ = 0 "read",
        /// Answer only if it is exactly this.
        TEST = 1 "test",
        /// Answer only if it starts with this.
        TEST_PREFIX = 2 "test-prefix",
        /// Set it, if it is empty.
        SET = 3 "set",
        /// Set it.
        FORCE_SET = 4 "force-set",
    }
}

codes! {
    /// What a MAC mask frame does with the list (`MCmd`).
    MaskCommand {
        /// Tell it.
        READ = 0 "read",
        /// Apply the directives.
        EDIT = 1 "edit",
    }
}

codes! {
    /// Why an edit of a MAC mask list stopped (`MError`).
    MaskError {
        /// It did not.
        NONE = 0 "none",
        /// For a reason the specification has no code for.
        UNSPECIFIED = 1 "unspecified",
        /// A directive is unknown.
        BAD_DIRECTIVE = 2 "bad directive",
        /// The list is full.
        LIST_FULL = 3 "list full",
    }
}

codes! {
    /// What one directive does to a MAC mask list (`DCmd`).
    DirectiveCommand {
        /// Nothing.
        NONE = 0 "none",
        /// Adds the address.
        ADD = 1 "add",
        /// Deletes the address.
        DELETE = 2 "delete",
    }
}

codes! {
    /// What a reserve/release frame does (`RCmd`).
    ReserveCommand {
        /// Tells who holds the target.
        READ = 0 "read",
        /// Sets the holders, if the sender may.
        SET = 1 "set",
        /// Sets the holders.
        FORCE_SET = 2 "force-set",
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn addresses_read_as_they_are_written() {
        for address in [Address::new(7, 3), Address::new(0, 0), Address::new(0xfffe, 0xfe)] {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        assert_eq!("7.3".parse(), Ok(Address::new(7, 3)));
        assert_eq!("e*.*".parse(), Ok(Address::EVERYONE));
        for text in ["", "e", "e7", "e7.", "e7.255", "e65535.0", "e-1.0", "e7.3.1", "e+7.3", "7,3"]
        {
            assert_eq!(text.parse::<Address>(), Err(BadAddress), "{text}");
        }
    }

    #[test]
    fn ethernet_addresses_read_as_they_are_written() {
        let mac = MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 1]);
        assert_eq!(mac.to_string(), "52:54:00:aa:bb:01");
        assert_eq!("52:54:00:AA:bb:01".parse(), Ok(mac));
        assert_eq!("52-54-00-aa-bb-01".parse(), Ok(mac));
        for text in
            ["", "52:54:00:aa:bb", "52:54:00:aa:bb:01:02", "5:4:0:a:b:1", "+2:54:00:aa:bb:01"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(BadMacAddr), "{text}");
        }
    }

    #[test]
    fn the_two_wildcards_are_independent() {
        let target = Address::new(9, 3);
        assert!(Address::new(0xffff, 3).matches(target));
        assert!(Address::new(9, 0xff).matches(target));
        assert!(Address::EVERYONE.matches(target));
        assert!(!Address::new(0xffff, 4).matches(target));
        assert!(!Address::new(8, 0xff).matches(target));
    }
}
