//! Items 37 to 60, but for those of `transfer`: IDENTIFY and what moves no data.

use super::report::{Check, Item, ensure, item};
use super::station::{Ask, Reply, Station};
use super::{Bench, SECTORS};

pub(crate) const ITEMS: &[Item<Bench>] = &[
    item(37, "IDENTIFY is answered with 512 octets", identify),
    item(38, "IDENTIFY heeds neither address nor E flag", identify_ignores_address),
    item(39, "IDENTIFY with trailing octets is answered", identify_trailing),
    item(40, "IDENTIFY to everybody is answered by each target", identify_everybody),
    item(41, "IDENTIFY of 0 or 2 sectors fails", identify_count),
    item(42, "serial number, firmware and model are text", texts),
    item(43, "the sizes and command sets are right", sizes),
    item(44, "the checksum holds", checksum),
    item(55, "a read-only target refuses writes, and nothing else", read_only),
    item(56, "FLUSH CACHE and FLUSH CACHE EXT succeed", flush),
    item(57, "CHECK POWER MODE says active", check_power),
    item(58, "SET FEATURES takes the write cache off and on", set_features),
    item(59, "SMART is aborted, as IDENTIFY does not offer it", smart),
    item(60, "unknown opcodes are aborted", unknown_opcodes),
    item(64, "success shows none of the bits a9", success_bits),
    item(65, "flags and address are echoed", echo),
    item(66, "the device bit is ignored", device_bit),
];

/// The IDENTIFY page in a reply.
fn page(reply: &Reply) -> Result<Vec<u8>, String> {
    ensure!(reply.succeeded() && reply.0.len() == 548, "{reply:?}");
    Ok(reply.data().to_vec())
}

fn own_page(bench: &mut Bench) -> Result<Vec<u8>, String> {
    let ask = bench.station.identify();
    page(&bench.station.ask(&ask)?)
}

fn word(page: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([page[2 * index], page[2 * index + 1]])
}

fn identify(bench: &mut Bench) -> Check {
    own_page(bench).map(|_| ())
}

fn identify_ignores_address(bench: &mut Bench) -> Check {
    let wanted = own_page(bench)?;
    for device in [0xa0, 0xe0, 0x00] {
        for flags in [0x00, 0x40] {
            let ask = bench.station.ata(flags, 0xec, device << 24, 1);
            let found = page(&bench.station.ask(&ask)?)?;
            ensure!(found == wanted, "flags {flags:02x}, LBA3 {device:02x}: another page");
        }
    }
    Ok(())
}

fn identify_trailing(bench: &mut Bench) -> Check {
    let wanted = own_page(bench)?;
    for octets in [24, 1024, 8192, 8704] {
        let ask = bench.station.identify().trailing(0xa5, octets);
        let found = page(&bench.station.ask(&ask)?)?;
        ensure!(found == wanted, "{octets} more octets: another page");
    }
    Ok(())
}

fn identify_everybody(bench: &mut Bench) -> Check {
    let ask = bench.station.identify().at(0xffff, 0xff).broadcast();
    let answers = bench.station.all(&ask, 4)?;
    let mut pages = answers.iter().map(page).collect::<Result<Vec<_>, _>>()?;
    pages.sort_unstable();
    pages.dedup();
    ensure!(pages.len() == 4, "only {} different disks", pages.len());
    Ok(())
}

fn identify_count(bench: &mut Bench) -> Check {
    for count in [0, 2, 255] {
        let ask = bench.station.identify().with(26, count);
        let reply = bench.station.ask(&ask)?;
        ensure!(reply.aborted() || reply.refusal() == Some(2), "{reply:?}");
    }
    Ok(())
}

/// A text of the page: the first character of each pair is the high octet of its word.
fn text(page: &[u8], words: std::ops::Range<usize>) -> String {
    words.flat_map(|index| word(page, index).to_be_bytes()).map(char::from).collect()
}

fn texts(bench: &mut Bench) -> Check {
    let page = own_page(bench)?;
    let (serial, firmware, model) = (text(&page, 10..20), text(&page, 23..27), text(&page, 27..47));
    for text in [&serial, &firmware, &model] {
        let printable = text.chars().all(|character| (' '..='~').contains(&character));
        ensure!(printable && !text.starts_with(' '), "{text:?}");
    }
    ensure!(serial == format!("{:20}", super::SERIAL), "the serial number is {serial:?}");
    ensure!(firmware == format!("{:8}", env!("CARGO_PKG_VERSION")), "{firmware:?}");
    ensure!(model.starts_with("aoe-server"), "{model:?}");
    Ok(())
}

fn sizes(bench: &mut Bench) -> Check {
    let page = own_page(bench)?;
    for index in [83, 86] {
        let sets = word(&page, index);
        ensure!(sets & 1 << 10 != 0, "word {index} is {sets:04x}: no 48-bit addresses");
    }
    let lba28 = u32::from_le_bytes(page[120..124].try_into().expect("four octets"));
    let lba48 = u64::from_le_bytes(page[200..208].try_into().expect("eight octets"));
    ensure!(u64::from(lba28) == SECTORS.min(0x0fff_ffff), "{lba28} sectors of 28 bits");
    ensure!(lba48 == SECTORS, "{lba48} sectors of 48 bits");
    Ok(())
}

fn checksum(bench: &mut Bench) -> Check {
    let page = own_page(bench)?;
    let sum = page.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet));
    ensure!(page[510] == 0xa5 && sum == 0, "octet 510 is {:02x}, the sum {sum}", page[510]);
    Ok(())
}

