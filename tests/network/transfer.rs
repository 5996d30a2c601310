//! Items 45 to 54, 63, 67 to 69 and 71: sectors that are read and written.

use super::report::{Check, Item, ensure, item};
use super::station::{Ask, OTHER, Reply, Station, pattern};
use super::{Bench, SECTORS};

pub(crate) const ITEMS: &[Item<Bench>] = &[
    item(45, "READ EXT of 1 to 16 sectors has exactly so many octets", read_counts),
    item(46, "READ takes the high bits of its address from LBA3", read28),
    item(47, "the last sector can be read, the one after it not", last_sector),
    item(48, "the highest address there is fails", highest_address),
    item(49, "a count of 0 transfers nothing", count_zero),
    item(50, "more sectors than offered are aborted", too_many),
    item(51, "what was written is read back", write_and_read),
    item(52, "a write with too little data writes nothing", short_data),
    item(53, "a write with too much data writes what it should", long_data),
    item(54, "a write across the end writes nothing", write_across_end),
    item(63, "a read that carries data is a read", read_with_data),
    item(67, "a write that comes twice is answered twice", duplicate_write),
    item(68, "of two writes to one place the later one stays", write_order),
    item(69, "many requests at once are all answered, each with its own", mixture),
    item(71, "64 frames of 16 sectors from each of two stations: none is lost", two_windows),
];

/// The most sectors of a frame here.
const MOST: u8 = 16;

fn sectors(station: &mut Station, lba: u64, count: u8) -> Result<Vec<u8>, String> {
    let ask = station.read(lba, count);
    let reply = station.ask(&ask)?;
    ensure!(reply.succeeded(), "cannot read {count} at {lba}: {reply:?}");
    ensure!(reply.0.len() == 36 + 512 * usize::from(count), "{reply:?}");
    Ok(reply.data().to_vec())
}

fn store(station: &mut Station, lba: u64, data: &[u8]) -> Check {
    let ask = station.write(lba, data);
    let reply = station.ask(&ask)?;
    ensure!(reply.succeeded() && reply.0.len() == 60, "cannot write at {lba}: {reply:?}");
    Ok(())
}

/// Checks that `lba` holds `data`.
fn holds(station: &mut Station, lba: u64, data: &[u8]) -> Check {
    let count = u8::try_from(data.len() / 512).expect("a frame's worth");
    ensure!(sectors(station, lba, count)? == data, "sector {lba} and on: other data");
    Ok(())
}

fn read_counts(bench: &mut Bench) -> Check {
    let data = pattern(45, MOST.into());
    store(&mut bench.station, 0, &data)?;
    for count in 1..=MOST {
        let found = sectors(&mut bench.station, 0, count)?;
        ensure!(found == data[..found.len()], "{count} sectors: other data");
    }
    Ok(())
}

fn read28(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let (low, high) = (pattern(46, 1), pattern(47, 1));
    store(station, 5, &low)?;
    store(station, 0x0100_0005, &high)?;
    for (device, data) in [(0xe0, &low), (0xe1, &high), (0x40, &low), (0x01, &high)] {
        let ask = station.ata(0, 0x20, device << 24 | 5, 1);
        let reply = station.ask(&ask)?;
        ensure!(reply.succeeded() && reply.data() == data, "LBA3 {device:02x}: {reply:?}");
    }
    // LBA4 and LBA5 are no part of such an address.
    let ask = station.ata(0, 0x20, 0xffff_e000_0005, 1);
    ensure!(station.ask(&ask)?.data() == low, "the upper address registers matter");
    Ok(())
}

fn last_sector(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    sectors(station, SECTORS - 1, 1)?;
    sectors(station, SECTORS - 16, 16)?;
    for (lba, count) in [(SECTORS, 1), (SECTORS - 1, 2), (SECTORS - 15, 16), (SECTORS + 7, 16)] {
        let ask = station.read(lba, count);
        let reply = station.ask(&ask)?;
        ensure!(reply.not_found(), "{count} sectors at {lba}: {reply:?}");
    }
    Ok(())
}

