//! Items 1 to 20: what is heard, what is answered, and how.

use std::time::Duration;

use super::Bench;
use super::report::{Check, Item, ensure, item};
use super::station::{ATA, Ask, CONFIG, NOBODY, Reply};
use crate::common::net::{PATIENCE, within};

pub(crate) const ITEMS: &[Item<Bench>] = &[
    item(1, "23 octets and fewer are not answered", too_short),
    item(2, "EtherType 88a3 is not answered", other_ethertype),
    item(3, "a response is not answered, whatever its command", responses),
    item(4, "shelf 7 slot 3 is answered", exact_address),
    item(5, "wildcards are answered once by every target that matches", wildcards),
    item(6, "other addresses are not answered", other_addresses),
    item(7, "a reply to a wildcard carries the target's address", own_address),
    item(8, "a reply to a broadcast goes from station to station", station_to_station),
    item(9, "tags are echoed bit by bit", tags),
    item(10, "another version is refused with error 5", other_versions),
    item(11, "reserved flags are ignored", reserved_flags),
    item(12, "error flag and error of a request are ignored", error_in_request),
    item(13, "frames to other stations are not answered", foreign_station),
    item(14, "32 and 36 octets without padding are answered", unpadded),
    item(15, "replies have 60 octets at least, padded with zeros", padding),
    item(16, "no octet of an earlier frame is in the padding", no_leak),
    item(17, "an unknown command is refused with error 1", unknown_command),
    item(18, "a vendor's command is refused with error 1", vendor_command),
    item(19, "an argument cut short is not answered", short_arguments),
    item(20, "frames sent are not taken for frames received", own_frames),
];

fn too_short(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let whole = station.config(0, b"").octets();
    (14..=23).try_for_each(|len| station.silence_to(&whole[..len]))
}

fn other_ethertype(bench: &mut Bench) -> Check {
    let mut frame = bench.station.config(0, b"").octets();
    frame[13] = 0xa3;
    bench.station.silence_to(&frame)
}

fn responses(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    for command in [0, 1, 2, 3, 4, 0x44, 0xf0, 0xff] {
        for first in [0x18, 0x1c, 0x08, 0x28] {
            let ask = station.request(command, vec![0; 36]);
            station.silence(&Ask { first, ..ask.clone() })?;
            station.silence(&Ask { first, ..ask.broadcast().at(0xffff, 0xff) })?;
        }
    }
    Ok(())
}

fn exact_address(bench: &mut Bench) -> Check {
    let ask = bench.station.config(0, b"");
    let reply = bench.station.ask(&ask)?;
    ensure!(reply.octet(14) == 0x18 && reply.target() == (7, 3), "{reply:?}");
    Ok(())
}

fn wildcards(bench: &mut Bench) -> Check {
    let expected = [
        ((0xffff, 0xff), vec![(7, 3), (7, 5), (9, 3), (65, 1)]),
        ((0xffff, 3), vec![(7, 3), (9, 3)]),
        ((7, 0xff), vec![(7, 3), (7, 5)]),
    ];
    for ((shelf, slot), targets) in expected {
        for broadcast in [false, true] {
            let mut ask = bench.station.config(0, b"").at(shelf, slot);
            if broadcast {
                ask = ask.broadcast();
            }
            let answers = bench.station.all(&ask, targets.len())?;
            let mut found: Vec<_> = answers.iter().map(Reply::target).collect();
            found.sort_unstable();
            ensure!(found == targets, "{shelf:x}.{slot:x} is answered by {found:?}");
        }
    }
    Ok(())
}

fn other_addresses(bench: &mut Bench) -> Check {
    for (shelf, slot) in [(7, 4), (8, 3), (0xffff, 4), (8, 0xff), (0x0703, 3), (0, 0)] {
        let ask = bench.station.config(0, b"").at(shelf, slot);
        bench.station.silence(&ask)?;
        bench.station.silence(&ask.broadcast())?;
    }
    Ok(())
}

fn own_address(bench: &mut Bench) -> Check {
    for command in [ATA, CONFIG] {
        let station = &mut bench.station;
        let ask = if command == ATA { station.identify() } else { station.config(0, b"") };
        let answers = station.all(&ask.at(0xffff, 3), 2)?;
        let from_us = answers.iter().filter(|answer| answer.0[16..19] == [0x00, 0x07, 0x03]);
        ensure!(from_us.count() == 1, "{answers:?}");
    }
    Ok(())
}

fn station_to_station(bench: &mut Bench) -> Check {
    let (ours, theirs) = (bench.station.mac.0, bench.station.server.0);
    for ask in [bench.station.config(0, b""), bench.station.identify(), bench.station.read(0, 1)] {
        let reply = bench.station.ask(&ask.broadcast())?;
        ensure!(reply.destination() == ours && reply.source() == theirs, "{reply:?}");
    }
    Ok(())
}

fn tags(bench: &mut Bench) -> Check {
    for tag in [0, 1, 0x8000_0001, 0xffff_ffff, 0x1234_5678, 0x18ae_0001] {
        let asks = [
            bench.station.config(0, b""),
            bench.station.identify(),
            bench.station.mask(0, &[]),
            bench.station.reserve(0, &[]),
        ];
        for ask in asks {
            let reply = bench.station.ask(&Ask { tag, ..ask })?;
            ensure!(reply.0[20..24] == tag.to_be_bytes(), "{reply:?}");
        }
    }
    Ok(())
}

