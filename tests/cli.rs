//! The command line of the real program: what it prints, and how it ends. 0 is yes, 1 is no, 2 is
//! that it could not tell.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use aoe_server::link::savefile::{Reader, Resolution, Writer};
use common::net::{MAC_A, MAC_B, PATIENCE, TestNet, within};
use common::server::{Home, ServerProcess, ended, mem_target, program, run};
use nix::sys::signal::Signal;
use serde_json::Value;

const COMMANDS: [&str; 20] = [
    "serve",
    "status",
    "check",
    "discover",
    "ping",
    "stat",
    "read",
    "write",
    "bench",
    "config",
    "image",
    "volume",
    "snapshot",
    "store",
    "record",
    "replay",
    "dump",
    "demo",
    "completions",
    "man",
];
/// Commands that have verbs.
const VERBS: [(&str, &[&str]); 4] = [
    ("config", &["get", "test", "set", "force-set", "mask", "reserve"]),
    ("volume", &["list", "create", "resize", "delete"]),
    ("snapshot", &["create", "list", "delete", "restore", "clone", "diff", "export", "unexport"]),
    ("store", &["init", "info", "commit"]),
];

/// Each verb with its command.
fn verbs() -> impl Iterator<Item = (&'static str, &'static str)> {
    VERBS.into_iter().flat_map(|(name, verbs)| verbs.iter().map(move |verb| (name, *verb)))
}

/// Runs a command line, its words separated by spaces.
fn command(line: &str) -> Output {
    run(line.split(' '))
}

/// One JSON object from each line.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn capture(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    directory.join(format!("{name}.pcap"))
}

fn frames(path: &Path) -> usize {
    let file = fs::read(path).unwrap();
    let mut reader = Reader::new(&file[..]).unwrap();
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    count
}

#[test]
fn every_command_has_its_help() {
    let (help, _) = ended(&run(["--help"]), 0);
    for name in COMMANDS {
        let listed = help.lines().any(|line| line.trim_start().starts_with(&format!("{name} ")));
        assert!(listed, "{name} is not in the list of commands: {help}");
        let (stdout, stderr) = ended(&run([name, "--help"]), 0);
        assert!(stdout.contains(&format!("Usage: aoe-server {name}")), "{stdout}");
        assert_eq!(stderr, "");
    }
    for (name, verb) in verbs() {
        let (stdout, _) = ended(&run([name, verb, "--help"]), 0);
        assert!(stdout.contains(&format!("Usage: aoe-server {name} {verb}")), "{stdout}");
    }
    // A command that is not in the list above would be missed by it.
    let listed = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let count = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    assert_eq!(count.count(), COMMANDS.len() + 1, "and help: {listed}");
}

