//! Archives that no server has open.

use std::process::Output;

use crate::common::server::{Home, as_nobody, ended, run};
use crate::objects;

/// Runs a command on the archive in `home`.
fn alone(home: &Home, line: &str) -> Output {
    let archive = home.path("archive");
    let words = line.split(' ').map(std::ffi::OsStr::new);
    run(words.chain(["--store".as_ref(), archive.as_os_str()]))
}

fn init(home: &Home, more: &[&str]) -> Output {
    let archive = home.path("archive");
    let words = ["store".as_ref(), "init".as_ref(), archive.as_os_str()];
    run(words.into_iter().chain(more.iter().map(std::ffi::OsStr::new)))
}

#[test]
fn an_archive_is_made_filled_and_looked_at_by_commands_alone() {
    let home = Home::new();
    let (_, stderr) = ended(&alone(&home, "volume list"), 1);
    assert!(stderr.contains("store init"), "{stderr}");
    assert!(!home.path("archive").exists(), "looking makes none");
    ended(&init(&home, &["--block-size", "5000"]), 2);
    let small = ["--journal-size", "1 MiB", "--block-size", "4096"];
    ended(&init(&home, &small), 0);
    let (_, stderr) = ended(&init(&home, &small), 1);
    assert!(stderr.contains("already"), "{stderr}");

    ended(&alone(&home, "volume list"), 1);
    ended(&alone(&home, "volume create disk 1GiB"), 0);
    ended(&alone(&home, "snapshot create disk@empty"), 0);
    ended(&alone(&home, "snapshot clone disk@empty copy"), 0);
    ended(&alone(&home, "snapshot diff disk@empty"), 0);
    let volumes = objects(&ended(&alone(&home, "volume list --json"), 0).0);
    let names: Vec<_> = volumes.iter().map(|volume| volume["volume"].as_str().unwrap()).collect();
    assert_eq!(names, ["copy", "disk"]);
    assert_eq!((&volumes[1]["size"], &volumes[1]["snapshots"]), (&(1 << 30).into(), &1.into()));
    let snapshots = objects(&ended(&alone(&home, "snapshot list --json"), 0).0);
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0]["snapshot"], "empty");
    let (table, _) = ended(&alone(&home, "snapshot list disk"), 0);
    assert!(table.lines().nth(1).unwrap().starts_with("disk@empty  1 GiB  20"), "{table}");
    ended(&alone(&home, "snapshot restore disk@empty"), 0);
    ended(&alone(&home, "volume delete copy"), 0);
    let info = objects(&ended(&alone(&home, "store info --json"), 0).0);
    assert_eq!((&info[0]["block_size"], &info[0]["volumes"]), (&4096.into(), &1.into()));
    let (text, _) = ended(&alone(&home, "store info"), 0);
    assert!(text.contains("blocks       4 KiB, packed"), "{text}");
    ended(&alone(&home, "store commit"), 0);
}

/// It was once said to be no archive, and how to make one.
#[test]
fn an_archive_that_may_not_be_looked_into_is_told_from_none() {
    let home = Home::new();
    ended(&init(&home, &["--journal-size", "1 MiB"]), 0);
    home.open_to_everybody();
    let (program, archive) = (home.program(), home.path("archive"));
    for command in ["store info", "volume list", "image export disk /nowhere"] {
        let words = command.split(' ').map(std::ffi::OsStr::new);
        let words: Vec<_> = words.chain(["--store".as_ref(), archive.as_os_str()]).collect();
        let (_, stderr) = ended(&as_nobody(&program, "-all", &words).output().unwrap(), 2);
        assert!(stderr.contains("Permission denied"), "{stderr}");
        assert!(!stderr.contains("store init"), "{stderr}");
    }
    let repair = ["store", "repair", "--index"].map(std::ffi::OsStr::new);
    let repair: Vec<_> = repair.into_iter().chain([archive.as_os_str()]).collect();
    let (_, stderr) = ended(&as_nobody(&program, "-all", &repair).output().unwrap(), 2);
    assert!(stderr.contains("Permission denied"), "{stderr}");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_asked() {
    let home = Home::new();
    for line in [
        "snapshot create e1.0",
        "snapshot create e1.0@",
        "snapshot create @x",
        "snapshot list -x",
        "snapshot diff a@x b@y",
        "snapshot export e1.0@x e1.*",
        "snapshot export e1.0@x e1.9",
        "snapshot unexport e1.9",
        "volume create disk",
        "volume create disk 1000",
        "volume create disk 1000B",
        "volume create a/b 1MiB",
        "volume list --socket /nowhere",
    ] {
        let (stdout, stderr) = ended(&alone(&home, line), 2);
        assert_eq!(stdout, "", "{line}");
        assert!(!stderr.is_empty(), "{line}");
    }
    assert!(!home.path("archive").exists());
}
