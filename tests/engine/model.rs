//! The engine against a model disk: a poll loop in small that parks requests and holds replies
//! back, over storage that says "later" and becomes durable when it likes.

use crate::cases;
use crate::common::{Ask, FILLER, OK, RamDisk, SERVER, check_reply, lba48, target};
use aoe_server::engine::{Action, After, Durability, Engine, Export, Port, TargetId};
use aoe_server::protocol::Address;
use aoe_server::storage::{BlockStorage, Ticket};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const SECTORS: u64 = 24;
const ADDRESSES: [(u16, u8); 3] = [(7, 3), (7, 4), (9, 3)];

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A request comes.
    Request(Ask),
    /// The next calls to a disk are answered "later".
    Later { disk: usize, calls: u32 },
    /// Tickets of a disk are reached.
    Settle { disk: usize, count: u64 },
    /// What is parked is tried again.
    Retry,
}

/// A reply that waits for a ticket.
#[derive(Debug)]
struct Held {
    target: TargetId,
    after: After,
}

/// The loop, and what each disk has to hold.
struct Loop {
    engine: Engine<Vec<Export<RamDisk>>>,
    models: Vec<Vec<u8>>,
    parked: Vec<(TargetId, Vec<u8>)>,
    held: Vec<Held>,
    asked: usize,
    answered: usize,
}

const PORT: Port = Port { mac: SERVER, mtu: 1_500 };

impl Loop {
    fn new() -> Self {
        let durabilities = [Durability::Durable, Durability::Volatile, Durability::Durable];
        let exports: Vec<_> = ADDRESSES
            .iter()
            .zip(durabilities)
            .map(|((shelf, slot), durability)| {
                let mut storage = RamDisk::new(SECTORS);
                storage.info.discard = true;
                storage.delayed = true;
                storage.durable_by_flush = durability == Durability::Volatile;
                Export { target: target(Address::new(*shelf, *slot), durability), storage }
            })
            .collect();
        let models = exports.iter().map(|export| export.storage.octets.clone()).collect();
        let engine = Engine::new(exports).unwrap();
        let (parked, held) = (Vec::new(), Vec::new());
        Self { engine, models, parked, held, asked: 0, answered: 0 }
    }

    /// Takes a frame in, as a loop does: it does not overtake a parked one that keeps order.
    fn receive(&mut self, frame: &[u8]) {
        let request = self.engine.accept(frame, PORT).unwrap();
        let ordered = request.is_ordered();
        let mut addressees = Vec::new();
        let mut addressee = self.engine.first_addressee(&request);
        while let Some(id) = addressee {
            addressees.push(id);
            addressee = self.engine.next_addressee(&request, id);
        }
        for id in addressees {
            self.asked += 1;
            let blocked = ordered && self.is_blocked(id, self.parked.len());
            if blocked || !self.try_one(id, frame) {
                self.parked.push((id, frame.to_vec()));
            }
        }
    }

    /// Whether one of the first `count` parked requests to a target keeps order.
    fn is_blocked(&mut self, id: TargetId, count: usize) -> bool {
        let parked = self.parked[..count].iter().filter(|(target, _)| *target == id);
        parked.into_iter().any(|(_, frame)| matches!(frame[27], 0x06 | 0x30 | 0x34 | 0xe7 | 0xea))
    }

    /// Tries the parked requests again, oldest first.
    fn retry(&mut self) {
        let mut index = 0;
        while index < self.parked.len() {
            let (id, frame) = self.parked[index].clone();
            let ordered = self.engine.accept(&frame, PORT).unwrap().is_ordered();
            if (ordered && self.is_blocked(id, index)) || !self.try_one(id, &frame) {
                index += 1;
            } else {
                self.parked.remove(index);
            }
        }
    }

    /// Handles one request; `false` when it parks.
    fn try_one(&mut self, id: TargetId, frame: &[u8]) -> bool {
        let mut reply = vec![FILLER; 1_514];
        let request = self.engine.accept(frame, PORT).unwrap();
        match self.engine.handle(id, &request, &mut reply) {
            Action::Park => false,
            Action::Ignore => panic!("every request here is answered"),
            Action::Reply { len, after } => {
                let reply = &reply[..len];
                let address = self.engine.exports()[id.0].target.address();
                check_reply(frame, reply, PORT, address);
                let (status, error, data) = expected(&mut self.models[id.0], frame);
                assert_eq!((reply[27], reply[25]), (status, error), "{frame:02x?}");
                assert_eq!(reply[36..36 + data.len()], data, "{frame:02x?}");
                self.hold(id, after, frame);
                true
            }
        }
    }

    /// Counts a reply, at once or when its ticket is reached.
    fn hold(&mut self, id: TargetId, after: After, frame: &[u8]) {
        let durable = id.0 != 1;
        match (frame[27], after) {
            (0x30 | 0x34 | 0x06, After::Durable(_)) => assert!(durable, "it is volatile"),
            (0x30 | 0x34 | 0x06, After::Applied(_)) => assert!(!durable, "it is durable"),
            (0xe7 | 0xea, After::Durable(_)) | (_, After::Now) => {}
            (opcode, after) => panic!("opcode {opcode:#04x} waits for {after:?}"),
        }
        if after == After::Now {
            self.answered += 1;
        } else {
            self.held.push(Held { target: id, after });
        }
    }

