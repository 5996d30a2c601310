//! An archive in a running server: snapshots while a disk is served, and what initiators see of them.

use std::ffi::OsStr;
use std::fs;

use aoe_server::client::{Client, Range};
use aoe_server::protocol::Address;
use aoe_server::units::{Lba, Sectors};

use crate::common::net::{PATIENCE, TestNet, within};
use crate::common::server::{Home, ServerProcess, client, ended, run};
use crate::{archive_target, ask, ask_json, objects, octets};

const MTU: usize = 9000;
const DISK: Address = Address::new(1, 0);
const EXPORT: Address = Address::new(1, 9);
/// Octets that are written and read.
const LENGTH: usize = 256 << 10;

fn write(client: &mut Client, octet: u8) {
    write_to(client, DISK, octet);
}

fn write_to(client: &mut Client, address: Address, octet: u8) {
    let disk = client.open(address).unwrap();
    let count = Sectors::from_bytes(LENGTH as u64);
    let range = Range { disk: &disk, lba: Lba(16), count, depth: 16 };
    client.write(&range, &mut &vec![octet; LENGTH][..], &mut |_| ()).unwrap();
}

/// What the target has there: the one octet that all of it is.
fn read(client: &mut Client, address: Address) -> u8 {
    let disk = client.open(address).unwrap();
    let count = Sectors::from_bytes(LENGTH as u64);
    let range = Range { disk: &disk, lba: Lba(16), count, depth: 16 };
    let mut found = Vec::new();
    client.read(&range, &mut found, &mut |_| ()).unwrap();
    assert!(found.iter().all(|octet| *octet == found[0]), "torn");
    found[0]
}

fn size(client: &mut Client, address: Address) -> u64 {
    client.open(address).unwrap().size().0
}

/// Lines of standard output of a command that says yes.
fn yes(home: &Home, line: &str) -> String {
    ended(&ask(home, line), 0).0
}

/// What a command that says no says on standard error.
fn no(home: &Home, line: &str) -> String {
    let (stdout, stderr) = ended(&ask(home, line), 1);
    assert_eq!(stdout, "", "{line}");
    stderr
}

/// What was done is in the log; what was refused is not.
fn tells_each_change_once(log: &str, home: &Home, kept: &str) {
    let archive = home.path("archive");
    let of_archive = |what: &str| format!("archive {}: {what}", archive.display());
    let restored = format!("volume e1.0 is what e1.0@one is, by force; what it was is e1.0@{kept}");
    for change in [
        of_archive("made snapshot e1.0@one"),
        String::from("serving e1.0@one at e1.9"),
        of_archive("made volume copy from e1.0@one"),
        of_archive(&restored),
        format!("serving e1.0@{kept} at e1.9"),
        of_archive("deleted snapshot e1.0@one"),
    ] {
        assert_eq!(log.matches(&change).count(), 1, "{change}: {log}");
    }
    assert_eq!(log.matches("e1.9 is served no more").count(), 2, "{log}");
}

