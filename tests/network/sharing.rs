//! Items 75 to 87: MAC mask lists and reservations.

use aoe_server::protocol::MacAddr;

use super::Bench;
use super::report::{Check, Item, ensure, item};
use super::station::{OTHER, Reply, Station};

/// Directives.
const NOTHING: u8 = 0;
const ADD: u8 = 1;
const DELETE: u8 = 2;

pub(crate) const ITEMS: &[Item<Bench>] = &[
    item(75, "an empty mask list reads 00 00 00 00", empty_mask),
    item(76, "a station is added once", add),
    item(77, "a bad directive stops with mask error 2", bad_directive),
    item(78, "an unknown mask command is refused with error 2", unknown_mask_command),
    item(79, "a full list stops with mask error 3, keeping what came before", full_list),
    item(80, "who is not listed hears nothing", unlisted),
    item(81, "first, middle and last entries can be deleted", delete),
    item(82, "a directive count that lies is refused", lying_directives),
    item(83, "a free target can be reserved", reserve),
    item(84, "others than the holder cannot read, write or flush", held),
    item(85, "the holder changes and releases a reservation", holder),
    item(86, "force set takes a reservation over", force),
    item(87, "bad reservations are refused with error 2", bad_reservations),
];

/// The station with number `index` of many.
fn one_of_many(index: u8) -> MacAddr {
    MacAddr([0x02, 0xbe, 0, 0, 0, index])
}

fn mask(bench: &mut Bench, act: u8, directives: &[(u8, MacAddr)]) -> Result<Reply, String> {
    let ask = bench.station.mask(act, directives);
    bench.station.ask(&ask)
}

fn reservation(bench: &mut Bench, act: u8, stations: &[MacAddr]) -> Result<Reply, String> {
    let ask = bench.station.reserve(act, stations);
    bench.station.ask(&ask)
}

/// Checks that the mask list is this, as an edit or a read tells it.
fn lists(reply: &Reply, stations: &[MacAddr]) -> Check {
    let count = u8::try_from(stations.len()).expect("255 at most");
    ensure!(reply.octet(14) == 0x18, "{reply:?}");
    ensure!(reply.octet(24) == 0 && reply.octet(26) == 0, "{reply:?}");
    ensure!(reply.octet(27) == count, "{} are listed, not {count}", reply.octet(27));
    ensure!(reply.stations() == stations, "{:?} are listed", reply.stations());
    let directives = reply.0[28..].chunks(8).take(stations.len());
    ensure!(directives.into_iter().all(|one| one[..2] == [0, NOTHING]), "{reply:?}");
    Ok(())
}

/// Checks that those hold the target.
fn holds(reply: &Reply, act: u8, stations: &[MacAddr]) -> Check {
    let count = u8::try_from(stations.len()).expect("255 at most");
    ensure!(reply.octet(14) == 0x18 && reply.0[24..26] == [act, count], "{reply:?}");
    ensure!(reply.stations() == stations, "held by {:?}", reply.stations());
    Ok(())
}

fn empty_mask(bench: &mut Bench) -> Check {
    let reply = mask(bench, 0, &[])?;
    ensure!(reply.octet(14) == 0x18 && reply.0[24..28] == [0; 4], "{reply:?}");
    Ok(())
}

fn add(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    for _ in 0..2 {
        let reply = mask(bench, 1, &[(ADD, us)])?;
        ensure!(reply.0[24..28] == [0, 1, 0, 1], "{reply:?}");
        lists(&reply, &[us])?;
    }
    lists(&mask(bench, 0, &[])?, &[us])
}

fn bad_directive(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    let reply = mask(bench, 1, &[(NOTHING, OTHER), (7, OTHER), (ADD, OTHER)])?;
    ensure!(reply.octet(14) == 0x18 && reply.0[24..28] == [0, 1, 2, 1], "{reply:?}");
    lists(&mask(bench, 0, &[])?, &[])?;
    // What comes before the bad one stays done.
    let reply = mask(bench, 1, &[(ADD, us), (ADD, OTHER), (9, OTHER)])?;
    ensure!(reply.0[24..28] == [0, 1, 2, 2], "{reply:?}");
    lists(&mask(bench, 0, &[])?, &[us, OTHER])
}

fn unknown_mask_command(bench: &mut Bench) -> Check {
    for act in [2, 255] {
        let reply = mask(bench, act, &[(ADD, OTHER)])?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(2), "{reply:?}");
    }
    lists(&mask(bench, 0, &[])?, &[])
}

fn full_list(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    let mut wanted = vec![us];
    wanted.extend((0..253).map(one_of_many));
    let directives: Vec<_> = wanted.iter().map(|mac| (ADD, *mac)).collect();
    lists(&mask(bench, 1, &directives)?, &wanted)?;
    let reply = mask(bench, 1, &[(ADD, OTHER), (ADD, one_of_many(254))])?;
    ensure!(reply.octet(14) == 0x18 && reply.0[24..28] == [0, 1, 3, 1], "{reply:?}");
    wanted.push(OTHER);
    lists(&mask(bench, 0, &[])?, &wanted)?;
    // As many directives as one octet can count once stopped the server.
    let directives: Vec<_> = wanted.iter().rev().map(|mac| (DELETE, *mac)).collect();
    ensure!(directives.len() == 255, "{} directives", directives.len());
    lists(&mask(bench, 1, &directives)?, &[])
}

