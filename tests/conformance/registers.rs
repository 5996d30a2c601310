//! Items 56 to 66: the other ATA commands, failures of storage, and what the registers say.

use crate::common::{ABRT, Ask, DEVICE_FAULT, FAILED, OK, Rig, UNC, lba48, sector_content};
use crate::{Item, item, part};
use aoe_server::engine::{Action, After, Durability, TargetId};
use aoe_server::storage::{BlockStorage, Fault};

pub(crate) const ITEMS: &[Item] = &[
    item(56, "FLUSH E7 and EA: success once it is durable", flush),
    item(57, "CHECK POWER E5: count FF", check_power),
    item(58, "SET FEATURES 82 and 02: success", set_features),
    item(59, "SMART B0, not advertised: ABRT", smart),
    item(60, "every other opcode: ABRT, not E", unsupported),
    part(61, "EIO on read: UNC, no data", "tests/network.rs, seen by a kernel", read_error),
    part(62, "EIO and ENOSPC on write: 61/04", "tests/network.rs, seen by a kernel", write_error),
    item(63, "READ with data and W clear: a read", read_with_payload),
    item(64, "success has none of the bits A9", success_bits),
    item(65, "AFlags and LBA echoed, reserved octets zero", echoes),
    item(66, "device bits: ignored", device_bits),
];

fn flush() {
    let mut rig = Rig::new();
    rig.disk().delayed = true;
    for opcode in [0xe7, 0xea] {
        for flags in [0x00, 0x40] {
            let flushes = rig.disk().flushes;
            let frame = Ask::ata(flags, 0, 0, opcode, [0; 6], &[]).octets();
            let actions = rig.offer(&frame);
            let [(TargetId(0), Action::Reply { len: 60, after: After::Durable(ticket) })] =
                actions[..]
            else {
                panic!("{actions:?}");
            };
            assert!(rig.disk().durable() < ticket, "it has to be waited for");
            rig.disk().settle(u64::MAX);
            assert!(rig.disk().durable() >= ticket);
            assert_eq!(rig.disk().flushes, flushes + 1);
            assert_eq!(rig.buffer[24..28], [flags, 0, 0, 0x40]);
            rig.succeeds(&Ask::ata(flags, 0, 0, opcode, [0, 0, 0, 0xa0, 0, 0], &[]));
        }
    }
    rig.disk().flush_fault = Some(Fault::Media);
    rig.fails(&Ask::bare_ata(0xe7), DEVICE_FAULT, ABRT);
    assert_eq!(rig.export(0).target.counters().flushes, 8);
}

fn check_power() {
    let mut rig = Rig::new();
    let reply = rig.succeeds(&Ask::bare_ata(0xe5));
    assert_eq!(reply.0[24..28], [0, 0, 0xff, 0x40]);
}

fn set_features() {
    for durability in [Durability::Durable, Durability::Volatile] {
        let mut rig = Rig::with_disks(&[(7, 3)], durability, || crate::common::RamDisk::new(8));
        let cached = durability == Durability::Volatile;
        let cache = |rig: &mut Rig| {
            let reply = rig.succeeds(&Ask::identify());
            reply.data()[2 * 85] & 1 << 5 != 0
        };
        assert_eq!(cache(&mut rig), cached);
        // As illumos does after every IDENTIFY.
        rig.succeeds(&Ask::ata(0, 0x82, 0, 0xef, [0, 0, 0, 0xa0, 0, 0], &[]));
        assert!(!cache(&mut rig));
        rig.succeeds(&Ask::ata(0, 0x02, 0, 0xef, [0, 0, 0, 0xa0, 0, 0], &[]));
        assert_eq!(cache(&mut rig), cached, "a durable target has no cache to turn on");
        for feature in [0xaa, 0x55, 0x03] {
            rig.succeeds(&Ask::ata(0, feature, 0x0c, 0xef, [0; 6], &[]));
        }
        for feature in [0x00, 0x01, 0x05, 0x42, 0xff] {
            rig.fails(&Ask::ata(0, feature, 0, 0xef, [0; 6], &[]), FAILED, ABRT);
        }
    }
}

fn smart() {
    let mut rig = Rig::new();
    let reply = rig.succeeds(&Ask::identify());
    assert_eq!(reply.data()[2 * 82] & 1, 0, "not advertised");
    for feature in [0xd0, 0xd4, 0xd5, 0xd6, 0xd8, 0xd9, 0xda] {
        let ask = Ask::ata(0, feature, 1, 0xb0, [0, 0x4f, 0xc2, 0xa0, 0, 0], &[]);
        rig.fails(&ask, FAILED, ABRT);
    }
}

fn unsupported() {
    const SUPPORTED: [u8; 11] = [0x20, 0x24, 0x30, 0x34, 0x40, 0x42, 0xe5, 0xe7, 0xea, 0xec, 0xef];
    let mut rig = Rig::new();
    let before = rig.disk().octets.clone();
    for opcode in (0..=255).filter(|opcode| !SUPPORTED.contains(opcode)) {
        for flags in [0x00, 0x01, 0x41] {
            let ask = Ask::ata(flags, 0x01, 1, opcode, [0; 6], &[0xee; 512]);
            rig.fails(&ask, FAILED, ABRT);
        }
    }
    assert_eq!(rig.disk().octets, before);
    let errors = rig.export(0).target.counters().ata_errors;
    assert_eq!(errors, 3 * (256 - SUPPORTED.len() as u64));
}