fn read_only(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    for lba in [0, 3] {
        let before = station.read(lba, 1).at(7, 5);
        let before = station.ask(&before)?;
        ensure!(before.succeeded() && before.data() == [0x5a; 512], "{before:?}");
        for (flags, opcode) in [(0x41, 0x34), (0x01, 0x30)] {
            let write = station.ata(flags, opcode, lba, 1).trailing(0x77, 512).at(7, 5);
            ensure!(station.ask(&write)?.aborted(), "a write is not aborted");
        }
        let after = station.read(lba, 1).at(7, 5);
        ensure!(station.ask(&after)?.data() == before.data(), "sector {lba} has changed");
    }
    let identify = station.identify().at(7, 5);
    page(&station.ask(&identify)?)?;
    let flush = station.ata(0, 0xe7, 0, 0).at(7, 5);
    ensure!(station.ask(&flush)?.succeeded(), "flush fails");
    Ok(())
}

fn flush(bench: &mut Bench) -> Check {
    for opcode in [0xe7, 0xea] {
        for flags in [0x00, 0x40] {
            let ask = bench.station.ata(flags, opcode, 0, 0);
            let reply = bench.station.ask(&ask)?;
            ensure!(reply.succeeded() && reply.0.len() == 60, "{reply:?}");
        }
    }
    Ok(())
}

fn check_power(bench: &mut Bench) -> Check {
    let ask = bench.station.ata(0, 0xe5, 0, 0);
    let reply = bench.station.ask(&ask)?;
    ensure!(reply.registers() == (0x40, 0) && reply.octet(26) == 0xff, "{reply:?}");
    Ok(())
}

fn set_features(bench: &mut Bench) -> Check {
    // As illumos sends it, at the end as it was at the start.
    for feature in [0x82, 0x02, 0xaa, 0x55, 0x03] {
        let ask = bench.station.ata(0, 0xef, 0xa0 << 24, 0).with(25, feature);
        let reply = bench.station.ask(&ask)?;
        ensure!(reply.succeeded(), "feature {feature:02x}: {reply:?}");
    }
    for feature in [0x00, 0x99] {
        let ask = bench.station.ata(0, 0xef, 0, 0).with(25, feature);
        ensure!(bench.station.ask(&ask)?.aborted(), "feature {feature:02x} is not aborted");
    }
    Ok(())
}

fn smart(bench: &mut Bench) -> Check {
    let page = own_page(bench)?;
    ensure!(word(&page, 82) & 1 == 0, "SMART is offered");
    for feature in [0xd0, 0xd8, 0xda] {
        let ask = bench.station.ata(0, 0xb0, 0xc2_4f00, 1).with(25, feature);
        ensure!(bench.station.ask(&ask)?.aborted(), "feature {feature:02x} is not aborted");
    }
    Ok(())
}

fn unknown_opcodes(bench: &mut Bench) -> Check {
    for opcode in [0x00, 0x06, 0x25, 0x35, 0xc8, 0xca, 0x27, 0xf8, 0x90] {
        let ask = bench.station.ata(0, opcode, 0, 1);
        let reply = bench.station.ask(&ask)?;
        ensure!(reply.aborted(), "opcode {opcode:02x}: {reply:?}");
    }
    Ok(())
}

/// One of each command that succeeds.
fn successes(station: &mut Station) -> Vec<Ask> {
    let data = vec![0x3c; 1024];
    let write28 = station.ata(0x01, 0x30, 0xe000_0022, 2);
    vec![
        station.identify(),
        station.read(32, 2),
        station.ata(0, 0x20, 0xe000_0020, 2),
        station.write(34, &data),
        Ask { arg: [&write28.arg[..], &data[..]].concat(), ..write28 },
        station.ata(0, 0xe7, 0, 0),
        station.ata(0x40, 0xea, 0, 0),
        station.ata(0, 0xe5, 0, 0),
        station.ata(0, 0xef, 0, 0).with(25, 0x82),
        station.ata(0x40, 0x42, 32, 8),
    ]
}

fn success_bits(bench: &mut Bench) -> Check {
    for ask in successes(&mut bench.station) {
        let reply = bench.station.ask(&ask)?;
        let (status, error) = reply.registers();
        let opcode = ask.arg[3];
        ensure!(status & 0xa9 == 0 && error == 0, "opcode {opcode:02x}: {reply:?}");
    }
    Ok(())
}

fn echo(bench: &mut Bench) -> Check {
    let mut asks = successes(&mut bench.station);
    asks.push(bench.station.read(u64::MAX >> 16, 1));
    asks.push(bench.station.read(0x1234_5678_9abc, 0));
    for ask in asks {
        let reply = bench.station.ask(&ask)?;
        ensure!(reply.octet(24) == ask.arg[0], "the flags: {reply:?}");
        ensure!(reply.0[28..34] == ask.arg[4..10], "the address: {reply:?}");
        ensure!(reply.0[34..36] == [0, 0], "the reserved octets: {reply:?}");
    }
    Ok(())
}

fn device_bit(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let wanted = station.read(40, 1);
    let wanted = station.ask(&wanted)?.data().to_vec();
    let asks = [
        station.ata(0x50, 0x24, 40, 1),
        station.ata(0x10, 0x20, 0xe000_0028, 1),
        station.ata(0x00, 0x20, 0xf000_0028, 1),
        station.ata(0x00, 0x20, 0xb000_0028, 1),
    ];
    for ask in asks {
        let reply = station.ask(&ask)?;
        ensure!(reply.succeeded() && reply.data() == wanted, "{reply:?}");
    }
    Ok(())
}
