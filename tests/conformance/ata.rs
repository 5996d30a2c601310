//! Items 37 to 55: IDENTIFY, reads and writes.

use crate::common::{
    ABRT, Ask, CLIENT, FAILED, IDNF, OK, RamDisk, Rig, SERVER, lba48, sector_content,
};
use crate::{Item, item};
use aoe_server::engine::Durability;
use aoe_server::protocol::MacAddr;
use aoe_server::storage::Fault;
use aoe_server::units::SECTOR_SIZE;

pub(crate) const ITEMS: &[Item] = &[
    item(37, "IDENTIFY: status 40, count 0, 548 octets", identify),
    item(38, "IDENTIFY whatever the device register and E", identify_registers),
    item(39, "IDENTIFY with trailing octets", identify_trailing),
    item(40, "IDENTIFY by broadcast to FFFF.FF: each target", identify_everyone),
    item(41, "IDENTIFY count 0 or 2: ABRT", identify_count),
    item(42, "serial, firmware, model: readable, swapped", identify_text),
    item(43, "sizes in words 60 and 100, LBA48 in 83 and 86", identify_size),
    item(44, "IDENTIFY's octets sum to zero after A5", identify_sum),
    item(45, "READ 24 LBA 0 count 1..scnt: exact length", read),
    item(46, "READ 20 with the device register's nibble", read28),
    item(47, "last sector read; one past it IDNF", read_end),
    item(48, "LBA FFFFFFFFFFFF: IDNF", read_overflow),
    item(49, "count 0: ABRT", count_zero),
    item(50, "count above scnt: ABRT, not E", count_too_large),
    item(51, "WRITE 34, then READ: the same octets", write_read),
    item(52, "WRITE with too little data: nothing written", write_short),
    item(53, "WRITE with too much data: count sectors", write_long),
    item(54, "WRITE across the end: IDNF, nothing written", write_end),
    item(55, "read-only: WRITE 41/04, the rest as ever", read_only),
];

/// A word of the page in an IDENTIFY reply.
fn word(page: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([page[2 * index], page[2 * index + 1]])
}

/// Text of the page, with its pairs of characters put right.
fn text(page: &[u8], words: std::ops::Range<usize>) -> String {
    words.flat_map(|index| word(page, index).to_be_bytes()).map(char::from).collect()
}

/// A target with this disk, e7.3.
fn rig_with(disk: impl Fn() -> RamDisk) -> Rig {
    Rig::with_disks(&[(7, 3)], Durability::Durable, disk)
}

fn identify() {
    let mut rig = Rig::new();
    let reply = rig.succeeds(&Ask::identify());
    assert_eq!(reply.0.len(), 548);
    let mut expected = CLIENT.0.to_vec();
    expected.extend_from_slice(&SERVER.0);
    expected.extend_from_slice(&[0x88, 0xa2, 0x18, 0, 0, 7, 3, 0, 0x00, 0x01, 0xdf, 0xdc]);
    expected.extend_from_slice(&[0, 0, 0, 0x40, 0, 0, 0, 0xa0, 0, 0, 0, 0]);
    assert_eq!(reply.0[..36], expected);
    assert_eq!(reply.data()[..4], [0x40, 0, 0xff, 0x3f]);
}

fn identify_registers() {
    let mut rig = Rig::new();
    let page = rig.succeeds(&Ask::identify()).data().to_vec();
    for flags in [0x00, 0x40, 0x10, 0x50] {
        for device in [0xa0, 0xe0, 0x00, 0xff] {
            let ask = Ask::ata(flags, 0, 1, 0xec, [0, 0, 0, device, 0, 0], &[]);
            assert_eq!(rig.succeeds(&ask).data(), page);
        }
    }
    let ask = Ask::ata(0, 0xff, 1, 0xec, [0xff; 6], &[]);
    assert_eq!(rig.succeeds(&ask).data(), page);
}

fn identify_trailing() {
    let mut rig = Rig::with_mtu(9_000);
    let page = rig.succeeds(&Ask::identify()).data().to_vec();
    for trailing in [1, 24, 1_024, 8_704] {
        let reply = rig.succeeds(&Ask::identify().trailing(&vec![0xee; trailing]));
        assert_eq!(reply.data(), page);
    }
}

fn identify_everyone() {
    let mut rig = Rig::with_targets(&[(7, 3), (7, 4), (9, 0)]);
    let ask = Ask::identify().to(0xffff, 0xff);
    assert_eq!(ask.destination, MacAddr::BROADCAST);
    let replies = rig.all(&ask.octets());
    let from: Vec<_> = replies.iter().map(|reply| &reply.0[16..19]).collect();
    assert_eq!(from, [[0, 7, 3], [0, 7, 4], [0, 9, 0]]);
    assert!(replies.iter().all(|reply| reply.registers() == (OK, 0) && reply.0.len() == 548));
}

fn identify_count() {
    let mut rig = Rig::new();
    for count in [0, 2, 3, 255] {
        rig.fails(&Ask::ata(0, 0, count, 0xec, [0; 6], &[]), FAILED, ABRT);
    }
}

