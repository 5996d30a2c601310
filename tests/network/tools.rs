//! Other people's tools against the server, and its own commands.

use std::fs;
use std::path::Path;

use aoe_server::link::LinkKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::station::pattern;
use super::{PEER, SERVED};
use crate::common::capture::{Ran, Recorder, Session, installed, run};
use crate::common::net::{MAC_A, MAC_B, TestNet};
use crate::common::server::ServerProcess;

/// A server with a disk of 8 MiB at e7.3.
fn serve(kind: LinkKind) -> ServerProcess {
    ServerProcess::start(&format!(
        r#"
        [server]
        interface = "{SERVED}"
        link = "{kind}"
        state_dir = "{{dir}}/state"
        probe_ms = 60

        [[target]]
        shelf = 7
        slot = 3
        backend = "file"
        path = "{{dir}}/disk.img"
        size = "8 MiB"
        serial = "TOOLS-0001"
        "#
    ))
}

fn aoeping(args: &[&str]) -> Ran {
    run("aoeping", args)
}

/// The octets of a dump in hexadecimal: what follows the line `title`.
fn dumped(out: &str, title: &str) -> Vec<u8> {
    let lines = out.lines().skip_while(|line| *line != title).skip(1);
    let octets = |line: &str| -> Option<Vec<u8>> {
        line.split_whitespace().map(|octet| u8::from_str_radix(octet, 16).ok()).collect()
    };
    lines.map_while(octets).flatten().collect()
}

fn aoeping_gets_answers(kind: LinkKind) {
    if !installed("aoeping") {
        return;
    }
    let Some(_net) = TestNet::new(1500) else { return };
    let mut server = serve(kind);
    let plain = aoeping(&["7", "3", PEER]);
    assert_eq!(plain.code, Some(0), "{}", plain.error);

    let tagged = aoeping(&["-v", "-t", "77", "-s", "10", "7", "3", PEER]);
    assert_eq!(tagged.code, Some(0), "{}", tagged.error);
    assert!(tagged.out.contains("tag: 8000004d"), "{}", tagged.out);
    let mac = MAC_A.to_string().replace(':', "");
    assert!(tagged.out.contains(&format!("found e7.3 with mac {mac}")), "{}", tagged.out);
    let reply = dumped(&tagged.out, "config query response:");
    assert_eq!(reply.len(), 60, "{}", tagged.out);
    assert_eq!(reply[12..24], [0x88, 0xa2, 0x18, 0, 0, 7, 3, 1, 0x80, 0, 0, 0x4d]);
    assert_eq!(reply[24..32], [0, 64, 0, 1, 2, 0x10, 0, 0]);

    let page = aoeping(&["-i", "-s", "10", "7", "3", PEER]);
    assert_eq!(page.code, Some(0), "{}", page.error);
    let page = dumped(&page.out, "device identify response:");
    assert_eq!(page.len(), 512);
    assert_eq!(page[120..124], 16_384_u32.to_le_bytes());

    let named = aoeping(&["-I", "-s", "10", "7", "3", PEER]);
    assert_eq!(named.code, Some(0), "{}", named.error);
    for line in ["serial_number: TOOLS-0001 ", "model: aoe-server file ", "firmware_rev: "] {
        assert!(named.out.contains(line), "no \"{line}\" in:\n{}", named.out);
    }

    let smart = aoeping(&["-S", "enable", "-s", "10", "7", "3", PEER]);
    assert_ne!(smart.code, Some(0));
    assert!(smart.error.contains("e7.3 does not support SMART"), "{}", smart.error);

    // Nobody is there, and it ends by its own alarm.
    let nobody = aoeping(&["-s", "1", "7", "4", PEER]);
    assert_ne!(nobody.code, Some(0));
    assert!(server.terminate().success());
}

#[test]
fn aoeping_gets_answers_over_pcap() {
    aoeping_gets_answers(LinkKind::Pcap);
}

#[test]
fn aoeping_gets_answers_over_af_packet() {
    aoeping_gets_answers(LinkKind::AfPacket);
}