fn other_versions(bench: &mut Bench) -> Check {
    for first in [0x00, 0x20, 0xf0] {
        let asks =
            [bench.station.config(0, b""), bench.station.read(0, 1), bench.station.mask(0, &[])];
        for ask in asks {
            let reply = bench.station.ask(&Ask { first, ..ask })?;
            ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(5), "{reply:?}");
        }
    }
    Ok(())
}

fn reserved_flags(bench: &mut Bench) -> Check {
    for first in [0x11, 0x12, 0x13] {
        let ask = Ask { first, ..bench.station.config(0, b"") };
        let reply = bench.station.ask(&ask)?;
        ensure!(reply.octet(14) == 0x18, "{reply:?}");
    }
    Ok(())
}

fn error_in_request(bench: &mut Bench) -> Check {
    for (first, error) in [(0x14, 0), (0x10, 7), (0x14, 7), (0x14, 255)] {
        for ask in [bench.station.config(0, b""), bench.station.identify()] {
            let reply = bench.station.ask(&Ask { first, error, ..ask })?;
            ensure!(reply.0[14..16] == [0x18, 0], "{reply:?}");
        }
    }
    Ok(())
}

fn foreign_station(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    for ask in [station.config(0, b""), station.identify(), station.read(0, 1)] {
        let everybody = Ask { to: NOBODY, ..ask.clone() }.at(0xffff, 0xff);
        bench.station.silence(&Ask { to: NOBODY, ..ask })?;
        bench.station.silence(&everybody)?;
    }
    Ok(())
}

fn unpadded(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let asks = [
        (station.config(0, b""), 32),
        (station.identify(), 36),
        (station.read(0, 16), 36),
        (station.mask(0, &[]), 28),
        (station.reserve(0, &[]), 26),
        (station.request(0x44, Vec::new()), 24),
    ];
    for (ask, len) in asks {
        ensure!(ask.octets().len() == len, "a frame of {} octets", ask.octets().len());
        station.ask(&ask)?;
    }
    Ok(())
}

/// Requests whose replies are all shorter than a frame may be.
fn with_short_replies(bench: &mut Bench) -> Vec<Ask> {
    let station = &mut bench.station;
    let data = vec![0xa5; 512];
    vec![
        station.config(0, b""),
        station.config(9, b""),
        station.write(64, &data),
        station.read(u64::MAX >> 16, 1),
        station.ata(0, 0x90, 0, 0),
        station.ata(0, 0xe5, 0, 0),
        station.mask(0, &[]),
        station.mask(9, &[]),
        station.reserve(0, &[]),
        station.reserve(9, &[]),
        station.request(0x44, vec![0xa5; 300]),
        Ask { first: 0x20, ..station.config(0, b"") },
    ]
}

fn padding(bench: &mut Bench) -> Check {
    for ask in with_short_replies(bench) {
        // That the padding is zero is checked of every reply.
        let reply = bench.station.ask(&ask)?;
        ensure!(reply.0.len() == 60, "{reply:?}");
    }
    Ok(())
}

fn no_leak(bench: &mut Bench) -> Check {
    for ask in with_short_replies(bench) {
        // Fills every buffer that there may be, in and out.
        let filler = bench.station.write(96, &[0xa5; 8192]);
        let back = bench.station.read(96, 16);
        let fill: Vec<_> = (0..40).flat_map(|_| [filler.octets(), back.octets()]).collect();
        bench.station.exchange(&fill, fill.len())?;
        let reply = bench.station.ask(&ask)?;
        ensure!(!reply.0[36..].contains(&0xa5), "{reply:?}");
    }
    Ok(())
}

fn unknown_command(bench: &mut Bench) -> Check {
    for command in [4, 0x44, 0xef] {
        for len in [0, 8, 500] {
            let ask = bench.station.request(command, vec![0xa5; len]);
            let reply = bench.station.ask(&ask)?;
            ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(1), "{reply:?}");
            ensure!(reply.octet(19) == command, "{reply:?}");
        }
    }
    Ok(())
}

fn vendor_command(bench: &mut Bench) -> Check {
    for command in [0xf0, 0xff] {
        let ask = bench.station.request(command, vec![0; 36]);
        let reply = bench.station.ask(&ask)?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(1), "{reply:?}");
    }
    Ok(())
}

fn short_arguments(bench: &mut Bench) -> Check {
    let station = &mut bench.station;
    let asks =
        [station.identify(), station.config(0, b""), station.mask(0, &[]), station.reserve(0, &[])];
    for whole in asks {
        let octets = whole.octets();
        for len in 24..octets.len() {
            station.silence_to(&octets[..len])?;
        }
        station.ask(&whole)?;
    }
    Ok(())
}

/// The number after `name` in the server's counters.
fn counted(counters: &str, name: &str) -> Option<u64> {
    let (_, rest) = counters.split_once(name)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn own_frames(bench: &mut Bench) -> Check {
    for _ in 0..100 {
        let asks = [bench.station.config(0, b""), bench.station.identify()];
        bench.station.burst(&asks)?; // and what is asked of the guard
    }
    let wanted = [Some(bench.station.frames_sent), Some(bench.station.responses_sent)];
    let server = bench.server();
    let mut counters = String::new();
    let mut found = [None, None];
    within(PATIENCE, || {
        counters = server.counters();
        found = [counted(&counters, "received: "), counted(&counters, "responses: ")];
        // The server publishes its counters ten times a second.
        found == wanted || within(Duration::from_millis(50), || false)
    });
    ensure!(found == wanted, "{found:?} frames and responses, not {wanted:?}: {counters}");
    Ok(())
}