fn identify_text() {
    let mut rig = Rig::new();
    let reply = rig.succeeds(&Ask::identify());
    let page = reply.data();
    assert_eq!(text(page, 10..20), format!("{:<20}", "serial-0123"));
    assert_eq!(text(page, 23..27), format!("{:<8}", env!("CARGO_PKG_VERSION")));
    assert_eq!(text(page, 27..47), format!("{:<40}", "ram disk of a test"));
    assert_eq!(page[20..24], *b"esir", "pairs are swapped on the wire");
}

fn identify_size() {
    let cases = [
        (1, 1),
        (1_024, 1_024),
        (0x0fff_fffe, 0x0fff_fffe),
        (0x1000_0000, 0x0fff_ffff),
        (0x1_2345_6789, 0x0fff_ffff),
        (0xffff_ffff_ffff, 0x0fff_ffff),
    ];
    for (size, lba28) in cases {
        let mut rig = rig_with(|| RamDisk::window(size, 0, 0));
        let reply = rig.succeeds(&Ask::identify());
        let page = reply.data();
        assert_eq!(page[120..124], u32::to_le_bytes(lba28), "words 60 and 61");
        assert_eq!(page[200..208], size.to_le_bytes(), "words 100 to 103");
        assert_eq!(word(page, 83) & 1 << 10, 1 << 10);
        assert_eq!(word(page, 86) & 1 << 10, 1 << 10);
        assert_eq!(word(page, 49) & 1 << 9, 1 << 9, "LBA, which Plan 9 wants");
        assert_eq!(word(page, 0) & 1 << 15, 0, "an ATA device");
    }
}

fn identify_sum() {
    let mut rig = Rig::new();
    let reply = rig.succeeds(&Ask::identify());
    let page = reply.data();
    assert_eq!(page.len(), 512);
    assert_eq!(page[510], 0xa5);
    assert_eq!(page.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet)), 0);
}

fn read() {
    for mtu in [1_500, 4_200, 9_000] {
        let mut rig = Rig::with_mtu(mtu);
        for count in 1..=rig.advertised() {
            for lba in [0, 1, 500] {
                let reply = rig.succeeds(&Ask::read(lba, count));
                assert_eq!(reply.0.len(), 36 + 512 * usize::from(count));
                let expected: Vec<u8> =
                    (lba..lba + u64::from(count)).flat_map(sector_content).collect();
                assert_eq!(reply.data(), expected);
                assert_eq!(reply.0[26], 0, "sectors that are left");
            }
        }
    }
}

fn read28() {
    // The low nibble of the fourth register holds bits 24 to 27; the high one is the device's.
    let lba = 0x0654_3210;
    let mut rig = rig_with(|| RamDisk::window(0x0fff_ffff, lba, 4));
    for device in [0xe0, 0xf0, 0xa0, 0x00] {
        let registers = [0x10, 0x32, 0x54, 0x06 | device, 0, 0];
        let reply = rig.succeeds(&Ask::ata(0, 0, 2, 0x20, registers, &[]));
        assert_eq!(reply.data(), (lba..lba + 2).flat_map(sector_content).collect::<Vec<_>>());
    }
    // The opcode tells how wide the address is, whatever E says.
    let ask = Ask::ata(0x40, 0, 1, 0x20, [0x10, 0x32, 0x54, 0xe6, 0xff, 0xff], &[]);
    assert_eq!(rig.succeeds(&ask).data(), sector_content(lba).collect::<Vec<_>>());
    let ask = Ask::ata(0, 0, 1, 0x24, lba48(lba), &[]);
    assert_eq!(rig.succeeds(&ask).data(), sector_content(lba).collect::<Vec<_>>());
    // WRITE 30 reads its address alike.
    let ask = Ask::ata(0x01, 0, 1, 0x30, [0x11, 0x32, 0x54, 0xe6, 0, 0], &[0xee; 512]);
    rig.succeeds(&ask);
    assert_eq!(rig.disk().sectors(lba + 1, 1), [0xee; 512]);
}

fn read_end() {
    let mut rig = Rig::new();
    for (opcode, device) in [(0x24, 0), (0x20, 0xe0)] {
        let at = |lba: u64, count| {
            let [a, b, c, d, e, f] = lba48(lba);
            Ask::ata(0, 0, count, opcode, [a, b, c, d | device, e, f], &[])
        };
        let last = rig.succeeds(&at(1_023, 1));
        assert_eq!(last.data(), sector_content(1_023).collect::<Vec<_>>());
        rig.succeeds(&at(1_022, 2));
        rig.fails(&at(1_024, 1), FAILED, IDNF);
        rig.fails(&at(1_023, 2), FAILED, IDNF);
        rig.fails(&at(0x0fff_ffff, 1), FAILED, IDNF);
    }
    assert_eq!(rig.disk().reads, 4, "storage is not asked for what is not there");
}

