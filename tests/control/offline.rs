//! Archives that no server has open.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::net::{PATIENCE, within};
use crate::common::server::{Home, as_nobody, ended, program, run};
use crate::{objects, octets};

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
    // Children of other tests may have the copy open for writing until they have started.
    let version: [&std::ffi::OsStr; 1] = ["--version".as_ref()];
    let runs = || as_nobody(&program, "-all", &version).output().unwrap().status.success();
    if !within(PATIENCE, runs) {
        let why = "cannot become another user; try as root";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
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

/// An archive with a volume `disk`, and the image that it was made of: two pieces of data in 4 MiB.
fn imported(home: &Home) -> Vec<u8> {
    ended(&init(home, &["--journal-size", "1 MiB"]), 0);
    let mut image = vec![0; 4 << 20];
    for (n, word) in image[1 << 20..2 << 20].chunks_mut(4).enumerate() {
        word.copy_from_slice(&u32::try_from(n).unwrap().wrapping_mul(0x9e37_79b9).to_le_bytes());
    }
    image[3 << 20..][..512].fill(7);
    fs::write(home.path("image"), &image).unwrap();
    ended(&alone(home, &format!("image import {} disk", home.path("image").display())), 0);
    image
}

/// It once named the first sector of the megabyte, and what had been the image was gone.
#[test]
fn damage_is_exported_as_zeros_on_demand_and_named_exactly() {
    let home = Home::new();
    let image = imported(&home);
    let pack = octets::packs(&home.path("archive"))
        .into_iter()
        .find(octets::Pack::has_blocks)
        .expect("the image is there");
    octets::flip(&pack.path, pack.frames[0].offset + octets::FRAME_HEADER);
    let copy = home.path("copy");
    fs::write(&copy, "the old image").unwrap();
    let export = format!("image export disk {} --overwrite", copy.display());
    let (_, stderr) = ended(&alone(&home, &export), 2);
    assert!(stderr.contains("--skip-damaged"), "{stderr}");
    assert_eq!(fs::read_to_string(&copy).unwrap(), "the old image");

    let (stdout, listed) = ended(&alone(&home, &format!("{export} --skip-damaged --json")), 1);
    let told = objects(&stdout).remove(0);
    let [range] = told["damaged"].as_array().unwrap().as_slice() else { panic!("{told}") };
    let [lba, sectors] = ["lba", "sectors"].map(|key| range[key].as_u64().unwrap());
    assert_eq!(sectors, 32, "a block: {told}");
    assert!(stderr.contains(&format!("at sector {lba}:")), "{lba}: {stderr}");
    let line = format!("damaged: sectors {lba} to {} are zeros in the image", lba + 31);
    assert!(listed.contains(&line), "{listed}");
    let mut expected = image;
    expected[usize::try_from(lba).unwrap() * 512..][..32 * 512].fill(0);
    assert!(fs::read(&copy).unwrap() == expected);
    assert!(!home.path("copy.unfinished").exists());
    // One that was not there is not left behind in part.
    let new = home.path("new");
    ended(&alone(&home, &format!("image export disk {}", new.display())), 2);
    assert!(!new.exists());
}

#[test]
fn an_export_replaces_a_whole_image_reads_no_zeros_and_says_no_as_others_do() {
    let home = Home::new();
    let image = imported(&home);
    let copy = home.path("copy");
    let link = home.path("link");
    fs::write(&copy, "the old image").unwrap();
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    ended(&alone(&home, &format!("image export disk {} --overwrite", link.display())), 0);
    assert!(fs::read(&copy).unwrap() == image);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

    // A terabyte of nothing takes no time: this would end some ten minutes from now.
    ended(&alone(&home, "volume create huge 1TiB"), 0);
    let huge = home.path("huge");
    ended(&alone(&home, &format!("image export huge {}", huge.display())), 0);
    let found = fs::metadata(&huge).unwrap();
    assert_eq!(found.len(), 1 << 40);
    assert!(found.blocks() < 64, "{}", found.blocks());

    let nowhere = home.path("nowhere");
    for (source, told) in [("gone", "no volume gone"), ("disk@gone", "no snapshot disk@gone")] {
        let export = format!("image export {source} {}", nowhere.display());
        let (_, stderr) = ended(&alone(&home, &export), 1);
        assert!(stderr.contains(told) && !stderr.contains("size"), "{stderr}");
    }
    assert!(!nowhere.exists());
}

#[test]
fn an_import_replaces_nothing_unasked_and_leaves_nothing_half_done() {
    let home = Home::new();
    imported(&home);
    let image = home.path("image");
    let import = format!("image import {} disk", image.display());
    let (_, stderr) = ended(&alone(&home, &import), 1);
    assert!(stderr.contains("volume disk") && stderr.contains("--overwrite"), "{stderr}");
    ended(&alone(&home, &format!("{import} --overwrite")), 0);
    let large = home.path("large");
    let file = File::create(&large).unwrap();
    file.set_len(8 << 20).unwrap();
    let import = format!("image import {} disk --overwrite", large.display());
    let (_, stderr) = ended(&alone(&home, &import), 1);
    assert!(stderr.contains("has 4 MiB") && stderr.contains("has 8 MiB"), "{stderr}");

    // Interrupted as soon as there is something of the volume in the archive.
    for megabyte in 0..512_u64 {
        file.write_all_at(&vec![1; 1 << 20], megabyte << 20).unwrap();
        file.write_all_at(&megabyte.to_le_bytes(), megabyte << 20).unwrap();
    }
    // Some of them may be half written.
    let blobs = || {
        let shards = fs::read_dir(home.path("archive")).unwrap().map(|shard| shard.unwrap());
        let shards = shards.filter(|shard| shard.file_name().len() == 2);
        shards.map(|shard| fs::read_dir(shard.path()).unwrap().count()).sum::<usize>()
    };
    let before = blobs();
    let words = ["image", "import", large.to_str().unwrap(), "other", "--store"];
    let mut command = program(words);
    let child = command.arg(home.path("archive")).stderr(std::process::Stdio::piped()).spawn();
    let child = child.unwrap();
    assert!(within(PATIENCE, || blobs() > before));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let (_, stderr) = ended(&child.wait_with_output().unwrap(), 2);
    assert!(stderr.contains("volume other was not made: interrupted"), "{stderr}");
    let (listed, _) = ended(&alone(&home, "volume list"), 0);
    assert!(!listed.contains("other"), "{listed}");
}