fn highest_address(bench: &mut Bench) -> Check {
    const HIGHEST: u64 = 0xffff_ffff_ffff;
    for (lba, count) in [(HIGHEST, 1), (HIGHEST, 16), (HIGHEST - 15, 16)] {
        let ask = bench.station.read(lba, count);
        ensure!(bench.station.ask(&ask)?.not_found(), "a read at {lba:x} does not fail");
        let ask = bench.station.write(lba, &vec![0x48; usize::from(count) * 512]);
        ensure!(bench.station.ask(&ask)?.not_found(), "a write at {lba:x} does not fail");
    }
    Ok(())
}

fn count_zero(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let data = pattern(49, 16);
    store(station, 128, &data)?;
    for (flags, opcode) in [(0x40, 0x24), (0x00, 0x20), (0x41, 0x34), (0x01, 0x30)] {
        let ask = station.ata(flags, opcode, 128, 0).trailing(0x77, 8192);
        let reply = station.ask(&ask)?;
        let empty = reply.succeeded() && reply.0.len() == 60;
        ensure!(reply.aborted() || empty, "opcode {opcode:02x}: {reply:?}");
    }
    holds(station, 128, &data)
}

fn too_many(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let data = pattern(50, 16);
    store(station, 160, &data)?;
    for count in [MOST + 1, 255] {
        for (flags, opcode) in [(0x40, 0x24), (0x00, 0x20), (0x41, 0x34), (0x01, 0x30)] {
            let ask = station.ata(flags, opcode, 160, count).trailing(0x77, 17 * 512);
            let reply = station.ask(&ask)?;
            ensure!(reply.aborted(), "opcode {opcode:02x} of {count}: {reply:?}");
        }
    }
    holds(station, 160, &data)
}

fn write_and_read(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    for count in [1_u8, 2, 7, 8, 16] {
        let data = pattern(51 + u32::from(count), count.into());
        let lba = 200 + 32 * u64::from(count);
        store(station, lba, &data)?;
        holds(station, lba, &data)?;
    }
    // And with 28-bit addresses.
    let data = pattern(510, 16);
    let mut ask = station.ata(0x01, 0x30, 0xe000_0300, MOST);
    ask.arg.extend(&data);
    let reply = station.ask(&ask)?;
    ensure!(reply.succeeded() && reply.0.len() == 60, "{reply:?}");
    holds(station, 0x300, &data)
}

fn short_data(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let data = pattern(52, 4);
    store(station, 1000, &data)?;
    for len in [0, 1, 24, 511, 1024, 2047] {
        let ask = station.ata(0x41, 0x34, 1000, 4).trailing(0x77, len);
        let reply = station.ask(&ask)?;
        ensure!(reply.aborted() || reply.refusal() == Some(2), "{len} octets: {reply:?}");
        holds(station, 1000, &data)?;
    }
    Ok(())
}

fn long_data(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let before = pattern(53, 4);
    store(station, 1100, &before)?;
    let data = pattern(54, 3);
    for more in [1, 512, 1024] {
        let mut ask = station.ata(0x41, 0x34, 1100, 1);
        ask.arg.extend(&data[..512 + more]);
        let reply = station.ask(&ask)?;
        ensure!(reply.succeeded() && reply.0.len() == 60, "{more} more octets: {reply:?}");
        holds(station, 1100, &data[..512])?;
        holds(station, 1101, &before[512..])?;
    }
    Ok(())
}

fn write_across_end(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let data = pattern(55, 8);
    store(station, SECTORS - 8, &data)?;
    for (lba, count) in [(SECTORS - 1, 2), (SECTORS - 8, 16), (SECTORS, 1)] {
        let ask = station.write(lba, &vec![0x77; count * 512]);
        let reply = station.ask(&ask)?;
        ensure!(reply.not_found(), "{count} sectors at {lba}: {reply:?}");
        holds(station, SECTORS - 8, &data)?;
    }
    Ok(())
}