#[test]
fn a_snapshot_is_made_compared_exported_cloned_and_restored_while_its_disk_is_served() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "af-packet") + &archive_target(&home, 0, "size = \"8 MiB\"");
    let mut server = ServerProcess::start_in(&home, &config);
    let mut initiator = client(net.b);
    no(&home, "snapshot list");
    write(&mut initiator, 1);
    assert_eq!(yes(&home, "snapshot create e1.0@one"), "made e1.0@one\n");
    assert!(no(&home, "snapshot create e1.0@one").contains("e1.0@one"));
    yes(&home, "snapshot diff e1.0@one");
    write(&mut initiator, 2);

    // What differs covers what was written, and little more.
    let (stdout, _) = ended(&ask(&home, "snapshot diff e1.0@one --json"), 1);
    let ranges = objects(&stdout);
    let sectors: u64 = ranges.iter().map(|range| range["sectors"].as_u64().unwrap()).sum();
    assert!((512..=512 + 64).contains(&sectors), "{stdout}");
    assert!(ranges[0]["lba"].as_u64().unwrap() <= 16, "{stdout}");
    let (text, _) = ended(&ask(&home, "snapshot diff e1.0@one"), 1);
    assert_eq!(text.lines().count(), ranges.len());

    // The old content at another address, which takes no writes.
    assert_eq!(yes(&home, "snapshot export e1.0@one e1.9"), "serving e1.0@one at e1.9\n");
    assert_eq!((read(&mut initiator, DISK), read(&mut initiator, EXPORT)), (2, 1));
    let disk = initiator.open(EXPORT).unwrap();
    let range = Range { disk: &disk, lba: Lba(0), count: Sectors(1), depth: 1 };
    initiator.write(&range, &mut &[0; 512][..], &mut |_| ()).unwrap_err();
    assert!(no(&home, "snapshot export e1.0@one e1.9").contains("e1.9"));
    assert!(no(&home, "snapshot export e1.0@two e1.8").contains("e1.0@two"));
    let (_, stderr) = ended(&ask(&home, "snapshot export e1.0@one e4095.0"), 2);
    assert!(stderr.contains("cannot be e4095.0: Linux"), "{stderr}");
    no(&home, "snapshot export e1.0@one e1.8 --interface nowhere");
    assert!(no(&home, "snapshot delete e1.0@one").contains("in use"));
    let status = ask_json(&home, "status");
    assert_eq!(status["targets"][1]["snapshot"], "one");
    assert_eq!(status["targets"][1]["exported"], true);
    assert_eq!(status["stores"][0]["snapshots"], 1);
    assert_eq!(yes(&home, "snapshot unexport e1.9"), "e1.9 is served no more\n");
    assert!(no(&home, "snapshot unexport e1.9").contains("no snapshot is exported at e1.9"));
    assert!(no(&home, "snapshot unexport e1.0").contains("no snapshot is exported at e1.0"));

    // A new volume from the old content; and the disk itself.
    assert!(yes(&home, "snapshot clone e1.0@one copy").starts_with("made volume copy, 8 MiB"));
    assert!(no(&home, "snapshot clone e1.0 copy").contains("copy"));
    assert!(no(&home, "snapshot restore e1.0@one").contains("--force"));
    assert_eq!(read(&mut initiator, DISK), 2);
    yes(&home, "snapshot restore e1.0@one --force");
    assert_eq!(read(&mut initiator, DISK), 1);
    let (stdout, _) = ended(&ask(&home, "snapshot list e1.0 --json"), 0);
    let kept = objects(&stdout).into_iter().find(|snapshot| snapshot["snapshot"] != "one");
    let kept = kept.expect("what it was is kept")["snapshot"].as_str().unwrap().to_owned();
    yes(&home, &format!("snapshot export e1.0@{kept} e1.9"));
    assert_eq!(read(&mut initiator, EXPORT), 2);
    yes(&home, "snapshot unexport e1.9");
    yes(&home, &format!("snapshot delete e1.0@{kept}"));
    yes(&home, "snapshot delete e1.0@one");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    let log = server.log();
    assert!(!log.contains("ERROR"), "{log}");
    tells_each_change_once(&log, &home, &kept);
}