/// A harmless request of each command.
fn requests(station: &mut Station) -> [super::station::Ask; 5] {
    [
        station.read(0, 1),
        station.identify(),
        station.config(0, b""),
        station.mask(0, &[]),
        station.reserve(0, &[]),
    ]
}

fn unlisted(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    mask(bench, 1, &[(ADD, us)])?;
    for ask in requests(&mut bench.station) {
        bench.station.silence(&ask.clone().from(OTHER))?;
        bench.station.silence(&ask.clone().from(OTHER).broadcast())?;
        bench.station.ask(&ask)?;
    }
    // The other target has no list, and answers to both.
    let elsewhere = bench.station.config(0, b"").at(0xffff, 3).from(OTHER);
    let reply = bench.station.ask(&elsewhere)?;
    ensure!(reply.target() == (9, 3), "{reply:?}");
    mask(bench, 1, &[(ADD, OTHER)])?;
    for ask in requests(&mut bench.station) {
        bench.station.ask(&ask.from(OTHER))?;
    }
    Ok(())
}

fn delete(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    let mut wanted = vec![one_of_many(1), one_of_many(2), us, one_of_many(3), one_of_many(4)];
    let directives: Vec<_> = wanted.iter().map(|mac| (ADD, *mac)).collect();
    mask(bench, 1, &directives)?;
    for gone in [one_of_many(1), one_of_many(3), one_of_many(4)] {
        wanted.retain(|mac| *mac != gone);
        lists(&mask(bench, 1, &[(DELETE, gone)])?, &wanted)?;
        lists(&mask(bench, 0, &[])?, &wanted)?;
    }
    // One that is not there is gone already.
    lists(&mask(bench, 1, &[(DELETE, OTHER)])?, &wanted)
}

fn lying_directives(bench: &mut Bench) -> Check {
    for count in [2, 255] {
        let us = bench.station.mac;
        let lie = bench.station.mask(1, &[(ADD, us)]).with(27, count);
        let reply = bench.station.ask(&lie)?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(2), "{reply:?}");
    }
    lists(&mask(bench, 0, &[])?, &[])
}

fn reserve(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    holds(&reservation(bench, 0, &[])?, 0, &[])?;
    holds(&reservation(bench, 1, &[us])?, 1, &[us])?;
    holds(&reservation(bench, 0, &[])?, 0, &[us])
}

fn held(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    reservation(bench, 1, &[us])?;
    let station = &mut bench.station;
    let data = vec![0x11; 512];
    let refused = [
        station.read(0, 1),
        station.write(0, &data),
        station.ata(0, 0xe7, 0, 0),
        station.ata(0, 0xea, 0, 0),
    ];
    for ask in refused {
        let reply = station.ask(&ask.clone().from(OTHER))?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(6), "{reply:?}");
        ensure!(station.ask(&ask)?.succeeded(), "the holder is refused too");
    }
    let [_, allowed @ ..] = requests(station);
    for ask in allowed {
        let reply = station.ask(&ask.from(OTHER))?;
        ensure!(reply.octet(14) == 0x18, "{reply:?}");
    }
    Ok(())
}

fn holder(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    reservation(bench, 1, &[us])?;
    let ask = bench.station.reserve(1, &[OTHER]).from(OTHER);
    let reply = bench.station.ask(&ask)?;
    ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(6), "{reply:?}");
    ensure!(reply.stations() == [us], "{reply:?}");
    holds(&reservation(bench, 1, &[OTHER, us])?, 1, &[OTHER, us])?;
    let ask = bench.station.reserve(1, &[]).from(OTHER);
    holds(&bench.station.ask(&ask)?, 1, &[])?;
    holds(&reservation(bench, 0, &[])?, 0, &[])
}

fn force(bench: &mut Bench) -> Check {
    let us = bench.station.mac;
    reservation(bench, 1, &[us])?;
    let ask = bench.station.reserve(2, &[OTHER]).from(OTHER);
    holds(&bench.station.ask(&ask)?, 2, &[OTHER])?;
    let ask = bench.station.read(0, 1);
    let reply = bench.station.ask(&ask)?;
    ensure!(reply.refusal() == Some(6), "{reply:?}");
    holds(&reservation(bench, 2, &[])?, 2, &[])
}

fn bad_reservations(bench: &mut Bench) -> Check {
    for act in [1, 2] {
        let lie = bench.station.reserve(act, &[OTHER]).with(25, 5);
        let reply = bench.station.ask(&lie)?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(2), "{reply:?}");
    }
    for act in [3, 255] {
        let reply = reservation(bench, act, &[OTHER])?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(2), "{reply:?}");
    }
    holds(&reservation(bench, 0, &[])?, 0, &[])
}