fn read_with_data(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let data = pattern(63, 16);
    store(station, 1200, &data)?;
    for count in [1, 2, 16] {
        let ask = station.read(1200, count).trailing(0, usize::from(count) * 512);
        let reply = station.ask(&ask)?;
        let wanted = &data[..usize::from(count) * 512];
        ensure!(reply.succeeded() && reply.data() == wanted, "{reply:?}");
    }
    holds(station, 1200, &data)
}

fn duplicate_write(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let data = pattern(67, 16);
    let frame = station.write(1300, &data).octets();
    let answers = station.exchange(&[frame.clone(), frame], 2)?;
    let [one, two] = &answers[..] else { return Err(format!("{} answers", answers.len())) };
    ensure!(one == two && one.succeeded(), "{one:?} and {two:?}");
    holds(station, 1300, &data)
}

fn write_order(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    for round in 0..20 {
        let writes: Vec<_> = (0..8)
            .map(|index| station.write(1400, &pattern(1000 + round * 8 + index, 16)))
            .collect();
        let answers = station.burst(&writes)?;
        ensure!(answers.iter().all(Reply::succeeded), "{answers:?}");
        holds(station, 1400, &pattern(1000 + round * 8 + 7, 16))?;
    }
    Ok(())
}

fn mixture(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let base = 2000;
    for index in 0..10 {
        store(station, base + u64::from(index), &pattern(2000 + index, 1))?;
    }
    for round in 0..10 {
        let mut asks = Vec::new();
        for index in 0..10 {
            asks.push(station.read(base + u64::from(index), 1));
            asks.push(station.write(base + 100 + u64::from(index), &pattern(round + index, 1)));
            asks.push(station.config(0, b""));
            asks.push(station.identify());
        }
        let answers = station.burst(&asks)?;
        for index in 0..10_u32 {
            let at = 4 * index as usize;
            ensure!(answers[at].data() == pattern(2000 + index, 1), "another sector's data");
            ensure!(answers[at + 1].succeeded(), "{:?}", answers[at + 1]);
            ensure!(answers[at + 3].0.len() == 548, "{:?}", answers[at + 3]);
            holds(station, base + 100 + u64::from(index), &pattern(round + index, 1))?;
        }
    }
    Ok(())
}

fn two_windows(bench: &mut Bench) -> Check {
    const WINDOW: u64 = 64;
    let log = bench.server().log();
    if log.contains("the kernel grants") {
        let why = "it takes larger socket buffers than this user may have";
        ensure!(std::env::var_os("CI").is_none(), "{why}");
        println!("SKIPPED: #71, {why}");
        return Ok(());
    }
    let station = &mut bench.station;
    for round in 0..6 {
        let mut asks: Vec<Ask> = Vec::new();
        for index in 0..WINDOW {
            let lba = 10_000 + 16 * index;
            let seed = u32::try_from(round * WINDOW + index).expect("small");
            let write = station.write(lba, &pattern(seed, 16));
            let read = station.read(lba + 16 * WINDOW, MOST);
            // Who reads and who writes takes turns.
            let (ours, theirs) = if round % 2 == 0 { (write, read) } else { (read, write) };
            asks.extend([ours, theirs.from(OTHER)]);
        }
        let answers = station.burst(&asks)?;
        ensure!(answers.iter().all(Reply::succeeded), "round {round}: some failed");
        for index in [0, 1, WINDOW / 2, WINDOW - 1] {
            let seed = u32::try_from(round * WINDOW + index).expect("small");
            holds(station, 10_000 + 16 * index, &pattern(seed, 16))?;
        }
    }
    ensure!(station.dropped() == 0, "{} replies were dropped here", station.dropped());
    let counters = bench.server().counters();
    ensure!(counters.contains("dropped: 0,"), "{counters}");
    ensure!(counters.contains("unsendable: 0"), "{counters}");
    Ok(())
}
