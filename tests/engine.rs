//! Properties of the engine: against a model disk, on any input, without an allocation; and single
//! claims that the conformance checklist does not make.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "common/engine.rs"]
mod common;
#[path = "engine/counting.rs"]
mod counting;
#[path = "engine/model.rs"]
mod model;
#[path = "engine/single.rs"]
mod single;

use aoe_server::engine::{Action, Durability, Engine, Export, Port, TargetId};
use aoe_server::protocol::{Address, MacAddr};
use common::{Ask, CLIENT, FILLER, OTHER, RamDisk, SERVER, check_reply, target};
use counting::allocations;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Many cases, and no files left behind.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// An engine with three small targets, two of them on one shelf.
fn three() -> Engine<[Export<RamDisk>; 3]> {
    let exports = [(7, 3), (7, 4), (9, 3)].map(|(shelf, slot)| Export {
        target: target(Address::new(shelf, slot), Durability::Durable),
        storage: RamDisk::new(32),
    });
    Engine::new(exports).unwrap()
}

/// Hands a frame to the engine, checks what comes, and tells how many replies there were. Settings
/// are saved or not as the tag says.
fn serve(engine: &mut Engine<[Export<RamDisk>; 3]>, frame: &[u8], port: Port) -> usize {
    let mut reply = vec![FILLER; 10_000];
    let mut replies = 0;
    let Some(request) = engine.accept(frame, port) else { return 0 };
    let mut addressee = engine.first_addressee(&request);
    while let Some(id) = addressee {
        reply.fill(FILLER);
        match engine.handle(id, &request, &mut reply) {
            Action::Reply { len, .. } => {
                let target = &mut engine.export_mut(id).unwrap().target;
                check_reply(frame, &reply[..len], port, target.address());
                if frame[23] & 1 == 0 {
                    target.apply_staged();
                } else {
                    target.abandon_staged();
                }
                replies += 1;
            }
            Action::Park => panic!("there is nothing to wait for"),
            Action::Ignore => {}
        }
        addressee = engine.next_addressee(&request, id);
    }
    replies
}

/// A frame that is right in most respects.
fn valid_frame() -> impl Strategy<Value = Vec<u8>> {
    let macs = select(vec![CLIENT, OTHER, MacAddr([2, 0, 0, 0, 0, 9])]);
    let listed = vec((0..4_u8, macs.clone()), 0..6);
    let ata = (any::<u8>(), 0..4_u8, any::<u8>(), 0..40_u64, vec(any::<u8>(), 0..1_200));
    let opcode = select(vec![
        0x20, 0x24, 0x30, 0x34, 0x40, 0x42, 0x06, 0xe5, 0xe7, 0xea, 0xec, 0xef, 0xb0, 0x00,
    ]);
    let ask = prop_oneof![
        4 => (ata, opcode).prop_map(|((flags, count, feature, lba, data), opcode)| {
            Ask::ata(flags, feature, count, opcode, common::lba48(lba), &data)
        }),
        2 => (0..7_u8, vec(any::<u8>(), 0..1_100))
            .prop_map(|(ccmd, string)| Ask::config(ccmd, &string)),
        1 => (0..3_u8, listed.clone()).prop_map(|(mcmd, listed)| Ask::mask(mcmd, &listed)),
        1 => (0..4_u8, listed).prop_map(|(rcmd, listed)| {
            Ask::reserve(rcmd, &listed.into_iter().map(|(_, mac)| mac).collect::<Vec<_>>())
        }),
        1 => any::<u8>().prop_map(|command| Ask::new(command, vec![0xee; 20])),
    ];
    let shelves = select(vec![7, 9, 0xffff]);
    let slots = select(vec![3, 4, 0xff]);
    (ask, shelves, slots, macs, any::<[u8; 4]>(), any::<bool>()).prop_map(
        |(ask, shelf, slot, source, tag, broadcast)| {
            let destination = if broadcast { MacAddr::BROADCAST } else { SERVER };
            Ask { destination, source, shelf, slot, tag, ..ask }.octets()
        },
    )
}

