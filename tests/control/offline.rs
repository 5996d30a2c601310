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
fn an_export_goes_into_a_file_or_a_block_device_and_nothing_else() {
    let home = Home::new();
    let image = imported(&home);
    let refuses = |path: &std::path::Path, told: &str| {
        for more in ["", " --overwrite"] {
            let export = format!("image export disk {}{more}", path.display());
            let (_, stderr) = ended(&alone(&home, &export), 2);
            assert!(stderr.contains(told), "{stderr}");
        }
    };
    let directory = home.path("directory");
    fs::create_dir(&directory).unwrap();
    refuses(&directory, "neither a file nor a block device");
    refuses("/dev/null".as_ref(), "neither a file nor a block device");
    let fifo = home.path("fifo");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    refuses(&fifo, "neither a file nor a block device");
    let link = home.path("link");
    std::os::unix::fs::symlink(home.path("nowhere"), &link).unwrap();
    refuses(&link, "leads nowhere");
    // What is there is told before anything is looked for in the archive.
    let copy = home.path("copy");
    fs::write(&copy, "precious").unwrap();
    let (_, stderr) = ended(&alone(&home, &format!("image export gone {}", copy.display())), 2);
    assert!(stderr.contains("is there already; --overwrite"), "{stderr}");
    assert_eq!(fs::read_to_string(&copy).unwrap(), "precious");
    // Something else has the name that the image would have for a while.
    let (new, unfinished) = (home.path("new"), home.path("new.unfinished"));
    std::os::unix::fs::symlink(&copy, &unfinished).unwrap();
    ended(&alone(&home, &format!("image export disk {}", new.display())), 2);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "precious");
    // What was killed has left it: longer perhaps, and of other octets.
    fs::remove_file(&unfinished).unwrap();
    fs::write(&unfinished, vec![9; image.len() + 5000]).unwrap();
    ended(&alone(&home, &format!("image export disk {}", new.display())), 0);
    assert!(fs::read(&new).unwrap() == image);
    assert!(!unfinished.exists());
}

/// An image that was not there before had its name from the first octet on.
#[test]
fn an_export_that_is_killed_or_interrupted_leaves_nothing_that_has_the_name_of_the_image() {
    let home = Home::new();
    imported(&home);
    let large = home.path("large");
    let piece: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    fs::write(&large, piece.repeat(96)).unwrap();
    ended(&alone(&home, &format!("image import {} large", large.display())), 0);
    let (copy, unfinished) = (home.path("copy"), home.path("copy.unfinished"));
    let signalled = |signal: Signal| {
        // It may have come to its end by the time.
        for _ in 0..50 {
            // By its coming the time is told at which Ctrl-C is looked for.
            let _ = fs::remove_file(&unfinished);
            let words = ["image", "export", "large", copy.to_str().unwrap(), "--store"];
            let mut command = program(words);
            let child = command.arg(home.path("archive")).stderr(std::process::Stdio::piped());
            let mut child = child.spawn().unwrap();
            let begun = || unfinished.exists() || copy.exists();
            assert!(within(PATIENCE, || begun() || child.try_wait().unwrap().is_some()));
            let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal);
            let output = child.wait_with_output().unwrap();
            if !output.status.success() {
                assert!(!copy.exists(), "{signal}");
                return output;
            }
            assert!(fs::read(&copy).unwrap() == fs::read(&large).unwrap());
            fs::remove_file(&copy).unwrap();
        }
        panic!("every export was too fast");
    };
    signalled(Signal::SIGKILL);
    assert!(unfinished.exists());
    let (_, stderr) = ended(&signalled(Signal::SIGINT), 2);
    assert!(stderr.contains("was not written: interrupted"), "{stderr}");
    assert!(!unfinished.exists());
    ended(&alone(&home, &format!("image export large {}", copy.display())), 0);
    assert!(fs::read(&copy).unwrap() == fs::read(&large).unwrap());
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
