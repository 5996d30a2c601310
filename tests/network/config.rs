//! Items 21 to 31 and 33: config queries and config strings.

use super::Bench;
use super::report::{Check, Item, ensure, item};
use super::station::{CONFIG, Reply};

/// The verbs.
const READ: u8 = 0;
const TEST: u8 = 1;
const PREFIX: u8 = 2;
const SET: u8 = 3;
const FORCE: u8 = 4;

pub(crate) const ITEMS: &[Item<Bench>] = &[
    item(21, "a query tells buffer count and sector count", query),
    item(22, "reading ignores length and data", read_ignores_string),
    item(23, "test answers only to the very string", test),
    item(24, "prefix answers only to a prefix", prefix),
    item(25, "an empty test answers to an empty string", empty_test),
    item(26, "set stores where there is none, and refuses with error 4", set),
    item(27, "force set replaces and clears", force_set),
    item(28, "unknown verbs are refused with error 2", unknown_verbs),
    item(29, "1024 octets are kept, 1025 refused", longest),
    item(30, "a length that lies is refused and changes nothing", lying_length),
    item(31, "the version beside the verb is ignored", inner_version),
    item(33, "targets have strings of their own", apart),
];

fn string(bench: &mut Bench) -> Result<Vec<u8>, String> {
    let ask = bench.station.config(READ, b"");
    bench.station.ask(&ask).map(|reply| reply.string().to_vec())
}

fn act(bench: &mut Bench, verb: u8, string: &[u8]) -> Result<Reply, String> {
    let ask = bench.station.config(verb, string);
    bench.station.ask(&ask)
}

fn silent(bench: &mut Bench, verb: u8, string: &[u8]) -> Check {
    let ask = bench.station.config(verb, string);
    bench.station.silence(&ask)
}

/// Checks that an answer acknowledges `verb` and carries `string`.
fn acknowledges(reply: &Reply, verb: u8, string: &[u8]) -> Check {
    ensure!(reply.octet(14) == 0x18 && reply.octet(29) == 0x10 | verb, "{reply:?}");
    ensure!(reply.string() == string, "{reply:?} does not carry {string:02x?}");
    Ok(())
}

fn query(bench: &mut Bench) -> Check {
    let reply = act(bench, READ, b"")?;
    ensure!(reply.offer() == (64, 16), "offers {:?}", reply.offer());
    acknowledges(&reply, READ, b"")
}

fn read_ignores_string(bench: &mut Bench) -> Check {
    act(bench, FORCE, b"kept")?;
    acknowledges(&act(bench, READ, &[0xed; 1024])?, READ, b"kept")?;
    let lie = bench.station.config(READ, b"").with(30, 0x13).with(31, 0x88);
    acknowledges(&bench.station.ask(&lie)?, READ, b"kept")?;
    ensure!(string(bench)? == b"kept", "the string has changed");
    Ok(())
}

fn test(bench: &mut Bench) -> Check {
    act(bench, FORCE, b"hello")?;
    acknowledges(&act(bench, TEST, b"hello")?, TEST, b"hello")?;
    for other in [&b"hellx"[..], b"hello!", b"hell", b"", b"Hello"] {
        silent(bench, TEST, other)?;
    }
    // What comes after the string does not count.
    let ask = bench.station.config(TEST, b"hello").trailing(0xa5, 100);
    acknowledges(&bench.station.ask(&ask)?, TEST, b"hello")
}

fn prefix(bench: &mut Bench) -> Check {
    act(bench, FORCE, b"hello")?;
    for start in [&b"hell"[..], b"hello", b"h", b""] {
        acknowledges(&act(bench, PREFIX, start)?, PREFIX, b"hello")?;
    }
    for other in [&b"hellox"[..], b"ello", b"H"] {
        silent(bench, PREFIX, other)?;
    }
    Ok(())
}

fn empty_test(bench: &mut Bench) -> Check {
    acknowledges(&act(bench, TEST, b"")?, TEST, b"")?;
    acknowledges(&act(bench, PREFIX, b"")?, PREFIX, b"")?;
    silent(bench, TEST, b"x")
}

fn set(bench: &mut Bench) -> Check {
    acknowledges(&act(bench, SET, b"mine")?, SET, b"mine")?;
    acknowledges(&act(bench, SET, b"mine")?, SET, b"mine")?;
    for other in [&b"yours"[..], b"", b"min"] {
        let reply = act(bench, SET, other)?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(4), "{reply:?}");
        ensure!(reply.string() == b"mine", "{reply:?}");
    }
    ensure!(string(bench)? == b"mine", "the string has changed");
    Ok(())
}

fn force_set(bench: &mut Bench) -> Check {
    for text in [&b"one"[..], b"another", b"\0\xff\0", b""] {
        acknowledges(&act(bench, FORCE, text)?, FORCE, text)?;
        ensure!(string(bench)? == text, "the string is not {text:02x?}");
    }
    Ok(())
}

fn unknown_verbs(bench: &mut Bench) -> Check {
    for verb in [5, 15] {
        let reply = act(bench, verb, b"what")?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(2), "{reply:?}");
    }
    Ok(())
}

fn longest(bench: &mut Bench) -> Check {
    let text: Vec<u8> = (0..=u8::MAX).rev().cycle().take(1024).collect();
    let reply = act(bench, FORCE, &text)?;
    ensure!(reply.0.len() == 1056, "{reply:?}");
    acknowledges(&reply, FORCE, &text)?;
    acknowledges(&act(bench, READ, b"")?, READ, &text)?;
    acknowledges(&act(bench, TEST, &text)?, TEST, &text)?;
    let reply = act(bench, FORCE, &[0x55; 1025])?;
    ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(2), "{reply:?}");
    ensure!(string(bench)? == text, "the string has changed");
    Ok(())
}

fn lying_length(bench: &mut Bench) -> Check {
    act(bench, FORCE, b"kept")?;
    for verb in [TEST, PREFIX, SET, FORCE] {
        let lie = bench.station.config(verb, b"xy").with(31, 40);
        ensure!(lie.octets().len() == 34, "a frame of {} octets", lie.octets().len());
        let reply = bench.station.ask(&lie)?;
        ensure!(reply.octet(14) == 0x1c && reply.refusal() == Some(2), "{reply:?}");
        // To all, the same would be answered by each target on the segment.
        bench.station.silence(&lie.broadcast())?;
    }
    ensure!(string(bench)? == b"kept", "the string has changed");
    Ok(())
}

fn inner_version(bench: &mut Bench) -> Check {
    for version in [0x00, 0x10, 0xf0] {
        acknowledges(&act(bench, version | READ, b"")?, READ, b"")?;
        acknowledges(&act(bench, version | FORCE, b"label")?, FORCE, b"label")?;
        acknowledges(&act(bench, version | FORCE, b"")?, FORCE, b"")?;
    }
    Ok(())
}

fn apart(bench: &mut Bench) -> Check {
    for (shelf, text) in [(7, &b"seven"[..]), (9, b"nine")] {
        let ask = bench.station.config(FORCE, text).at(shelf, 3);
        acknowledges(&bench.station.ask(&ask)?, FORCE, text)?;
    }
    let ask = bench.station.config(READ, b"").at(0xffff, 3);
    for reply in bench.station.all(&ask, 2)? {
        let wanted: &[u8] = if reply.target().0 == 7 { b"seven" } else { b"nine" };
        ensure!(reply.octet(19) == CONFIG && reply.string() == wanted, "{reply:?}");
    }
    Ok(())
}