/// The same with a few octets changed, cut short or longer.
fn mutated_frame() -> impl Strategy<Value = Vec<u8>> {
    (valid_frame(), vec((any::<Index>(), any::<u8>()), 0..4), any::<Option<Index>>(), 0..80_usize)
        .prop_map(|(mut frame, changes, cut, longer)| {
            for (place, value) in changes {
                // Mostly the headers: that is where decisions are made.
                let limit = if value & 1 == 0 { frame.len() } else { frame.len().min(40) };
                frame[place.index(limit)] = value;
            }
            match cut {
                Some(cut) => frame.truncate(cut.index(frame.len() + 1)),
                None => frame.resize(frame.len() + longer, 0x77),
            }
            frame
        })
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn no_octets_panic_or_break_a_reply(frames in vec(vec(any::<u8>(), 0..200), 1..8)) {
        let mut engine = three();
        let port = Port { mac: SERVER, mtu: 1_500 };
        for frame in &frames {
            serve(&mut engine, frame, port);
        }
    }

    #[test]
    fn no_mutated_frames_panic_or_break_a_reply(
        frames in vec(mutated_frame(), 1..12),
        mtu in prop_oneof![Just(1_500_usize), Just(9_000), 0..10_000_usize],
    ) {
        let mut engine = three();
        for frame in &frames {
            serve(&mut engine, frame, Port { mac: SERVER, mtu });
        }
    }

    #[test]
    fn no_response_is_ever_answered(mut frame in mutated_frame(), flags in any::<u8>()) {
        let mut engine = three();
        if let Some(octet) = frame.get_mut(14) {
            *octet = flags | 0x08;
        }
        let port = Port { mac: SERVER, mtu: 1_500 };
        prop_assert_eq!(serve(&mut engine, &frame, port), 0);
        prop_assert!(engine.exports().iter().all(|export| export.storage.writes == 0));
    }

    #[test]
    fn no_buffer_is_too_small_to_be_survived(frame in valid_frame(), room in 0..1_600_usize) {
        let mut engine = three();
        let mut reply = vec![FILLER; room];
        let Some(request) = engine.accept(&frame, Port { mac: SERVER, mtu: 9_000 }) else {
            return Ok(());
        };
        for id in (0..3).map(TargetId) {
            if let Action::Reply { len, .. } = engine.handle(id, &request, &mut reply) {
                prop_assert!(len <= room);
            } else {
                prop_assert_eq!(engine.export_mut(id).unwrap().target.staged(), None);
            }
        }
    }
}

/// Requests of every kind that a running target sees, junk included.
fn mix() -> Vec<Vec<u8>> {
    let junk = Ask { ethertype: 0x0800, ..Ask::identify() }.octets();
    [
        Ask::read(0, 2),
        Ask::read(30, 2),
        Ask::read(5_000, 1),
        Ask::write(4, 2, &[0xee; 1_024]),
        Ask::write(4, 2, &[0xee; 100]),
        Ask::identify(),
        Ask::identify().to(0xffff, 0xff),
        Ask::bare_ata(0xe7),
        Ask::bare_ata(0x99),
        Ask::config(0, b""),
        Ask::config(0, b"").to(0xffff, 0xff),
        Ask::config(4, &[0x55; 1_024]),
        Ask::config(4, b""),
        Ask::config(1, b"other"),
        Ask::config(9, b""),
        Ask::mask(0, &[]),
        Ask::mask(1, &[(1, CLIENT), (1, OTHER), (9, OTHER)]),
        Ask::mask(1, &[(2, CLIENT), (2, OTHER)]),
        Ask::reserve(0, &[]),
        Ask::reserve(1, &[CLIENT, OTHER]),
        Ask::read(0, 1).from(MacAddr([2, 0, 0, 0, 0, 9])),
        Ask::reserve(2, &[]),
        Ask::new(0x44, Vec::new()),
        Ask { version_flags: 0x20, ..Ask::identify() },
        Ask { version_flags: 0x18, ..Ask::identify() },
        Ask { slot: 9, ..Ask::identify() },
        Ask { destination: OTHER, ..Ask::identify() },
    ]
    .iter()
    .map(Ask::octets)
    .chain([junk, vec![0xee; 23], Vec::new()])
    .collect()
}

#[test]
fn a_million_served_frames_allocate_nothing() {
    let counted = allocations();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(allocations(), counted + 1, "the counter counts");

    let frames = mix();
    let mut engine = three();
    let mut reply = vec![FILLER; 1_514];
    let port = Port { mac: SERVER, mtu: 1_500 };
    let (mut served, mut replies) = (0_u64, 0_u64);
    let before = allocations();
    for frame in frames.iter().cycle() {
        if served == 1_000_000 {
            break;
        }
        served += 1;
        let Some(request) = engine.accept(frame, port) else { continue };
        let mut addressee = engine.first_addressee(&request);
        while let Some(id) = addressee {
            if let Action::Reply { .. } = engine.handle(id, &request, &mut reply) {
                replies += 1;
            }
            engine.export_mut(id).unwrap().target.apply_staged();
            addressee = engine.next_addressee(&request, id);
        }
    }
    assert_eq!(allocations(), before);
    assert_eq!(served, engine.counters().frames);
    assert!(replies > served * 3 / 4, "most were answered: {replies}");
}