fn read_overflow() {
    for size in [1_024, 0xffff_ffff_ffff] {
        let mut rig = rig_with(|| RamDisk::window(size, 0, 0));
        for count in [1, 2] {
            rig.fails(&Ask::read(0xffff_ffff_ffff, count), FAILED, IDNF);
            rig.fails(&Ask::write(0xffff_ffff_ffff, count, &[0; 1_024]), FAILED, IDNF);
            let verify = Ask::ata(0x40, 0, count, 0x42, [0xff; 6], &[]);
            rig.fails(&verify, FAILED, IDNF);
        }
    }
}

fn count_zero() {
    let mut rig = Rig::with_mtu(9_000);
    let before = rig.disk().octets.clone();
    for (opcode, flags) in [(0x20, 0), (0x24, 0x40), (0x30, 0x01), (0x34, 0x41), (0x40, 0)] {
        let ask = Ask::ata(flags, 0, 0, opcode, [0; 6], &[0xee; 8_192]);
        rig.fails(&ask, FAILED, ABRT);
    }
    assert_eq!(rig.disk().octets, before);
}

fn count_too_large() {
    for mtu in [1_500, 4_200, 9_000] {
        let mut rig = Rig::with_mtu(mtu);
        let before = rig.disk().octets.clone();
        // At MTU 9000 a seventeenth sector would fit, but was not offered.
        for count in [rig.advertised() + 1, 128, 255] {
            rig.fails(&Ask::read(0, count), FAILED, ABRT);
            let data = vec![0xee; usize::from(count) * SECTOR_SIZE];
            rig.fails(&Ask::write(0, count, &data), FAILED, ABRT);
        }
        assert_eq!(rig.disk().octets, before);
    }
}

fn write_read() {
    for mtu in [1_500, 9_000] {
        let mut rig = Rig::with_mtu(mtu);
        for count in 1..=rig.advertised() {
            let len = usize::from(count) * SECTOR_SIZE;
            let data: Vec<u8> = (0..253).map(|n| n ^ count).cycle().take(len).collect();
            let reply = rig.succeeds(&Ask::write(100, count, &data));
            let mut expected = CLIENT.0.to_vec();
            expected.extend_from_slice(&SERVER.0);
            expected.extend_from_slice(&[0x88, 0xa2, 0x18, 0, 0, 7, 3, 0, 0, 1, 0xdf, 0xdc]);
            expected.extend_from_slice(&[0x41, 0, 0, 0x40, 100, 0, 0, 0, 0, 0, 0, 0]);
            expected.resize(60, 0);
            assert_eq!(reply.0, expected);
            assert_eq!(rig.succeeds(&Ask::read(100, count)).data(), data);
            let after = 100 + u64::from(count);
            assert_eq!(rig.disk().sectors(after, 1), sector_content(after).collect::<Vec<_>>());
            assert_eq!(rig.disk().sectors(99, 1), sector_content(99).collect::<Vec<_>>());
        }
    }
}

fn write_short() {
    let mut rig = Rig::new();
    let before = rig.disk().octets.clone();
    for len in [0, 1, 24, 511, 512, 1_023] {
        rig.fails(&Ask::write(5, 2, &vec![0xee; len]), FAILED, ABRT);
    }
    assert_eq!(rig.disk().octets, before);
    assert_eq!(rig.disk().writes, 0);
}

fn write_long() {
    let mut rig = Rig::new();
    for extra in [1, 100, 512, 5_000] {
        rig.succeeds(&Ask::write(5, 1, &[0xee; 512]).trailing(&vec![0xdd; extra]));
        assert_eq!(rig.disk().sectors(5, 1), [0xee; 512]);
        assert_eq!(rig.disk().sectors(6, 1), sector_content(6).collect::<Vec<_>>());
    }
}

fn write_end() {
    let mut rig = Rig::new();
    let before = rig.disk().octets.clone();
    for (lba, count) in [(1_023, 2), (1_024, 1), (1 << 40, 1)] {
        rig.fails(&Ask::write(lba, count, &[0xee; 1_024]), FAILED, IDNF);
    }
    assert_eq!(rig.disk().octets, before);
    rig.succeeds(&Ask::write(1_022, 2, &[0xee; 1_024]));
    assert_eq!(rig.disk().sectors(1_022, 2), [0xee; 1_024]);
}

fn read_only() {
    let mut rig = Rig::new();
    rig.disk().info.read_only = true;
    let before = rig.disk().octets.clone();
    rig.fails(&Ask::write(0, 1, &[0xee; 512]), FAILED, ABRT);
    rig.fails(&Ask::ata(0x01, 0, 1, 0x30, [0, 0, 0, 0xe0, 0, 0], &[0xee; 512]), FAILED, ABRT);
    assert_eq!(rig.disk().octets, before);
    rig.succeeds(&Ask::identify());
    rig.succeeds(&Ask::read(0, 2));
    // The engine asks storage all the same where that alone knows.
    rig.disk().info.read_only = false;
    rig.disk().write_fault = Some(Fault::WriteProtected);
    rig.fails(&Ask::write(0, 1, &[0xee; 512]), FAILED, ABRT);
}