fn read_error() {
    let mut rig = Rig::new();
    rig.disk().read_fault = Some(Fault::Media);
    rig.fails(&Ask::read(3, 2), FAILED, UNC);
    rig.fails(&Ask::ata(0x40, 0, 2, 0x42, lba48(3), &[]), FAILED, UNC);
    rig.disk().read_fault = Some(Fault::Aborted);
    rig.fails(&Ask::read(3, 2), FAILED, ABRT);
    // The target goes on.
    rig.disk().read_fault = None;
    rig.succeeds(&Ask::read(3, 2));
}

fn write_error() {
    let mut rig = Rig::new();
    let before = rig.disk().octets.clone();
    let ask = Ask::write(3, 1, &[0xee; 512]);
    for fault in [Fault::Media, Fault::NoSpace] {
        rig.disk().write_fault = Some(fault);
        rig.fails(&ask, DEVICE_FAULT, ABRT);
    }
    assert_eq!(rig.disk().octets, before);
    rig.disk().write_fault = None;
    // A write may also fail after it was taken: its reply is turned into a failure.
    for (ticket, fault) in (1..).zip([Fault::Media, Fault::NoSpace]) {
        rig.disk().outcomes.insert(ticket, fault);
        let reply = rig.ask(&ask);
        assert_eq!((reply.error(), reply.registers()), (0, (DEVICE_FAULT, ABRT)));
        assert_eq!(reply.0.len(), 60);
    }
    rig.succeeds(&ask);
}

fn read_with_payload() {
    let mut rig = Rig::new();
    // As Linux probes a path: what a write would carry, all zero.
    for len in [512, 1_024, 1_464] {
        let reply = rig.succeeds(&Ask::read(9, 2).trailing(&vec![0; len]));
        assert_eq!(reply.data(), (9..11).flat_map(sector_content).collect::<Vec<_>>());
    }
    // W and the opcode have to agree.
    let before = rig.disk().octets.clone();
    for opcode in [0x20, 0x24] {
        rig.fails(&Ask::ata(0x01, 0, 1, opcode, lba48(9), &[0xee; 512]), FAILED, ABRT);
    }
    for opcode in [0x30, 0x34] {
        rig.fails(&Ask::ata(0x40, 0, 1, opcode, lba48(9), &[0xee; 512]), FAILED, ABRT);
    }
    assert_eq!(rig.disk().octets, before);
}

/// Every way to succeed.
fn successes() -> Vec<Ask> {
    let registers = [5, 0, 0, 0xe0, 0, 0];
    vec![
        Ask::identify(),
        Ask::read(5, 2),
        Ask::ata(0, 0, 1, 0x20, registers, &[]),
        Ask::write(5, 1, &[0xee; 512]),
        Ask::ata(0x03, 0, 1, 0x30, registers, &[0xee; 512]),
        Ask::ata(0, 0, 255, 0x40, registers, &[]),
        Ask::ata(0x40, 0, 255, 0x42, lba48(5), &[]),
        Ask::ata(0x41, 1, 1, 0x06, [0; 6], &trim(5, 1)),
        Ask::bare_ata(0xe5),
        Ask::bare_ata(0xe7),
        Ask::bare_ata(0xea),
        Ask::ata(0, 0x82, 0, 0xef, [0; 6], &[]),
    ]
}

/// A block of TRIM ranges with one range.
fn trim(lba: u64, count: u16) -> Vec<u8> {
    let mut block = (u64::from(count) << 48 | lba).to_le_bytes().to_vec();
    block.resize(512, 0);
    block
}

fn success_bits() {
    let mut rig = Rig::new();
    rig.disk().info.discard = true;
    for ask in successes() {
        let reply = rig.succeeds(&ask);
        assert_eq!(reply.0[27] & 0xa9, 0);
        assert_eq!(reply.0[27], OK);
    }
    assert_eq!(rig.disk().sectors(5, 1), [0; 512], "TRIM came after the writes");
}

fn echoes() {
    let mut rig = Rig::new();
    rig.disk().info.discard = true;
    for mut ask in successes() {
        ask.arg[0] |= 0xac; // bits that mean nothing
        ask.arg[10..12].copy_from_slice(&[0xbe, 0xef]); // reserved
        let reply = rig.succeeds(&ask);
        assert_eq!(reply.0[24], ask.arg[0]);
        assert_eq!(reply.0[28..34], ask.arg[4..10]);
        assert_eq!(reply.0[34..36], [0, 0]);
    }
    let fails = Ask::ata(0xfe, 0x77, 9, 0x99, [1, 2, 3, 4, 5, 6], &[]);
    let reply = rig.ask(&fails);
    assert_eq!(reply.0[24..36], [0xfe, 0x04, 9, 0x41, 1, 2, 3, 4, 5, 6, 0, 0]);
}

fn device_bits() {
    let mut rig = Rig::new();
    for flags in [0x10, 0x50] {
        for device in [0xf0, 0x10, 0xe0] {
            let ask = Ask::ata(flags, 0, 1, 0x20, [5, 0, 0, device, 0, 0], &[]);
            assert_eq!(rig.succeeds(&ask).data(), sector_content(5).collect::<Vec<_>>());
        }
    }
}
