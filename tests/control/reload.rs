//! Archives come and go with the targets in them; snapshots that were exported stay, and a target that
//! cannot answer keeps nobody waiting.

use std::fs;
use std::time::Duration;

use aoe_server::client::Range;
use aoe_server::units::{Lba, Sectors};

use crate::common::net::{PATIENCE, TestNet, within};
use crate::common::noise::noise;
use crate::common::server::{Home, ServerProcess, client, ended, mem_target, run};
use crate::common::small_disk::{SmallDisk, fill};
use crate::{archive_target, ask, ask_json};

const MTU: usize = 9000;

/// The addresses of all targets, and whether each was exported.
fn targets(home: &Home) -> Vec<(String, bool)> {
    let status = ask_json(home, "status");
    let targets = status["targets"].as_array().unwrap();
    let of = |target: &serde_json::Value| {
        (target["target"].as_str().unwrap().to_owned(), target["exported"] == true)
    };
    targets.iter().map(of).collect()
}

/// Reloads, and waits until it is done.
fn reload(server: &ServerProcess, config: &str) {
    const DONE: &str = " targets on ";
    let before = server.log().matches(DONE).count();
    server.reload(config);
    server.wait_for_log_again(DONE, before + 1);
}

#[test]
fn an_archive_is_closed_with_its_last_target_and_exports_outlive_reloads() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let steady = home.server(net.a, "af-packet") + &mem_target(5, "64 KiB", "");
    let with = |targets: &[String]| steady.clone() + &targets.concat();
    let disk = |slot| archive_target(&home, slot, "size = \"4 MiB\"");
    let mut server = ServerProcess::start_in(&home, &with(&[disk(0), disk(1)]));
    let mut initiator = client(net.b);
    let pair = |address: &str, exported| (address.to_owned(), exported);
    ended(&ask(&home, "snapshot create e1.0@kept"), 0);
    ended(&ask(&home, "snapshot export e1.0@kept e1.9"), 0);
    let log = || server.log().matches("closing archive").count();

    // One target fewer, and then none but the export: the archive stays.
    reload(&server, &with(&[disk(0)]));
    assert_eq!(targets(&home), [pair("e1.0", false), pair("e1.5", false), pair("e1.9", true)]);
    reload(&server, &with(&[]));
    assert_eq!((targets(&home), log()), (vec![pair("e1.5", false), pair("e1.9", true)], 0));
    initiator.open("e1.9".parse().unwrap()).expect("it serves");

    // Something else of the archive: it is closed and opened, with the export in it.
    let other = disk(0).replace("journal_size", "cache_size = \"8 MiB\"\njournal_size");
    reload(&server, &with(std::slice::from_ref(&other)));
    assert_eq!(log(), 1);
    assert_eq!(targets(&home), [pair("e1.0", false), pair("e1.5", false), pair("e1.9", true)]);
    assert_eq!(ask_json(&home, "store info")["cache"]["most"], 8 << 20);
    initiator.open("e1.9".parse().unwrap()).expect("it serves");

    // A target of the configuration takes the place of an export.
    let there = archive_target(&home, 9, "size = \"4 MiB\"");
    reload(&server, &with(&[other.clone(), there]));
    server.wait_for_log("e1.9: snapshot e1.0@kept");
    assert_eq!(targets(&home), [pair("e1.0", false), pair("e1.5", false), pair("e1.9", false)]);

    // What cannot be changes nothing: blocks have the size that they have.
    let wrong = other.replace("[target.cas]", "[target.cas]\nblock_size = 4096");
    reload(&server, &with(&[wrong]));
    assert!(server.log().contains("that cannot be changed"), "{}", server.log());
    assert_eq!(targets(&home), [pair("e1.0", false), pair("e1.5", false)]);
    initiator.open("e1.0".parse().unwrap()).expect("it serves as before");

    // Nobody is left in it: a command can have it.
    reload(&server, &with(&[]));
    assert_eq!(targets(&home), [pair("e1.5", false)]);
    let archive = home.path("archive");
    let alone =
        || run(["volume".as_ref(), "list".as_ref(), "--store".as_ref(), archive.as_os_str()]);
    let mut output = alone();
    assert!(within(PATIENCE, || {
        output = alone();
        output.status.success()
    }));
    let (table, _) = ended(&output, 0);
    assert_eq!(table.lines().count(), 4, "{table}");
    // And the server again.
    reload(&server, &with(&[disk(0)]));
    initiator.open("e1.0".parse().unwrap()).expect("it serves");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn a_target_that_cannot_answer_leaves_when_it_can_and_comes_back_with_a_reload() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let small = home.path("small");
    let Some(_mounted) = SmallDisk::mount(small.clone(), 24 << 20) else { return };
    let steady = home.server(net.a, "af-packet") + &mem_target(5, "64 KiB", "");
    let config = |more: &str| {
        let disk = archive_target(&home, 0, "size = \"16 MiB\"");
        let disk = disk.replace("/archive\"", "/small/archive\"");
        steady.clone() + &disk.replace("slot = 0", &format!("slot = 0\n{more}"))
    };
    let mut server = ServerProcess::start_in(&home, &config(""));
    let mut initiator = client(net.b);

    // More than the journal has room for, and no commit can make any.
    fill(&small.join("ballast"));
    let mut octets = vec![0; 8 << 20];
    noise(1, &mut octets);
    let address = "e1.0".parse().unwrap();
    let disk = initiator.open(address).unwrap();
    let count = Sectors::from_bytes(octets.len() as u64);
    let range = Range { disk: &disk, lba: Lba(0), count, depth: 16 };
    initiator.write(&range, &mut &octets[..], &mut |_| ()).expect_err("there is no room");

    // It takes no more, but does not get rid of what it has.
    server.reload(&config("serial = \"other\""));
    let waits = "target e1.0 still waits to answer what it has taken";
    let told = within(Duration::from_mins(1), || server.log().contains(waits));
    assert!(told, "{}", server.log());
    let others = || vec![(String::from("e1.5"), false)];
    assert!(within(PATIENCE, || targets(&home) == others()));
    reload(&server, &config("serial = \"other\""));
    assert_eq!(targets(&home), others(), "there is no room still");
    initiator.open("e1.5".parse().unwrap()).expect("the others are served");

    fs::remove_file(small.join("ballast")).unwrap();
    let back = within(Duration::from_mins(1), || {
        reload(&server, &config("serial = \"other\""));
        targets(&home).len() == 2
    });
    assert!(back, "{}", server.log());
    let disk = initiator.open(address).unwrap();
    let range = Range { disk: &disk, lba: Lba(0), count, depth: 16 };
    initiator.write(&range, &mut &octets[..], &mut |_| ()).unwrap();
    let mut found = Vec::new();
    initiator.read(&range, &mut found, &mut |_| ()).unwrap();
    assert!(found == octets);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}
