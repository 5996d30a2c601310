//! From an address to a target, in a time that does not grow with the number of targets.

use crate::protocol::Address;

/// The most targets one engine serves.
pub const MAX_TARGETS: usize = 1024;
/// Places in the table: a power of two, half of it empty at the most so that probes stay short.
const PLACES: usize = 2 * MAX_TARGETS;

/// Why a list of targets cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressTaken {
    /// Two targets have the same address.
    #[error("two targets have the address {address}")]
    Twice {
        /// The address.
        address: Address,
    },
    /// Shelf 65535 and slot 255 are wildcards, which no target can have.
    #[error("no target can have the address {address}")]
    Reserved {
        /// The address.
        address: Address,
    },
    /// There are more than [`MAX_TARGETS`].
    #[error("more than {MAX_TARGETS} targets")]
    TooMany,
}

/// An open-addressed hash table of fixed size.
#[derive(Debug)]
pub(super) struct Router {
    /// Packed address, and the index of its target plus one; zero is an empty place.
    places: [(u32, u16); PLACES],
}

const fn pack(address: Address) -> u32 {
    (address.shelf as u32) << 8 | address.slot as u32
}

/// Fibonacci hashing: neighbouring slots, which is what there is in practice, land far apart.
const fn start(packed: u32) -> usize {
    (packed.wrapping_mul(0x9e37_79b1) >> 16) as usize % PLACES
}

impl Router {
    pub(super) const fn new() -> Self {
        Self { places: [(0, 0); PLACES] }
    }

    /// Forgets all addresses and takes these instead. After an error, those before the first that
    /// cannot be served are found, and no others: never a target by an address it does not have.
    pub(super) fn refill(
        &mut self,
        addresses: impl Iterator<Item = Address>,
    ) -> Result<(), AddressTaken> {
        self.places = [(0, 0); PLACES];
        for (index, address) in addresses.enumerate() {
            if address.is_wildcard() {
                return Err(AddressTaken::Reserved { address });
            }
            let number = u16::try_from(index + 1).map_err(|_| AddressTaken::TooMany)?;
            if index >= MAX_TARGETS {
                return Err(AddressTaken::TooMany);
            }
            if self.find(address).is_some() {
                return Err(AddressTaken::Twice { address });
            }
            self.insert(pack(address), number);
        }
        Ok(())
    }

    fn insert(&mut self, packed: u32, number: u16) {
        let (before, after) = self.places.split_at_mut(start(packed));
        let free = after.iter_mut().chain(before).find(|(_, number)| *number == 0);
        // There is one: the table is twice as large as the list can get.
        if let Some(place) = free {
            *place = (packed, number);
        }
    }

    /// The index of the target with `address`.
    #[inline]
    pub(super) fn find(&self, address: Address) -> Option<usize> {
        let packed = pack(address);
        let (before, after) = self.places.split_at(start(packed));
        after
            .iter()
            .chain(before)
            .take_while(|(_, number)| *number != 0)
            .find(|(key, _)| *key == packed)
            .map(|(_, number)| usize::from(*number) - 1)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn finds_every_target_and_no_other() {
        let addresses: Vec<_> =
            (0..1024_u16).map(|n| Address::new(n / 16 * 257, (n % 16) as u8)).collect();
        let mut router = Router::new();
        router.refill(addresses.iter().copied()).unwrap();
        for (index, address) in addresses.iter().enumerate() {
            assert_eq!(router.find(*address), Some(index));
            assert_eq!(router.find(Address::new(address.shelf, address.slot + 100)), None);
        }
    }

    #[test]
    fn refuses_what_cannot_be_told_apart() {
        let twice = [Address::new(1, 0), Address::new(2, 0), Address::new(1, 0)];
        let address = Address::new(1, 0);
        let refused = |addresses: &[Address]| Router::new().refill(addresses.iter().copied());
        assert_eq!(refused(&twice), Err(AddressTaken::Twice { address }));
        let many: Vec<_> = (0..1025_u16).map(|n| Address::new(n, 0)).collect();
        assert_eq!(refused(&many), Err(AddressTaken::TooMany));
        let address = Address::new(0xffff, 0);
        assert_eq!(refused(&[address]), Err(AddressTaken::Reserved { address }));
    }

    #[test]
    fn forgets_what_was_there_even_when_it_refuses_what_comes() {
        let (old, kept, last) = (Address::new(1, 0), Address::new(2, 0), Address::new(3, 0));
        let mut router = Router::new();
        router.refill([old, kept].into_iter()).unwrap();
        router.refill([kept, kept, last].into_iter()).unwrap_err();
        assert_eq!([old, kept, last].map(|address| router.find(address)), [None, Some(0), None]);
    }
}
