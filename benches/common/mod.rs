//! What the benchmark of the loop and the count of its instructions share: a link that asks without
//! end, requests, and a loop that answers them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aoe_server::clock::Instant;
use aoe_server::engine::{Durability, Export, MacList, Settings, Target, TargetProfile};
use aoe_server::link::{BATCH_FRAMES, Batch, Link, LinkCounters, LinkError, LinkInfo};
use aoe_server::protocol::{
    Address, AtaFields, AtaFlags, Command, FrameFields, FrameWriter, MacAddr, Opcode, Tag,
};
use aoe_server::server::{Admission, Backend, Listener, PortSet};
use aoe_server::storage::mem::MemStorage;
use aoe_server::units::SECTOR_SIZE;

pub(crate) const SERVER: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 1]);
const INITIATOR: MacAddr = MacAddr([0x02, 0xc1, 0, 0, 0, 1]);
pub(crate) const TARGET: Address = Address::new(7, 3);
pub(crate) const MTU: usize = 1_500;
const SECTORS: u8 = 2;
/// Octets of data of each request.
pub(crate) const DATA_LEN: usize = SECTORS as usize * SECTOR_SIZE;
/// Sectors of the disk, a power of two that two octets can say.
pub(crate) const DISK_SECTORS: u16 = 128;

/// A link with no end of requests, all made from one.
struct Template {
    frame: Vec<u8>,
    /// What each reply has to be as long as.
    reply_len: usize,
    /// The targets that are asked by turns, a power of two; none to ask as the request says.
    targets: Vec<Address>,
    /// All targets are there: it asks, and counts.
    asking: Arc<AtomicBool>,
    tag: u32,
    counters: LinkCounters,
}

impl Link for Template {
    fn info(&self) -> LinkInfo {
        LinkInfo { mac: SERVER, mtu: MTU, up: true }
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        if !self.asking.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let before = batch.len();
        for _ in 0..BATCH_FRAMES {
            let Some(buffer) = batch.next_buffer() else { break };
            buffer[..self.frame.len()].copy_from_slice(&self.frame);
            self.tag = self.tag.wrapping_add(1);
            buffer[20..24].copy_from_slice(&self.tag.to_be_bytes());
            let mut turn = self.tag as usize;
            if !self.targets.is_empty() {
                let Address { shelf, slot } = self.targets[turn & (self.targets.len() - 1)];
                buffer[16..18].copy_from_slice(&shelf.to_be_bytes());
                buffer[18] = slot;
                turn /= self.targets.len();
            }
            let [low, ..] = turn.wrapping_mul(2).to_le_bytes();
            buffer[28] = low % DISK_SECTORS.to_le_bytes()[0];
            batch.commit(self.frame.len());
        }
        let received = batch.len() - before;
        self.counters.received += received as u64;
        Ok(received)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let sent = batch.len() - first;
        let last = black_box(batch.frame(batch.len() - 1));
        if self.asking.load(Ordering::Relaxed) {
            assert_eq!(last.len(), self.reply_len, "a reply of no interest");
            self.counters.sent += sent as u64;
        }
        Ok(sent)
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters
    }
}

/// A request of `command` to the target at `address`, whose argument `fill` writes.
pub(crate) fn request(
    address: Address,
    command: Command,
    fill: impl FnOnce(&mut FrameWriter<'_>),
) -> Vec<u8> {
    let fields = FrameFields::request(INITIATOR, SERVER, address, command, Tag([0; 4]));
    let mut octets = vec![0; 2_000];
    let mut writer = FrameWriter::new(&mut octets, &fields);
    fill(&mut writer);
    let len = writer.finish().expect("2000 octets are enough");
    octets.truncate(len);
    octets
}

/// A request for an ATA command on two sectors.
fn ata(address: Address, opcode: Opcode, flags: AtaFlags, data: &[u8]) -> Vec<u8> {
    let registers =
        AtaFields { flags, feature: 0, sector_count: SECTORS, command: opcode.0, lba: [0; 6] };
    request(address, Command::ATA, |writer| {
        writer.ata(&registers).octets(data);
    })
}

/// A READ of two sectors.
pub(crate) fn read(address: Address) -> Vec<u8> {
    ata(address, Opcode::READ_EXT, AtaFlags::EXTENDED, &[])
}

/// A WRITE of two sectors.
pub(crate) fn write() -> Vec<u8> {
    let flags = AtaFlags::EXTENDED.union(AtaFlags::WRITE);
    ata(TARGET, Opcode::WRITE_EXT, flags, &[0xa5; DATA_LEN])
}

/// A disk in memory that fits the nearest caches.
pub(crate) fn disk() -> MemStorage<Vec<u8>> {
    MemStorage::new(vec![0x5a; usize::from(DISK_SECTORS) * SECTOR_SIZE], "bench")
}

/// A target at `address`.
pub(crate) fn target(address: Address) -> Target {
    let profile = TargetProfile {
        address,
        buffer_count: 64,
        durability: Durability::Durable,
        allow: MacList::new(),
    };
    Target::new(profile, Settings::default())
}

/// A loop that serves `storage` to a link that asks with `frame` again and again.
pub(crate) fn serving(
    frame: Vec<u8>,
    reply_len: usize,
    storage: Backend,
) -> Listener<Box<dyn Link>> {
    serving_by_turns(frame, reply_len, vec![(TARGET, storage)], Vec::new())
}

/// A loop that serves `exports` to a link that asks `targets` with `frame`, one after the other
/// again and again. The link is behind a pointer, as a server's links are.
pub(crate) fn serving_by_turns(
    frame: Vec<u8>,
    reply_len: usize,
    exports: Vec<(Address, Backend)>,
    targets: Vec<Address>,
) -> Listener<Box<dyn Link>> {
    let counters = LinkCounters::default();
    let asking = Arc::new(AtomicBool::new(false));
    let link = Template { frame, reply_len, targets, asking: asking.clone(), tag: 0, counters };
    let link: Box<dyn Link> = Box::new(link);
    let (mut listener, control) =
        Listener::new([("template".to_string(), link)], |_| None).expect("a loop");
    for (address, storage) in exports {
        let export = Export { target: target(address), storage };
        let answer = control.add(export, PortSet::ALL, Duration::ZERO);
        let answer = answer.expect("the loop takes orders");
        while answer.try_recv().map_or(true, |(admission, _)| admission != Admission::Served) {
            listener.turn(Instant::from_nanos(1));
        }
    }
    asking.store(true, Ordering::Relaxed);
    listener
}
