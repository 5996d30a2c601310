//! A copy of a write that the network kept for too long. `AoE` numbers nothing: a tag is whatever an
//! initiator likes, and one that uses the same for all its requests is within its rights. A server
//! can therefore not tell a copy from a new write of what was there before; what protects a disk is
//! that networks do not keep frames for as long as an initiator waits before it sends again.
//!
//! `docs/threat-model.md` tells it to users. If this test fails since a late copy is found out,
//! something has become better.

use aoe_server::link::LinkKind;

use super::Bench;
use super::station::pattern;

fn copies_that_come_late(kind: LinkKind) {
    const LBA: u64 = 4711;
    let Some(mut bench) = Bench::new(kind) else { return };
    let station = &mut bench.station;
    let (old, new) = (pattern(1, 2), pattern(2, 2));
    let (first, second) = (station.write(LBA, &old), station.write(LBA, &new));
    let mut holds = |asks: &[&super::station::Ask], data: &[u8], claim: &str| {
        for ask in asks {
            assert!(station.ask(ask).unwrap().succeeded(), "{claim}");
        }
        let read = station.read(LBA, 2);
        let reply = station.ask(&read).unwrap();
        assert!(reply.succeeded() && reply.data() == data, "{claim}");
    };
    holds(&[&first, &first], &old, "a copy changes nothing");
    holds(&[&first, &second, &second], &new, "copies before the next write change nothing");
    holds(&[&first], &old, "the limit: a copy after a newer write is a write");
    let both = station.burst(&[first, second]).unwrap();
    assert!(both.iter().all(super::station::Reply::succeeded));
    let read = station.read(LBA, 2);
    assert!(station.ask(&read).unwrap().data() == new, "what comes later stays");
    let status = bench.server.take().unwrap().terminate();
    assert!(status.success());
}

#[test]
fn a_late_copy_of_a_write_is_a_write_over_pcap() {
    copies_that_come_late(LinkKind::Pcap);
}

#[test]
fn a_late_copy_of_a_write_is_a_write_over_af_packet() {
    copies_that_come_late(LinkKind::AfPacket);
}