fn aoecfg_reads_and_sets(kind: LinkKind) {
    if !installed("aoecfg") {
        return;
    }
    let Some(_net) = TestNet::new(1500) else { return };
    let mut server = serve(kind);
    // It exits with 0 whatever happens, so that only what it prints tells. A shelf and a slot
    // without a time limit make it end with the first reply; silence takes one.
    let say = |verb: &str, string: &str, answered: bool| {
        let mut args = vec!["-c", verb, "-s", string];
        if !answered {
            args.extend(["-t", "1"]);
        }
        args.extend(["7", "3", PEER]);
        run("aoecfg", &args).out
    };
    assert_eq!(say("read", "", true), "\n");
    assert_eq!(say("set", "hello", true), "hello\n");
    assert_eq!(say("set", "hello", true), "hello\n");
    assert_eq!(say("set", "other", true), "*badcfg*\n");
    assert_eq!(say("test", "hello", true), "hello\n");
    assert_eq!(say("test", "hellx", false), "");
    assert_eq!(say("prefix", "hell", true), "hello\n");
    assert_eq!(say("prefix", "ello", false), "");
    assert_eq!(say("fset", "other", true), "other\n");
    let long = "x".repeat(1000); // it crashes a little above that
    assert_eq!(say("fset", &long, true), format!("{long}\n"));
    assert_eq!(say("fset", "label", true), "label\n");
    assert_eq!(say("read", "", true), "label\n");
    // Everybody.
    assert_eq!(run("aoecfg", &["-t", "1", PEER]).out, "7.3\tlabel\n");
    assert!(server.terminate().success());
}

#[test]
fn aoecfg_reads_and_sets_over_pcap() {
    aoecfg_reads_and_sets(LinkKind::Pcap);
}

#[test]
fn aoecfg_reads_and_sets_over_af_packet() {
    aoecfg_reads_and_sets(LinkKind::AfPacket);
}

/// It tries IDENTIFY with every payload that the MTU allows, up to 17 sectors.
fn aoe_sancheck_finds_no_fault(kind: LinkKind, mtu: usize, payload: &str) {
    if !installed("aoe-sancheck") {
        return;
    }
    let Some(_net) = TestNet::new(mtu) else { return };
    let mut server = serve(kind);
    let out = run("aoe-sancheck", &[]).out;
    let mut lines = out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Target, stations, payload, interfaces; and no complaint below.
    assert!(lines.any(|words| words == ["e7.3", "1", payload, PEER]), "{out}");
    assert!(lines.all(|words| words.is_empty()), "{out}");
    assert!(!out.contains("only capable of"), "{out}");
    assert!(server.terminate().success());
}

#[test]
fn aoe_sancheck_finds_no_fault_over_pcap() {
    aoe_sancheck_finds_no_fault(LinkKind::Pcap, 1500, "1024");
}

#[test]
fn aoe_sancheck_finds_no_fault_over_af_packet() {
    aoe_sancheck_finds_no_fault(LinkKind::AfPacket, 9000, "8192");
}

/// Runs one of our own commands, given in one line.
fn own(line: &str) -> Ran {
    let args: Vec<_> = line.split(' ').collect();
    run(env!("CARGO_BIN_EXE_aoe-server"), &args)
}

/// The JSON objects that a command prints, one a line.
fn objects(ran: &Ran) -> Vec<Value> {
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.error);
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn the_commands_tell_what_is_there(kind: LinkKind) {
    let Some(_net) = TestNet::new(9000) else { return };
    let mut server = serve(kind);
    let mac = format!("{MAC_A}");

    let found = objects(&own(&format!("discover -i {PEER} --json")));
    let [target] = &found[..] else { panic!("{found:?}") };
    assert_eq!(target["target"], "e7.3");
    assert_eq!((&target["shelf"], &target["slot"]), (&7.into(), &3.into()));
    assert_eq!(target["mac"], mac.as_str());
    assert_eq!((&target["buffer_count"], &target["sector_count"]), (&64.into(), &16.into()));
    assert_eq!(target["disk"]["size_sectors"], 16_384);
    assert_eq!(target["disk"]["serial"], "TOOLS-0001");
    assert_eq!(target["disk"]["checksum_holds"], true);
    assert_eq!(target["other_stations"], 0);

    for kind in ["", " --ata"] {
        let pongs =
            objects(&own(&format!("ping -i {PEER} e7.3 -c 3 --interval-ms 10 --json{kind}")));
        let [one, _, _, summary] = &pongs[..] else { panic!("{pongs:?}") };
        assert_eq!((&one["mac"], &one["sequence"]), (&mac.as_str().into(), &0.into()));
        assert!(one["round_trip_us"].as_f64().is_some_and(|took| took > 0.0), "{one}");
        assert_eq!((&summary["sent"], &summary["received"]), (&3.into(), &3.into()));
        assert_eq!((&summary["lost"], &summary["duplicates"]), (&0.into(), &0.into()));
    }

    let stat = objects(&own(&format!("stat -i {PEER} e7.3 --json")));
    assert_eq!(stat[0]["stations"], json!([mac]));
    assert_eq!(stat[0]["disk"], target["disk"]);
    assert_eq!((&stat[0]["mask"], &stat[0]["reservation"]), (&json!([]), &json!([])));

    settings_by_command();
    nobody_there();
    assert!(server.terminate().success());
}

