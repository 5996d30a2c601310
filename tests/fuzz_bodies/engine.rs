//! What a fuzzer does to the engine: frames, in any order, on links of several MTUs, with storage
//! that says "later" and settings that are saved or not.
//!
//! The data is a sequence of records: a control octet, the frame's length in two octets
//! (little-endian), the frame.
//!
//! | bits of the control octet | meaning |
//! | --- | --- |
//! | 0 | settings cannot be saved |
//! | 1 | the next call to each disk is answered "later" |
//! | 2-3 | MTU 1500, 9000, 534 or 68 |
//! | 4 | the frame lacks its Ethernet header: it is C's to M |
//! | 5 | the same, by broadcast |

#[path = "../common/engine.rs"]
mod common;

use aoe_server::engine::{
    Action, After, Durability, Engine, Export, Port, Target, TargetId, fail_reply, refuse_reply,
};
use aoe_server::protocol::{Address, AoeError, MacAddr};
use aoe_server::storage::Fault;
use aoe_server::units::SECTOR_SIZE;
use common::{CLIENT, FILLER, RamDisk, SERVER, check_reply, target};

const MTUS: [usize; 4] = [1_500, 9_000, 534, 68];
const SECTORS: u64 = 32;

type Exports = [Export<RamDisk>; 3];

/// Serves the frames in `data`; panics when the engine does, or breaks a promise.
pub(crate) fn run(data: &[u8]) {
    let exports: Exports =
        [(7, 3, Durability::Durable), (7, 4, Durability::Volatile), (9, 3, Durability::Durable)]
            .map(|(shelf, slot, durability)| {
                let mut storage = RamDisk::new(SECTORS);
                storage.info.discard = true;
                Export { target: target(Address::new(shelf, slot), durability), storage }
            });
    let Ok(mut engine) = Engine::new(exports) else { panic!("the addresses differ") };
    let mut reply = vec![FILLER; 10_000];
    let mut rest = data;
    while let Some(([control, low, high], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (octets, next) = after.split_at(len);
        rest = next;
        let port = Port { mac: SERVER, mtu: MTUS[usize::from(control >> 2 & 3)] };
        if control & 0x02 != 0 {
            for id in (0..3).map(TargetId) {
                if let Some(export) = engine.export_mut(id) {
                    export.storage.later = 1;
                }
            }
        }
        serve(&mut engine, &frame(*control, octets), port, control & 1 == 0, &mut reply);
    }
    for Export { storage, .. } in engine.exports() {
        let sectors = storage.octets.len() / SECTOR_SIZE;
        assert_eq!(sectors as u64, SECTORS, "no disk grows or shrinks");
    }
}

/// The frame, with its Ethernet header put before it where it lacks one.
fn frame(control: u8, octets: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + octets.len());
    if control & 0x30 != 0 {
        let broadcast = control & 0x20 != 0;
        frame.extend_from_slice(&if broadcast { MacAddr::BROADCAST } else { SERVER }.0);
        frame.extend_from_slice(&CLIENT.0);
        frame.extend_from_slice(&[0x88, 0xa2]);
    }
    frame.extend_from_slice(octets);
    frame
}

/// Serves one frame, and tries what is parked once more.
fn serve(engine: &mut Engine<Exports>, frame: &[u8], port: Port, saves: bool, reply: &mut [u8]) {
    let Some(request) = engine.accept(frame, port) else { return };
    let mut addressee = engine.first_addressee(&request);
    while let Some(id) = addressee {
        reply.fill(FILLER);
        let mut action = engine.handle(id, &request, reply);
        if action == Action::Park {
            action = engine.handle(id, &request, reply);
            assert!(action != Action::Park, "storage said so only once");
        }
        if let (Action::Reply { len, after }, Some(Export { target, .. })) =
            (action, engine.export_mut(id))
        {
            check_reply(frame, &reply[..len], port, target.address());
            let held = &mut reply[..len];
            match after {
                After::Saved if saves => save(target),
                After::Saved => {
                    target.abandon_staged();
                    assert_eq!(refuse_reply(held, AoeError::DEVICE_UNAVAILABLE), 60);
                }
                After::Applied(_) | After::Durable(_) if !saves => {
                    assert_eq!(fail_reply(held, Fault::Media), 60);
                    assert_eq!((held[25], held[27]), (0x04, 0x61));
                }
                After::Applied(_) | After::Durable(_) | After::Now => {}
            }
        }
        addressee = engine.next_addressee(&request, id);
    }
}

/// Puts staged settings in force, which there have to be.
fn save(target: &mut Target) {
    let staged = target.staged().cloned();
    target.apply_staged();
    assert_eq!(staged.as_ref(), Some(target.settings()));
}