    /// Lets go of the replies whose tickets are reached.
    fn release(&mut self) {
        let Self { engine, held, answered, .. } = self;
        held.retain(|Held { target, after }| {
            let storage = &engine.exports()[target.0].storage;
            let waits = match after {
                After::Durable(ticket) => storage.durable() < *ticket,
                After::Applied(ticket) => storage.applied() < *ticket,
                After::Now | After::Saved => unreachable!("these are not held"),
            };
            *answered += usize::from(!waits);
            waits
        });
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Request(ask) => self.receive(&ask.octets()),
            Event::Later { disk, calls } => self.disk(*disk).later += calls,
            Event::Settle { disk, count } => self.disk(*disk).settle(*count),
            Event::Retry => self.retry(),
        }
        self.release();
    }

    fn disk(&mut self, index: usize) -> &mut RamDisk {
        &mut self.engine.export_mut(TargetId(index)).unwrap().storage
    }

    /// Lets everything come to an end, and checks that nothing is lost.
    fn finish(&mut self) {
        for disk in 0..ADDRESSES.len() {
            self.disk(disk).later = 0;
        }
        self.retry();
        assert!(self.parked.is_empty());
        for disk in 0..ADDRESSES.len() {
            self.disk(disk).settle(u64::MAX);
            assert!(self.disk(disk).applied() > Ticket::NONE || self.disk(disk).writes == 0);
        }
        self.release();
        assert_eq!((self.held.len(), self.answered), (0, self.asked), "one reply each");
        for (export, model) in self.engine.exports().iter().zip(&self.models) {
            assert_eq!(&export.storage.octets, model);
        }
    }
}

/// What a frame does to a disk and has to be answered with, read from its octets alone: status,
/// error, data.
fn expected(disk: &mut [u8], frame: &[u8]) -> (u8, u8, Vec<u8>) {
    let count = usize::from(frame[26]);
    let wide = matches!(frame[27], 0x24 | 0x34 | 0x42);
    let mut lba = [0; 8];
    lba[..6].copy_from_slice(&frame[28..34]);
    if !wide {
        lba[3] &= 0x0f;
        lba[4..].fill(0);
    }
    let start = usize::try_from(u64::from_le_bytes(lba)).unwrap() * 512;
    let range = start..start + count * 512;
    let aborted = (0x41, 0x04, Vec::new());
    match frame[27] {
        0x20 | 0x24 | 0x30 | 0x34 if !(1..=2).contains(&count) => aborted,
        0x20 | 0x24 | 0x30 | 0x34 if range.end > disk.len() => (0x41, 0x10, Vec::new()),
        0x20 | 0x24 => (OK, 0, disk[range].to_vec()),
        0x30 | 0x34 => match frame.get(36..36 + count * 512) {
            Some(data) => {
                disk[range].copy_from_slice(data);
                (OK, 0, Vec::new())
            }
            None => aborted,
        },
        0x06 => {
            let start = usize::from(frame[36]) * 512;
            let end = start + usize::from(frame[42]) * 512;
            match disk.get_mut(start..end) {
                Some(sectors) => sectors.fill(0),
                None => return (0x41, 0x10, Vec::new()),
            }
            (OK, 0, Vec::new())
        }
        0xe7 | 0xea => (OK, 0, Vec::new()),
        opcode => panic!("{opcode:#04x} is not asked"),
    }
}

fn request() -> impl Strategy<Value = Ask> {
    let lba = 0..SECTORS + 2;
    let count = prop_oneof![8 => 1..=2_u8, 1 => Just(0), 1 => Just(3)];
    let ask = prop_oneof![
        4 => (any::<bool>(), lba.clone(), count.clone()).prop_map(|(wide, lba, count)| {
            let (opcode, flags) = if wide { (0x24, 0x40) } else { (0x20, 0) };
            Ask::ata(flags, 0, count, opcode, registers(lba, wide), &[])
        }),
        4 => (any::<bool>(), lba.clone(), count, any::<u8>(), 0..20_u8).prop_map(
            |(wide, lba, count, fill, short)| {
                let (opcode, flags) = if wide { (0x34, 0x41) } else { (0x30, 0x01) };
                let len = usize::from(count) * 512;
                let len = if short == 0 { len.saturating_sub(1) } else { len };
                Ask::ata(flags, 0, count, opcode, registers(lba, wide), &vec![fill; len])
            }
        ),
        1 => select(vec![0xe7, 0xea]).prop_map(Ask::bare_ata),
        1 => (lba, 1..4_u8).prop_map(|(lba, count)| {
            let mut ranges = vec![0; 512];
            ranges[0] = u8::try_from(lba).unwrap();
            ranges[6] = count;
            Ask::ata(0x41, 1, 1, 0x06, [0; 6], &ranges)
        }),
    ];
    let to = select(vec![(7, 3), (7, 4), (9, 3), (7, 3), (0xffff, 0xff), (7, 0xff), (0xffff, 3)]);
    (ask, to).prop_map(|(ask, (shelf, slot))| Ask { shelf, slot, ..ask })
}

/// The address registers, with the device register's nibble where it belongs.
fn registers(lba: u64, wide: bool) -> [u8; 6] {
    let [a, b, c, d, e, f] = lba48(lba);
    [a, b, c, if wide { d } else { d | 0xe0 }, e, f]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => request().prop_map(Event::Request),
        2 => (0..3_usize, 1..4_u32).prop_map(|(disk, calls)| Event::Later { disk, calls }),
        2 => (0..3_usize, 1..5_u64).prop_map(|(disk, count)| Event::Settle { disk, count }),
        2 => Just(Event::Retry),
    ]
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn targets_do_what_model_disks_do(events in vec(event(), 1..120)) {
        let mut system = Loop::new();
        for event in &events {
            system.event(event);
        }
        system.finish();
    }
}
