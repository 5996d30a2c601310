//! Disks that fail under a journal and its images: a full one, and one that takes writes into the
//! cache and then cannot store them, so that syncs fail for real.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use aoe_server::client::ClientError;

use super::common::net::{MAC_A, TestNet};
use super::common::server::{Home, ServerProcess, client, packet_link};
use super::common::small_disk::{SmallDisk, done};
use super::common::stamper::{Chance, Stamper, UNIT};
use super::{MTU, e1, journalled, range, read_all, refused};

#[test]
fn a_journal_that_does_not_fit_its_disk_is_not_made_by_halves() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let Some(_mounted) = SmallDisk::mount(home.path("small"), 2 << 20) else { return };
    let config = journalled(&home, &net, "4 MiB").replace("/journal\"", "/small/journal\"");
    let config = config + &home.file_target(0, "image", "size = \"1 MiB\"");
    let why = refused(&home, &config);
    assert!(why.contains("cannot write") && why.contains("/small/journal.new"), "{why}");
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(fs::read_dir(home.path("small")).unwrap().count(), 0, "nothing is left there");
    // Once there is room it starts.
    let mut server = ServerProcess::start_in(&home, &config.replace("4 MiB", "1 MiB"));
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

/// A file system on a block device whose file has no room: what it has in its cache it cannot store.
struct SickDisk {
    place: PathBuf,
    device: String,
    filler: PathBuf,
    _room: SmallDisk,
}

impl SickDisk {
    fn mount(home: &Home) -> Option<Self> {
        let room = SmallDisk::mount(home.path("room"), 12 << 20)?;
        let backing = home.path("room").join("backing");
        File::create(&backing).unwrap().set_len(32 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&backing).output();
        let device = made.ok().filter(|made| made.status.success()).map(|made| made.stdout);
        let Some(device) = device else {
            let why = "no loop device is to be had";
            let must = std::env::var_os("CI").is_some() && Path::new("/dev/loop-control").exists();
            assert!(!must, "{why}");
            eprintln!("SKIPPED: {why}");
            return None;
        };
        let device = String::from_utf8(device).unwrap().trim().to_owned();
        let (place, filler) = (home.path("sick"), home.path("room").join("filler"));
        fs::create_dir(&place).unwrap();
        let disk = Self { place, device, filler, _room: room };
        let format = ["-q", "-F", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=0"];
        assert!(done(Command::new("mkfs.ext4").args(format).arg(&disk.device)));
        assert!(done(Command::new("mount").arg(&disk.device).arg(&disk.place)));
        Some(disk)
    }

    /// Leaves no room for what is still to be stored.
    fn fall_ill(&self) {
        let mut filler = File::create(&self.filler).unwrap();
        for size in [64 << 10, 4096] {
            while filler.write_all(&vec![0xa5; size]).is_ok() {}
        }
    }

    fn recover(&self) {
        fs::remove_file(&self.filler).unwrap();
    }
}

impl Drop for SickDisk {
    fn drop(&mut self) {
        done(Command::new("umount").arg("--lazy").arg(&self.place));
        done(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

/// The journal has the only sure copy then: its target stops, the others go on as long as there is
/// room, and the next start brings everything in.
#[test]
fn an_image_that_cannot_be_synced_stops_and_loses_nothing() {
    const UNITS: usize = 512;
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let Some(disk) = SickDisk::mount(&home) else { return };
    let size = format!("size = \"{} B\"", UNITS * UNIT);
    let sick = home.file_target(0, "sick/image", &size);
    let sound = home.file_target(1, "sound", &size);
    let start = journalled(&home, &net, "1 MiB");
    let config = format!("{start}{sick}{sound}");
    let mut server = ServerProcess::start_in(&home, &config);
    let stamper = |slot| Stamper::new(packet_link(net.b), MAC_A, e1(slot), UNITS, Chance::new());
    let [mut ill, mut well] = [0, 1].map(stamper);
    disk.fall_ill();
    assert_eq!((ill.write_one(0), well.write_one(0)), (None, None), "the journal is enough");

    // One record each: in the end the journal is full, whatever is done.
    let mut unit = 0;
    let mut stopped = |stamper: &mut Stamper| {
        (0..2 * UNITS).any(|_| {
            unit = (unit + 1) % UNITS;
            stamper.write_one(unit).is_some_and(|failure| failure.what == "61/04")
        })
    };
    assert!(stopped(&mut ill), "room cannot be made: {}", server.log());
    let log = server.wait_for_log("SYNC FAILED");
    assert!(
        log.contains("sick/image: SYNC FAILED") && !log.contains("FAILED, it is full"),
        "{log}"
    );
    assert_eq!(well.write_one(1), None, "the others go on");
    // Nobody knows what the cache has of it.
    let mut client = client(net.b);
    let disk_of = client.open(e1(0)).unwrap();
    let read = client.read(&range(&disk_of, 0, 2), &mut Vec::new(), &mut |_| ());
    assert!(matches!(read, Err(ClientError::Ata { error: 0x40, .. })), "{read:?}");
    // It is not taken up again as if nothing had happened.
    server.reload(&format!("{start}{sound}"));
    server.wait_for_log("1 targets on");
    server.reload(&config);
    server.wait_for_log("restart the server, which replays it");
    assert!(stopped(&mut well), "the journal is never full");
    server.wait_for_log("FAILED, it is full and cannot be emptied");

    assert_eq!(server.terminate().code(), Some(1), "{}", server.log());
    assert!(server.log().contains("still has writes that are needed"), "{}", server.log());
    disk.recover();
    let mut server = ServerProcess::start_in(&home, &config);
    server.wait_for_log("the last server did not come to its end");
    for (slot, stamper) in [(0, &mut ill), (1, &mut well)] {
        let faults = stamper.check(&read_all(&net, slot));
        assert!(faults.is_empty(), "target {slot}: {faults:#?} {}", server.log());
    }
    assert_eq!((ill.write_one(0), well.write_one(0)), (None, None));
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    // Pages that once could not be stored may be in the cache only, whatever syncs have said.
    let image = File::open(home.path("sick").join("image")).unwrap();
    rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let faults = ill.check(&fs::read(home.path("sick").join("image")).unwrap());
    assert!(faults.is_empty(), "on the disk: {faults:#?}");
}