#[test]
fn volumes_are_made_resized_and_deleted_while_the_server_runs() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "af-packet") + &archive_target(&home, 0, "size = \"8 MiB\"");
    let mut server = ServerProcess::start_in(&home, &config);
    let mut initiator = client(net.b);
    write(&mut initiator, 7);

    assert_eq!(yes(&home, "volume create spare 1MiB"), "made volume spare, 1 MiB\n");
    assert!(no(&home, "volume create spare 1MiB").contains("spare"));
    let (stdout, _) = ended(&ask(&home, "volume list --json"), 0);
    let volumes = objects(&stdout);
    let served = |name: &str| {
        volumes.iter().find(|volume| volume["volume"] == name).expect(name)["served"].clone()
    };
    assert_eq!((served("e1.0"), served("spare")), (true.into(), false.into()));
    let (table, _) = ended(&ask(&home, "volume list"), 0);
    assert_eq!(table.lines().count(), 3, "{table}");

    // Initiators hear of a new size.
    assert_eq!(size(&mut initiator, DISK), 16_384);
    yes(&home, "volume resize e1.0 16MiB");
    assert!(within(PATIENCE, || size(&mut initiator, DISK) == 32_768));
    assert_eq!(read(&mut initiator, DISK), 7);
    assert!(no(&home, "volume resize e1.0 4MiB").contains("--shrink"));
    assert!(no(&home, "volume resize e1.0 4MiB --shrink").contains("--force"));
    assert_eq!(size(&mut initiator, DISK), 32_768);
    yes(&home, "volume resize e1.0 4MiB --shrink --force");
    assert!(within(PATIENCE, || size(&mut initiator, DISK) == 8_192));
    assert_eq!(read(&mut initiator, DISK), 7);

    assert!(no(&home, "volume delete e1.0").contains("in use"));
    yes(&home, "snapshot create spare@empty");
    assert!(no(&home, "volume delete spare").contains("snapshots"));
    yes(&home, "volume delete spare --with-snapshots");
    assert!(no(&home, "volume delete spare").contains("spare"));
    let commit = |home: &Home| ask_json(home, "store commit")["commit"].as_u64().unwrap();
    let before = commit(&home);
    write(&mut initiator, 8);
    assert!(commit(&home) > before);
    let usage = yes(&home, "store usage");
    assert!(usage.contains("each block once") && usage.contains("e1.0"), "{usage}");
    let info = yes(&home, "store info");
    assert!(info.contains(&home.path("archive").display().to_string()), "{info}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    let log = server.log();
    for change in [
        "made volume spare, 1 MiB",
        "volume e1.0 has 16 MiB now",
        "volume e1.0 has 4 MiB now, by force",
        "deleted volume spare, with its snapshots",
    ] {
        assert_eq!(log.matches(&format!(": {change}\n")).count(), 1, "{change}: {log}");
    }
}

