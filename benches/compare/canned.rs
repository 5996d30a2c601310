//! Replies that cost nothing to make: the headers of the request turned round, and data as it lies
//! in the buffer.

use aoe_server::link::FRAME_CAPACITY;
use aoe_server::protocol::ata::{AtaText, IDENTIFY_LEN, Identity, WriteCache, status};
use aoe_server::protocol::{ATA_DATA_OFFSET, Address, ETHERTYPE, MacAddr, sectors_per_frame};
use aoe_server::units::{SECTOR_SIZE, Sectors};

/// Octets of a request that are looked at: as many as the shortest frame has.
pub(crate) const HEAD: usize = 60;
/// Sectors that it claims to have: 128 MiB, as much as the disks that it is compared with.
const DISK_SECTORS: u64 = 128 << 11;

/// Turns requests round. Nothing is checked; what is neither an ATA command nor a config query gets
/// nonsense back.
pub(crate) struct Canned {
    mac: MacAddr,
    address: Address,
    sector_count: u8,
    page: [u8; IDENTIFY_LEN],
}

impl Canned {
    /// A target at `address` behind a station `mac` with frames of `mtu` octets.
    pub(crate) fn new(mac: MacAddr, address: Address, mtu: usize) -> Self {
        let identity = Identity {
            serial: AtaText::new("answerer"),
            firmware: AtaText::new("1"),
            model: AtaText::new("canned octets"),
            size: Sectors(DISK_SECTORS),
            write_cache: WriteCache::None,
            trim: false,
        };
        let mut page = [0; IDENTIFY_LEN];
        identity.emit(&mut page);
        Self { mac, address, sector_count: sectors_per_frame(mtu), page }
    }

    /// A buffer for replies, its data in place.
    pub(crate) fn buffer(&self) -> [u8; FRAME_CAPACITY] {
        let mut buffer = [0x5a; FRAME_CAPACITY];
        buffer[6..12].copy_from_slice(&self.mac.0);
        buffer[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        buffer
    }

    /// Makes the reply to `request` in a [`Self::buffer`], and tells its length.
    #[inline]
    pub(crate) fn turn_round(
        &self,
        request: &[u8; HEAD],
        reply: &mut [u8; FRAME_CAPACITY],
    ) -> usize {
        let write = request[24] & 1 != 0;
        let sectors = usize::from(request[26]);
        reply[..6].copy_from_slice(&request[6..12]);
        // Version 1, a response, without an error; then the tag.
        (reply[14], reply[15]) = (0x18, 0);
        let [high, low] = self.address.shelf.to_be_bytes();
        (reply[16], reply[17], reply[18]) = (high, low, self.address.slot);
        reply[19..36].copy_from_slice(&request[19..36]);
        if request[19] != 0 {
            return self.config(reply);
        }
        (reply[25], reply[26], reply[27]) = (0, 0, status::DRDY);
        if request[27] == 0xec {
            reply[ATA_DATA_OFFSET..][..IDENTIFY_LEN].copy_from_slice(&self.page);
            return ATA_DATA_OFFSET + IDENTIFY_LEN;
        }
        if write { HEAD } else { ATA_DATA_OFFSET + sectors * SECTOR_SIZE }
    }

    /// Room for 64 frames, firmware 1, so many sectors a frame, version 1, no config string.
    fn config(&self, reply: &mut [u8; FRAME_CAPACITY]) -> usize {
        reply[24..32].copy_from_slice(&[0, 64, 0, 1, self.sector_count, 0x10, 0, 0]);
        HEAD
    }
}