/// Changes all that `config` can change, and reads it back.
fn settings_by_command() {
    let config = |verb: &str, more: &str| {
        let space = if more.is_empty() { "" } else { " " };
        own(&format!("config {verb} -i {PEER} e7.3 --json{space}{more}"))
    };
    let string = |verb, more| objects(&config(verb, more))[0]["config_string"].clone();
    assert_eq!(string("get", ""), "");
    assert_eq!(string("set", "mine"), "mine");
    assert_eq!(config("set", "yours").code, Some(1));
    assert_eq!(string("force-set", "yours"), "yours");
    assert_eq!(string("get", ""), "yours");
    assert_eq!(objects(&config("test", "yours"))[0]["matches"], true);
    assert_eq!(objects(&config("test", "you --prefix"))[0]["matches"], true);
    let no = config("test", "mine");
    assert_eq!((no.code, no.out.contains("false")), (Some(1), true), "{}", no.out);
    let ours = format!("{MAC_B}");
    let mask = |more: &str| objects(&config("mask", more))[0]["mask"].clone();
    assert_eq!(mask(&format!("--add {ours}")), json!([ours]));
    assert_eq!(mask(""), json!([ours]));
    assert_eq!(mask(&format!("--remove {ours}")), json!([]));
    let reserve = |more: &str| objects(&config("reserve", more))[0]["reservation"].clone();
    assert_eq!(reserve("--own"), json!([ours]));
    assert_eq!(reserve(""), json!([ours]));
    assert_eq!(reserve("--release"), json!([]));
}

/// Exit codes: 1 for nothing found, 2 for could not tell.
fn nobody_there() {
    let lines = [
        format!("discover -i {PEER} e9.* --timeout-ms 100"),
        format!("discover -i {PEER} e9.* --timeout-ms 100 --json"),
        format!("ping -i {PEER} e9.9 -c 1 --timeout-ms 100"),
        format!("stat -i {PEER} e9.9 --timeout-ms 100"),
        format!("config get -i {PEER} e9.9 --timeout-ms 100"),
    ];
    for line in &lines {
        let ran = own(line);
        assert_eq!(ran.code, Some(1), "{line}: {}{}", ran.out, ran.error);
        let nowhere = line.replace(PEER, "aoe-zz");
        let ran = own(&nowhere);
        assert_eq!(ran.code, Some(2), "{nowhere}: {}{}", ran.out, ran.error);
        assert!(ran.error.contains("there are: "), "{nowhere}: {}", ran.error);
    }
}

#[test]
fn the_commands_tell_what_is_there_over_pcap() {
    the_commands_tell_what_is_there(LinkKind::Pcap);
}

#[test]
fn the_commands_tell_what_is_there_over_af_packet() {
    the_commands_tell_what_is_there(LinkKind::AfPacket);
}

fn tshark_finds_a_whole_conversation(kind: LinkKind) {
    if !installed("tshark") {
        return;
    }
    let Some(_net) = TestNet::new(9000) else { return };
    let mut server = serve(kind);
    let directory = TempDir::new().unwrap();
    let place = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (capture, source, back) = (place("session.pcap"), place("source"), place("back"));
    let data = pattern(7, 512);
    fs::write(&source, &data).unwrap();

    let recorder = Recorder::start(PEER, Path::new(&capture));
    // By pcap, since what leaves an af-packet link is not seen on its own machine.
    let at = format!("-i {PEER} --link pcap");
    let lines = [
        format!("discover {at}"),
        format!("stat {at} e7.3"),
        format!("write {at} e7.3 {source}"),
        format!("read {at} e7.3 {back} --sectors 512"),
        format!("config force-set {at} e7.3 label"),
        format!("ping {at} e7.3 --ata -c 3 --interval-ms 10"),
    ];
    for line in lines {
        let ran = own(&line);
        assert_eq!(ran.code, Some(0), "{line}: {}{}", ran.out, ran.error);
    }
    let missed = recorder.end();
    assert!(fs::read(&back).unwrap() == data, "other data came back");

    let session = Session::read(Path::new(&capture), missed);
    // 256 KiB there and back, 8 KiB at a time.
    assert!(session.times_us.len() >= 64, "only {} ATA requests", session.times_us.len());
    assert!(session.configs >= 3, "only {} config replies", session.configs);
    println!("{kind}: {session}");
    assert!(server.terminate().success());
}

#[test]
fn tshark_finds_a_whole_conversation_over_pcap() {
    tshark_finds_a_whole_conversation(LinkKind::Pcap);
}

#[test]
fn tshark_finds_a_whole_conversation_over_af_packet() {
    tshark_finds_a_whole_conversation(LinkKind::AfPacket);
}
