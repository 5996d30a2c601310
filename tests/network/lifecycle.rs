//! Items 32, 34 to 36, 73, 88 and 93: what outlives what, and what is announced when.

use super::Bench;
use super::report::{Check, Item, ensure, item};
use super::station::{OTHER, Reply, pattern};
use crate::common::net::{MAC_B, PATIENCE, within};

pub(crate) const ITEMS: &[Item<Bench>] = &[
    item(35, "each target is announced once at the start", start),
    item(93, "the sector count is a multiple of 8 where 8 fit", multiple_of_8),
    item(34, "a change of the MTU changes the sector count", mtu),
    item(73, "an interface that goes down and up again is served and told so", down_and_up),
    item(32, "a config string survives a restart", string_survives),
    item(88, "mask list and reservation survive a restart", lists_survive),
    item(36, "with a mask list only those on it are told", masked_start),
];

fn announcements(frames: &[Reply], target: (u16, u8)) -> Vec<&Reply> {
    let ours = |frame: &&Reply| frame.is_announcement() && frame.target() == target;
    frames.iter().filter(ours).collect()
}

fn start(bench: &mut Bench) -> Check {
    for target in [(7, 3), (7, 5), (9, 3), (65, 1)] {
        let told = announcements(&bench.heard_at_start, target);
        let [one] = told[..] else { return Err(format!("{target:?}: {told:?}")) };
        ensure!(one.destination() == [0xff; 6], "{one:?}");
        ensure!(one.octet(14) == 0x18 && one.octet(15) == 0, "{one:?}");
        ensure!(one.tag() == 0 && one.octet(29) == 0x10, "{one:?}");
        ensure!(one.offer() == (64, 16) && one.0.len() == 60, "{one:?}");
    }
    Ok(())
}

/// Waits until a query is answered with this sector count.
fn offers(bench: &mut Bench, sectors: u8) -> Check {
    let mut last = None;
    let offered = within(PATIENCE, || {
        let ask = bench.station.config(0, b"");
        last = Some(bench.station.ask(&ask).map(|reply| reply.offer()));
        last == Some(Ok((64, sectors)))
    });
    ensure!(offered, "{last:?}, not {sectors} sectors");
    Ok(())
}

fn multiple_of_8(bench: &mut Bench) -> Check {
    for (mtu, sectors) in [(4131, 7), (4132, 8), (4643, 8), (8227, 8), (8228, 16), (9000, 16)] {
        bench.net.set_mtu(mtu);
        offers(bench, sectors)?;
    }
    Ok(())
}

fn mtu(bench: &mut Bench) -> Check {
    for (mtu, sectors) in [(1500, 2), (9000, 16)] {
        bench.station.asides.clear();
        bench.net.set_mtu(mtu);
        bench.station.announcement(|told| told.target() == (7, 3) && told.offer().1 == sectors)?;
        offers(bench, sectors)?;
        let station = &mut bench.station;
        let most = station.read(0, sectors);
        ensure!(station.ask(&most)?.succeeded(), "{sectors} sectors cannot be read");
        let more = station.read(0, sectors + 1);
        ensure!(station.ask(&more)?.aborted(), "more than {sectors} sectors can be read");
    }
    Ok(())
}

/// How often the server has seen its link go down.
fn downs(bench: &Bench) -> usize {
    bench.server().log().matches(": down").count()
}

fn down_and_up(bench: &mut Bench) -> Check {
    let data = pattern(73, 16);
    let ask = bench.station.write(3000, &data);
    ensure!(bench.station.ask(&ask)?.succeeded(), "cannot write");
    for name in [bench.net.a, bench.net.b] {
        // Some of these are lost, with their replies.
        let reads: Vec<_> = (0..32).map(|_| bench.station.read(3000, 16).octets()).collect();
        bench.station.send(&reads)?;
        let before = downs(bench);
        bench.net.down(name);
        let noticed = within(PATIENCE, || downs(bench) > before);
        ensure!(noticed, "that {name} is down goes unnoticed:\n{}", bench.server().log());
        bench.station.asides.clear();
        bench.net.up(name);
        bench.station.announcement(|told| {
            told.target() == (7, 3) && told.destination() == [0xff; 6] && told.offer() == (64, 16)
        })?;
        let read = bench.station.read(3000, 16);
        let reply = bench.station.persist(&read)?;
        ensure!(reply.succeeded() && reply.data() == data, "after {name} was down: {reply:?}");
        let server = bench.server.as_mut().ok_or("no server")?;
        ensure!(server.is_running(), "the server has ended");
    }
    Ok(())
}

fn string_survives(bench: &mut Bench) -> Check {
    let text: Vec<u8> = (0..=255).cycle().take(1024).collect();
    let ask = bench.station.config(4, &text);
    bench.station.ask(&ask)?;
    bench.restart()?;
    let ask = bench.station.config(0, b"");
    let reply = bench.station.ask(&ask)?;
    ensure!(reply.string() == text, "{reply:?}");
    // It is in the announcement, too.
    let told = announcements(&bench.heard_at_start, (7, 3));
    ensure!(told.iter().any(|one| one.string() == text), "{told:?}");
    Ok(())
}

fn lists_survive(bench: &mut Bench) -> Check {
    let ask = bench.station.mask(1, &[(1, MAC_B), (1, OTHER)]);
    bench.station.ask(&ask)?;
    let ask = bench.station.reserve(1, &[MAC_B]);
    bench.station.ask(&ask)?;
    bench.restart()?;
    let ask = bench.station.mask(0, &[]);
    let listed = bench.station.ask(&ask)?.stations();
    ensure!(listed == [MAC_B, OTHER], "the mask list is {listed:?}");
    let ask = bench.station.reserve(0, &[]);
    let holders = bench.station.ask(&ask)?.stations();
    ensure!(holders == [MAC_B], "held by {holders:?}");
    let ask = bench.station.read(0, 1).from(OTHER);
    let reply = bench.station.ask(&ask)?;
    ensure!(reply.refusal() == Some(6), "{reply:?}");
    Ok(())
}

fn masked_start(bench: &mut Bench) -> Check {
    let ask = bench.station.mask(1, &[(1, OTHER), (1, MAC_B)]);
    bench.station.ask(&ask)?;
    bench.restart()?;
    let told = announcements(&bench.heard_at_start, (7, 3));
    let mut stations: Vec<_> = told.iter().map(|one| one.destination()).collect();
    stations.sort_unstable();
    ensure!(stations == [MAC_B.0, OTHER.0], "{told:?}");
    let told = announcements(&bench.heard_at_start, (9, 3));
    ensure!(told.len() == 1 && told[0].destination() == [0xff; 6], "{told:?}");
    Ok(())
}