/// A disk that was made larger once kept its server from starting again, and the only remedy that was
/// told destroyed what had been written to it since.
#[test]
fn a_size_that_the_configuration_does_not_have_is_told_at_once_and_at_the_next_start() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = |size: &str| {
        home.server(net.a, "af-packet") + &archive_target(&home, 0, &format!("size = \"{size}\""))
    };
    let mut server = ServerProcess::start_in(&home, &config("8 MiB"));
    yes(&home, "snapshot create e1.0@small");
    let (stdout, stderr) = ended(&ask(&home, "volume resize e1.0 9MiB"), 0);
    assert_eq!(stdout, "volume e1.0 has 9 MiB\n");
    for told in ["target e1.0 says size = \"8 MiB\"", "size = \"9 MiB\"", "will not start"] {
        assert!(stderr.contains(told), "no {told}: {stderr}");
    }
    let (_, stderr) = ended(&ask(&home, "volume resize e1.0 8MiB --shrink"), 0);
    assert_eq!(stderr, "", "it is as configured");
    yes(&home, "volume resize e1.0 9MiB");
    yes(&home, "snapshot create e1.0@large");
    let small = ask_json(&home, "volume resize e1.0 4MiB --shrink")["configured"].clone();
    assert_eq!((&small["target"], &small["size"]), (&"e1.0".into(), &(8 << 20).into()));
    assert_eq!(small["change_to"], "4 MiB");
    let restored = ask_json(&home, "snapshot restore e1.0@small");
    assert_eq!(restored.get("configured"), None, "{restored}");
    let (_, stderr) = ended(&ask(&home, "snapshot restore e1.0@large"), 0);
    assert!(stderr.contains("change it to size = \"9 MiB\""), "{stderr}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());

    let file = server.config_path().to_owned();
    let (_, stderr) = ended(&run(["serve".as_ref(), "--config".as_ref(), file.as_os_str()]), 2);
    let start = format!("{}: target e1.0: `size` in the configuration is", file.display());
    assert!(stderr.contains(&start), "{stderr}");
    assert!(stderr.contains("is \"8 MiB\" (8388608 bytes), but"), "{stderr}");
    assert!(stderr.contains("has \"9 MiB\" (9437184 bytes)"), "{stderr}");
    let shrink = stderr.split("aoe-server volume resize").nth(1).expect("the second way is told");
    assert!(shrink.starts_with(" e1.0 8MiB --shrink --store "), "{stderr}");

    let mut server = ServerProcess::start_in(&home, &config("9 MiB"));
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    // What is told as the second way is one.
    let words = shrink.lines().next().unwrap().split_whitespace();
    ended(&run(["volume", "resize"].into_iter().chain(words)), 0);
    let mut server = ServerProcess::start_in(&home, &config("8 MiB"));
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn status_tells_of_damage_that_somebody_has_come_upon() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "af-packet") + &archive_target(&home, 0, "size = \"8 MiB\"");
    let mut server = ServerProcess::start_in(&home, &config);
    let mut initiator = client(net.b);
    write(&mut initiator, 3);
    yes(&home, "store commit");
    assert_eq!(ask_json(&home, "status")["stores"][0]["state"], "good");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());

    // Nothing of it is in memory after a restart.
    let packs = octets::packs(&home.path("archive"));
    let pack = packs.iter().find(|pack| pack.has_blocks()).unwrap();
    octets::flip(&pack.path, pack.frames[0].offset + octets::FRAME_HEADER);
    let mut server = ServerProcess::start_in(&home, &config);
    assert!(yes(&home, "status").trim_end().ends_with("good"));
    let disk = initiator.open(DISK).unwrap();
    let count = Sectors::from_bytes(LENGTH as u64);
    let range = Range { disk: &disk, lba: Lba(16), count, depth: 1 };
    initiator.read(&range, &mut Vec::new(), &mut |_| ()).unwrap_err();
    let table = yes(&home, "status");
    let state = table.trim_end().rsplit("  ").next().unwrap();
    assert!(
        state.starts_with("damaged: ") && state.ends_with(" reads failed, see the log"),
        "{table}"
    );
    let store = ask_json(&home, "status")["stores"][0].clone();
    assert_eq!(store["state"], "damaged");
    assert!(store["read_failures"].as_u64() > Some(0), "{store}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn two_targets_share_an_archive_and_a_command_finds_the_one_that_is_meant() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let elsewhere = home.path("elsewhere");
    let other = archive_target(&home, 2, "size = \"2 MiB\"")
        .replace(&home.path("archive").display().to_string(), &elsewhere.display().to_string());
    let config = home.server(net.a, "af-packet")
        + &archive_target(&home, 0, "size = \"8 MiB\"")
        + &archive_target(&home, 1, "size = \"8 MiB\"")
        + &other;
    let mut server = ServerProcess::start_in(&home, &config);
    let (stdout, _) = ended(&ask(&home, "store info --json"), 0);
    let stores = objects(&stdout);
    assert_eq!(stores.len(), 2, "{stdout}");
    assert_eq!((&stores[0]["volumes"], &stores[1]["volumes"]), (&2.into(), &1.into()));
    // By the volume, by the directory, or not at all.
    yes(&home, "snapshot create e1.2@here");
    let said = no(&home, "volume create new 1MiB");
    assert!(said.contains("several archives are meant") && said.contains("elsewhere"), "{said}");
    let place = elsewhere.display();
    yes(&home, &format!("volume create new 1MiB --archive {place}"));
    assert!(no(&home, "snapshot create e7.7@here").contains("no archive has a volume e7.7"));
    let nowhere = home.path("nowhere");
    let said = no(&home, &format!("volume list --archive {}", nowhere.display()));
    assert!(said.contains("this is no archive of this server"), "{said}");

    // The same names by themselves: the server has them, and that is told.
    let store = format!("volume list --store {}", elsewhere.display());
    let (_, stderr) = ended(&run(store.split(' ')), 2);
    assert!(stderr.contains(&format!("(pid {})", server.pid())), "{stderr}");
    assert!(stderr.contains("leave out --store"), "{stderr}");
    let export = format!("image export e1.2 /nowhere --store {}", elsewhere.display());
    let (_, stderr) = ended(&run(export.split(' ')), 2);
    assert!(stderr.contains("aoe-server snapshot export"), "{stderr}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    let (stdout, _) = ended(&run(store.split(' ')), 0);
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
}

#[test]
fn an_archive_that_cannot_be_opened_is_told_with_the_address_of_each_target() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    fs::create_dir(home.path("archive")).unwrap();
    fs::write(home.path("archive").join("precious"), "data").unwrap();
    let config = home.server(net.a, "af-packet")
        + &archive_target(&home, 0, "size = \"8 MiB\"")
        + &archive_target(&home, 1, "size = \"8 MiB\"");
    let file = home.path("refused.toml");
    fs::write(&file, config).unwrap();
    let (_, stderr) = ended(&run(["serve".as_ref(), "--config".as_ref(), file.as_os_str()]), 2);
    for told in ["target e1.0: ", "target e1.1: ", &home.path("archive").display().to_string()] {
        assert!(stderr.contains(told), "no {told}: {stderr}");
    }
    assert_eq!(fs::read_dir(home.path("archive")).unwrap().count(), 1, "it is as it was");
    // A volume without a size that is not there.
    let home = Home::new();
    let file = home.path("refused.toml");
    fs::write(&file, home.server(net.a, "af-packet") + &archive_target(&home, 0, "")).unwrap();
    let (_, stderr) = ended(&run(["serve".as_ref(), "--config".as_ref(), file.as_os_str()]), 2);
    assert!(stderr.contains("no volume e1.0") && stderr.contains("size"), "{stderr}");
}