#[test]
fn the_version_is_this_packages() {
    let (stdout, _) = ended(&run(["--version"]), 0);
    assert_eq!(stdout, concat!("aoe-server ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn what_is_no_command_line_ends_with_2() {
    for line in ["frobnicate", "read", "ping -i lo", "ping -i lo e1", "ping -i lo *.0", "dump"] {
        let (stdout, stderr) = ended(&command(line), 2);
        assert_eq!(stdout, "", "{line}");
        assert!(!stderr.is_empty(), "{line}");
    }
    // No command at all gets the help.
    let (_, stderr) = ended(&run([""; 0]), 2);
    assert!(stderr.contains("Commands:"), "{stderr}");
}

#[test]
fn check_says_what_a_good_configuration_configures() {
    let home = Home::new();
    let config = home.path("good.toml");
    let text = home.server("lo", "pcap")
        + &home.file_target(0, "image", "read_only = true")
        + &mem_target(1, "1 MiB", "")
        + "[[target]]\nshelf = 1\nslot = 2\nbackend = \"cas\"\n[target.cas]\nsnapshot = \"e1.0@x\"\n"
        + "[target.cas.blob_store]\ntype = \"file\"\npath = \"/nowhere\"\n";
    fs::write(&config, text).unwrap();
    let (stdout, stderr) = ended(&run(["check".as_ref(), config.as_os_str()]), 0);
    assert!(stdout.starts_with(&format!("{}: good, 3 targets on lo\n", config.display())));
    assert!(stdout.lines().nth(1).unwrap().contains("e1.0"), "{stdout}");
    assert!(stdout.lines().nth(1).unwrap().contains("(read-only)"), "{stdout}");
    assert_eq!(stderr, "");
    assert!(!home.path("image").exists() && !home.path("state").exists(), "it only looks");

    let args = ["check".as_ref(), "--json".as_ref(), config.as_os_str()];
    let targets = objects(&ended(&run(args), 0).0);
    assert_eq!(targets.len(), 3);
    assert_eq!((&targets[2]["volume"], &targets[2]["snapshot"]), (&"e1.0".into(), &"x".into()));
    assert_eq!(targets[2]["read_only"], true);
    assert!(stdout.contains("snapshot e1.0@x of /nowhere (read-only)"), "{stdout}");
    assert_eq!(targets[0]["target"], "e1.0");
    assert_eq!(targets[0]["backend"], "file");
    assert_eq!(targets[0]["path"], home.path("image").to_str().unwrap());
    assert_eq!(targets[0]["read_only"], true);
    assert_eq!(targets[1]["target"], "e1.1");
    assert_eq!(targets[1]["path"], Value::Null);
    // The environment can name it, too.
    let output = program(["check"]).env("AOE_SERVER_CONFIG", &config).output().unwrap();
    ended(&output, 0);
}

#[test]
fn check_tells_all_that_is_wrong_with_a_bad_configuration() {
    let home = Home::new();
    let config = home.path("bad.toml");
    let text = home.server("lo", "pcap") + &mem_target(70, "1 MiB", "slott = 1\nserial = 7");
    fs::write(&config, &text).unwrap();
    let line = |start: &str| 1 + text.lines().position(|line| line.starts_with(start)).unwrap();
    let (stdout, _) = ended(&run(["check".as_ref(), config.as_os_str()]), 1);
    let [key, value] = [line("slott"), line("serial")];
    for line in [key, value] {
        assert!(stdout.contains(&format!("{}:{line}", config.display())), "{line}: {stdout}");
    }
    assert!(stdout.contains("did you mean `slot`?"), "{stdout}");
    let args = ["check".as_ref(), "--json".as_ref(), config.as_os_str()];
    let errors = objects(&ended(&run(args), 1).0);
    let lines: Vec<_> = errors.iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [key as u64, value as u64]);
    assert!(errors.iter().all(|error| error["column"] == 1 || error["column"].is_u64()));
    assert!(errors[0]["error"].as_str().unwrap().contains("slott"));
}

#[test]
fn check_of_a_file_that_cannot_be_read_could_not_tell() {
    let home = Home::new();
    let missing = home.path("missing.toml");
    for json in [false, true] {
        let mut command = program(["check".as_ref(), missing.as_os_str()]);
        if json {
            command.arg("--json");
        }
        let (stdout, _) = ended(&command.output().unwrap(), 2);
        assert!(stdout.contains("missing.toml"), "{stdout}");
        assert!(stdout.contains("No such file"), "why not: {stdout}");
    }
}

#[test]
fn dump_prints_a_line_for_each_frame() {
    for name in ["aoetools", "client", "linux", "malformed"] {
        let path = capture(name);
        let (stdout, stderr) = ended(&run(["dump".as_ref(), path.as_os_str()]), 0);
        assert_eq!(stdout.lines().count(), frames(&path), "{name}");
        assert_eq!(stderr, "");
        let args = ["dump".as_ref(), "--json".as_ref(), path.as_os_str()];
        let json = objects(&ended(&run(args), 0).0);
        for (object, line) in json.iter().zip(stdout.lines()) {
            let [seconds, frame] = ["seconds", "frame"].map(|key| object[key].as_str().unwrap());
            assert_eq!(format!("{seconds} {frame}"), line);
            assert!(line.ends_with(&format!("length {}", object["octets"])), "{line}");
        }
        let args = ["dump".as_ref(), "--frames".as_ref(), "3".as_ref(), path.as_os_str()];
        let (three, _) = ended(&run(args), 0);
        assert_eq!(three.lines().collect::<Vec<_>>(), stdout.lines().take(3).collect::<Vec<_>>());
    }
    let (stdout, _) = ended(&run(["dump".as_ref(), capture("linux").as_os_str()]), 0);
    let line = stdout.lines().nth(5).unwrap();
    let shown = "1700000000.005000 52:54:00:aa:bb:01 > 76:ea:bb:fc:f3:24 e1.1 tag 0006e5a6 ata \
                 request: WRITE SECTORS EXT, lba 0, sectors 8, flags EW, data 4096, length 4132";
    assert_eq!(line, shown);
}

#[test]
fn dump_of_a_damaged_capture_prints_what_is_good_and_ends_with_2() {
    let home = Home::new();
    let (whole, cut) = (fs::read(capture("linux")).unwrap(), home.path("cut.pcap"));
    fs::write(&cut, &whole[..whole.len() - 7]).unwrap();
    let (stdout, stderr) = ended(&run(["dump".as_ref(), cut.as_os_str()]), 2);
    assert_eq!(stdout.lines().count(), frames(&capture("linux")) - 1);
    assert!(stderr.contains("cut.pcap"), "{stderr}");
    assert!(stderr.contains("cut short"), "{stderr}");

    fs::write(&cut, &whole[..24]).unwrap();
    assert_eq!(ended(&run(["dump".as_ref(), cut.as_os_str()]), 1).0, "", "no frame is a no");
    for octets in [&whole[..3], b"GIF89a, which is no capture at all"] {
        fs::write(&cut, octets).unwrap();
        ended(&run(["dump".as_ref(), cut.as_os_str()]), 2);
    }
    fs::remove_file(&cut).unwrap();
    let (_, stderr) = ended(&run(["dump".as_ref(), cut.as_os_str()]), 2);
    assert!(stderr.contains("No such file"), "{stderr}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    let big = home.path("big.pcap");
    let mut writer = Writer::new(Vec::new(), Resolution::Micros).unwrap();
    for number in 0..20_000 {
        writer.write(number * 1_000, &[0xa5; 60]).unwrap();
    }
    fs::write(&big, writer.into_inner()).unwrap();
    let json = ["dump".as_ref(), "--json".as_ref(), big.as_os_str()];
    for args in [&["dump".as_ref(), big.as_os_str()][..], &json] {
        let mut child =
            program(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        // Reads one line, or a little more, and closes the pipe.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'));
        let (_, stderr) = ended(&child.wait_with_output().unwrap(), 0);
        assert_eq!(stderr, "");
    }
    for line in ["--help", "completions bash", "man"] {
        let mut command = program(line.split(' '));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let (_, stderr) = ended(&child.wait_with_output().unwrap(), 0);
        assert_eq!(stderr, "", "{line}");
    }
}

#[test]
fn completions_and_manual_pages_are_there_for_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (stdout, _) = ended(&run(["completions", shell]), 0);
        for name in COMMANDS {
            assert!(stdout.contains(name), "{shell} does not know {name}");
        }
    }
    ended(&run(["completions", "cmd.exe"]), 2);
    let (page, _) = ended(&run(["man"]), 0);
    assert!(page.contains(".TH aoe-server 1"), "{page}");
    let home = Home::new();
    let directory = home.path("made/man1");
    ended(&run(["man".as_ref(), "--directory".as_ref(), directory.as_os_str()]), 0);
    for name in COMMANDS {
        let page = fs::read_to_string(directory.join(format!("aoe-server-{name}.1"))).unwrap();
        assert!(page.contains(&format!("aoe-server-{name}")), "{page}");
    }
    for (name, verb) in verbs() {
        let page = format!("aoe-server-{name}-{verb}.1");
        assert!(directory.join(&page).exists(), "{page}");
    }
    assert!(directory.join("aoe-server.1").exists());
    // Where it cannot be.
    fs::write(home.path("file"), "").unwrap();
    let place = home.path("file/man");
    ended(&run(["man".as_ref(), "--directory".as_ref(), place.as_os_str()]), 2);
}

/// A server with e1.0 of 64 KiB, e1.1 that is read-only, on one end of a cable.
fn served() -> Option<(TestNet, Home, ServerProcess)> {
    let net = TestNet::new(1500)?;
    let home = Home::new();
    let config = home.server(net.a, "pcap")
        + &mem_target(0, "64 KiB", "serial = \"CLI-1-0\"")
        + &mem_target(1, "64 KiB", "read_only = true");
    let server = ServerProcess::start_in(&home, &config);
    Some((net, home, server))
}

/// `count` octets that are not the same everywhere.
fn content(count: usize) -> Vec<u8> {
    (0_u32..).map(|place| place.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).take(count).collect()
}

#[test]
fn read_and_write_copy_disks_and_verify_them() {
    let Some((_net, home, mut server)) = served() else { return };
    let [source, copy] = ["source", "copy"].map(|name| home.path(name));
    let data = content(64 << 10);
    fs::write(&source, &data).unwrap();
    let [from, to] = [&source, &copy].map(|path| path.to_str().unwrap());

    let (stdout, _) = ended(&command(&format!("write -i aoe-b e1.0 {from} --verify")), 0);
    assert!(stdout.contains("e1.0") && stdout.contains("verified"), "{stdout}");
    ended(&command(&format!("read -i aoe-b e1.0 {to}")), 0);
    assert!(fs::read(&copy).unwrap() == data);
    // A part, to standard output, by the other kind of link.
    let output = command("read -i aoe-b --link pcap e1.0 --offset 3 --sectors 5");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, data[3 * 512..8 * 512]);
    // From standard input, and not whole sectors.
    let mut piped = program("write -i aoe-b e1.0 - --offset 7 --json".split(' '));
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[0x77; 700]).unwrap();
    let (stdout, _) = ended(&child.wait_with_output().unwrap(), 0);
    let said = &objects(&stdout)[0];
    assert_eq!((&said["target"], &said["octets"]), (&"e1.0".into(), &700.into()));
    let (stdout, _) = ended(&command(&format!("read -i aoe-b e1.0 {to} --sparse --json")), 0);
    assert_eq!(objects(&stdout)[0]["octets"], 65_536);
    let mut changed = data.clone();
    changed[7 * 512..][..700].fill(0x77);
    assert!(fs::read(&copy).unwrap() == changed);

    // What cannot be is a no: too much, past the end, write-protected, nobody there.
    fs::write(&source, content((64 << 10) + 1)).unwrap();
    let (_, stderr) = ended(&command(&format!("write -i aoe-b e1.0 {from}")), 1);
    assert!(stderr.contains("there is room for"), "{stderr}");
    ended(&command("read -i aoe-b e1.0 /dev/null --offset 127 --sectors 2"), 1);
    fs::write(&source, content(512)).unwrap();
    let (_, stderr) = ended(&command(&format!("write -i aoe-b e1.1 {from}")), 1);
    assert!(stderr.contains("error 0x04"), "{stderr}");
    let nobody = format!("read -i aoe-b e9.9 {to} --timeout-ms 100");
    let (_, stderr) = ended(&command(&nobody), 1);
    assert!(stderr.contains("no answer from e9.9"), "{stderr}");
    assert!(fs::read(&copy).unwrap() == changed, "nothing to replace it with was there");
    // And what is in the way on this side leaves the question open.
    ended(&command("read -i aoe-x e1.0 /dev/null"), 2);
    ended(&command("write -i aoe-b e1.0 /nonexistent/file"), 2);
    ended(&command("read -i aoe-b e1.0 /nonexistent/file"), 2);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn discover_stat_and_ping_tell_what_there_is() {
    let Some((_net, _home, mut server)) = served() else { return };
    let (stdout, _) = ended(&command("discover -i aoe-b --json --timeout-ms 300"), 0);
    let found = objects(&stdout);
    assert_eq!(found.len(), 2);
    assert_eq!((&found[0]["target"], &found[1]["target"]), (&"e1.0".into(), &"e1.1".into()));
    assert_eq!(found[0]["mac"], MAC_A.to_string());
    let (stdout, _) = ended(&command("discover -i aoe-b --timeout-ms 300"), 0);
    assert!(stdout.contains("CLI-1-0"), "{stdout}");
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
    ended(&command("discover -i aoe-b e7.* --timeout-ms 100"), 1);
    ended(&command("discover -i aoe-x"), 2);

    let (stdout, _) = ended(&command("stat -i aoe-b e1.0"), 0);
    assert!(stdout.contains("CLI-1-0"), "{stdout}");
    ended(&command("stat -i aoe-b e1.0 --json"), 0);
    ended(&command("stat -i aoe-b e1.7 --timeout-ms 100"), 1);

    let (stdout, _) = ended(&command("ping -i aoe-b e1.0 --count 3 --interval-ms 1 --json"), 0);
    let pongs = objects(&stdout);
    assert_eq!(pongs.len(), 4);
    assert_eq!((&pongs[3]["sent"], &pongs[3]["received"]), (&3.into(), &3.into()));
    ended(&command("ping -i aoe-b e1.7 --count 2 --interval-ms 1 --timeout-ms 50"), 1);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn config_reads_tests_and_changes_settings() {
    let Some((_net, _home, mut server)) = served() else { return };
    let yes = |line: &str| ended(&command(line), 0).0;
    assert_eq!(yes("config get -i aoe-b e1.0"), "\n");
    assert_eq!(yes("config set -i aoe-b e1.0 hello"), "hello\n");
    assert_eq!(yes("config test -i aoe-b e1.0 hello"), "yes\n");
    let test = "config test -i aoe-b e1.0 hell --timeout-ms 300";
    assert_eq!(ended(&command(test), 1).0, "no\n");
    assert_eq!(yes("config test -i aoe-b e1.0 hell --prefix"), "yes\n");
    let (_, stderr) = ended(&command("config set -i aoe-b e1.0 other"), 1);
    assert!(stderr.contains("force-set"), "{stderr}");
    assert_eq!(yes("config force-set -i aoe-b e1.0 other"), "other\n");
    let other = objects(&yes("config get -i aoe-b e1.0 --json"));
    assert_eq!(other[0]["config_string"], "other");

    assert_eq!(yes("config reserve -i aoe-b e1.0"), "");
    let elsewhere = "02:ae:00:00:00:77\n";
    assert_eq!(yes("config reserve -i aoe-b e1.0 --set 02:ae:00:00:00:77"), elsewhere);
    let (_, stderr) = ended(&command("config reserve -i aoe-b e1.0 --own"), 1);
    assert!(stderr.contains("--force"), "{stderr}");
    assert_eq!(yes("config reserve -i aoe-b e1.0 --own --force"), format!("{MAC_B}\n"));
    assert_eq!(yes("config reserve -i aoe-b e1.0 --release"), "");

    let mask = format!("config mask -i aoe-b e1.0 --add {MAC_B}");
    assert_eq!(yes(&mask), format!("{MAC_B}\n"));
    assert_eq!(yes("config mask -i aoe-b e1.0"), format!("{MAC_B}\n"));
    // Whoever shuts himself out hears nothing more.
    yes("config mask -i aoe-b e1.0 --add 02:ae:00:00:00:77");
    yes(&format!("config mask -i aoe-b e1.0 --remove {MAC_B}"));
    let (_, stderr) = ended(&command("config get -i aoe-b e1.0 --timeout-ms 100"), 1);
    assert!(stderr.contains("no answer"), "{stderr}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn bench_measures_and_its_numbers_fit_together() {
    let Some((_net, _home, mut server)) = served() else { return };
    let reads = "bench -i aoe-b e1.0 --count 200 --depth 8 --sectors 2 --json";
    let report = objects(&ended(&command(reads), 0).0).remove(0);
    assert_eq!((&report["reads"], &report["writes"]), (&200.into(), &0.into()));
    assert_eq!(report["octets_read"], 200 * 1024);
    assert_eq!(report["depth"], 8);
    for key in ["errors", "unanswered", "mismatches"] {
        assert_eq!(report[key], 0, "{key}");
    }
    let latency = &report["read_latency_us"];
    let [min, p50, max] = ["min", "p50", "max"].map(|key| latency[key].as_f64().unwrap());
    assert!(0.0 < min && min <= p50 && p50 <= max, "{latency}");
    assert_eq!(report["write_latency_us"], Value::Null);
    let steps = latency["histogram_us"].as_array().unwrap();
    assert_eq!(steps.iter().map(|step| step[1].as_u64().unwrap()).sum::<u64>(), 200);
    let last = steps.last().unwrap()[0].as_f64().unwrap();
    assert!((last / max - 1.0).abs() < 0.01, "{last} is not {max}");
    let per_second = report["requests_per_second"].as_f64().unwrap();
    let expected = 200.0 / report["seconds"].as_f64().unwrap();
    assert!((per_second / expected - 1.0).abs() < 0.01, "{per_second} is not {expected}");

    let mixed = "bench -i aoe-b e1.0 --count 300 --write-percent 50 --sequential --verify";
    let (_, stderr) = ended(&command(mixed), 2);
    assert!(stderr.contains("--destroy"), "{stderr}");
    let report = objects(&ended(&command(&format!("{mixed} --destroy --json")), 0).0).remove(0);
    let [reads, writes] = ["reads", "writes"].map(|key| report[key].as_u64().unwrap());
    assert!(reads > 50 && writes > 50 && reads + writes == 300, "{reads} and {writes}");
    let both = "bench -i aoe-b e1.0 e1.1 --count 200 --depth 8 --json";
    let report = objects(&ended(&command(both), 0).0).remove(0);
    assert_eq!((&report["reads"], &report["target"]), (&200.into(), &"e1.0, e1.1".into()));
    ended(&command("bench -i aoe-b e1.0 e1.0 --count 1"), 2);
    let (stdout, _) = ended(&command("bench -i aoe-b e1.0 --seconds 0.2"), 0);
    assert!(stdout.contains("requests/s") && stdout.contains("0 errors"), "{stdout}");

    let refused = "bench -i aoe-b e1.1 --count 10 --write-percent 100 --destroy --json";
    let report = objects(&ended(&command(refused), 1).0).remove(0);
    assert!(report["errors"].as_u64().unwrap() > 0 && report["first_error"].is_string());
    ended(&command("bench -i aoe-b e7.7 --timeout-ms 100"), 1);
    ended(&command("bench -i aoe-b e1.0 --sectors 200"), 2);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn record_keeps_both_directions_until_it_is_enough() {
    let Some((_net, home, mut server)) = served() else { return };
    let (file, recorders) = (home.path("recorded.pcap"), Home::new());
    let start = |more: &[&str]| {
        let _ = fs::remove_file(&file); // it shows when recording has begun
        let mut command = program(["record".as_ref(), "aoe-a".as_ref(), file.as_os_str()]);
        command.args(more);
        let recorder = ServerProcess::spawn(&recorders, command);
        assert!(within(PATIENCE, || file.exists()), "{}", recorder.log());
        recorder
    };
    let mut recorder = start(&["--frames", "6"]);
    ended(&command("ping -i aoe-b e1.0 --ata --count 4 --interval-ms 1"), 0);
    assert_eq!(recorder.wait().code(), Some(0));
    let (stdout, _) = ended(&run(["dump".as_ref(), file.as_os_str()]), 0);
    assert_eq!(stdout.lines().count(), 6, "{stdout}");
    assert!(stdout.contains(&format!("{MAC_B} > ff:ff:ff:ff:ff:ff e1.0")), "{stdout}");
    assert!(stdout.contains(&format!("{MAC_A} > {MAC_B} e1.0")), "{stdout}");
    assert!(stdout.contains("IDENTIFY DEVICE"), "{stdout}");

    // A signal ends it, too, with all that was seen; and time does.
    let mut recorder = start(&[]);
    ended(&command("ping -i aoe-b e1.0 --count 1"), 0);
    recorder.signal(Signal::SIGINT);
    assert_eq!(recorder.wait().code(), Some(0));
    assert_eq!(frames(&file), 2);
    let mut recorder = start(&["--seconds", "1"]);
    assert_eq!(recorder.wait().code(), Some(1), "no frame is a no");
    assert_eq!(frames(&file), 0);
    ended(&command("record aoe-x /dev/null"), 2);
    ended(&command("record aoe-a /nonexistent/file"), 2);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}