/// As it stands but for the interface and the place, and its last part, which is commented out there.
#[test]
fn the_example_of_an_archive_serves_two_disks_that_share_blocks_and_a_snapshot() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let example = fs::read_to_string("config/cas-file.toml").unwrap();
    let archive = home.path("archive");
    let example = example
        .replace("[server]\ninterface = \"eth0\"\n", &home.server(net.a, "af-packet"))
        .replace("/data/aoe/blobs", archive.to_str().unwrap());
    let (disks, snapshot) = example.split_once("# The first disk as it was").unwrap();
    let (_, snapshot) = snapshot.split_once('\n').unwrap();
    let snapshot: Vec<_> =
        snapshot.lines().map(|line| line.strip_prefix('#').unwrap().trim_start()).collect();

    let other = Address::new(1, 1);
    let mut server = ServerProcess::start_in(&home, disks);
    let mut initiator = client(net.b);
    for address in [DISK, other] {
        assert_eq!(size(&mut initiator, address), 8 << 21);
        write_to(&mut initiator, address, 1);
    }
    yes(&home, "store commit");
    let ratio = ask_json(&home, "store usage")["dedup_ratio"].as_f64().unwrap();
    assert!(ratio >= 2.0, "{ratio}: a block is there once");
    yes(&home, "snapshot create e1.0@monday");
    write(&mut initiator, 2);
    server.reload(&format!("{disks}\n{}\n", snapshot.join("\n")));
    assert!(within(PATIENCE, || initiator.open(EXPORT).is_ok()), "{}", server.log());
    let found = [DISK, other, EXPORT].map(|address| read(&mut initiator, address));
    assert_eq!(found, [2, 1, 1]);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    let fsck = ["store", "fsck", archive.to_str().unwrap()];
    ended(&run(fsck.map(OsStr::new)), 0);
}
