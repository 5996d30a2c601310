//! What is particular to image files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Stdio;

use aoe_server::storage::file::FileError;
use aoe_server::wake::Waker;

use super::*;

#[test]
fn a_file_passes_the_suite() {
    let dir = disk_dir();
    suite(&mut open_with(&dir.path().join("durable"), sized()));
    let waker = Some(Waker::new().unwrap());
    suite(&mut open_with(&dir.path().join("woken"), FileOptions { waker, ..sized() }));
}

#[test]
fn a_journalled_file_passes_the_suite() {
    let dir = disk_dir();
    suite(&mut open_with(&dir.path().join("image"), journalled(&dir)));
    suite(&mut open_with(&dir.path().join("another"), journalled(&dir)));
}

#[test]
fn a_file_is_created_sparse_and_kept() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    let options = || FileOptions { size: Some(Sectors(1 << 21)), ..FileOptions::default() };
    let mut disk = open_with(&path, options());
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), metadata.blocks()), (1 << 30, 0));
    assert_eq!(read(&mut disk, 1_000_000, 16).unwrap(), vec![0; 16 * SECTOR_SIZE], "a hole");
    put(&mut disk, 1_000_000, &pattern(3, 7)).unwrap();
    disk.close().unwrap();
    let mut disk = open_with(&path, options());
    assert_eq!(read(&mut disk, 1_000_000, 3).unwrap(), pattern(3, 7));
    assert!(fs::metadata(&path).unwrap().blocks() < 1000);
}

#[test]
fn a_disk_keeps_its_serial() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    let first = open_with(&path, sized()).info().serial;
    assert_eq!(open_with(&path, sized()).info().serial, first);
    assert!(first.as_str().len() > 8);
    assert_ne!(open_with(&dir.path().join("other"), sized()).info().serial, first);
    let named = FileOptions { serial: Some("e1.0".into()), ..sized() };
    assert_eq!(open_with(&path, named).info().serial.as_str(), "e1.0");
}

#[test]
fn dropping_makes_all_writes_durable() {
    let dir = disk_dir();
    for sync in [SyncPolicy::EveryGroup, SyncPolicy::OnFlush] {
        let path = dir.path().join("image");
        let mut disk = open_with(&path, FileOptions { sync, ..sized() });
        for lba in 0..SIZE {
            write(&mut disk, lba, &[lba.to_le_bytes()[0] ^ 0x3c; SECTOR_SIZE]).unwrap();
        }
        drop(disk);
        let octets = fs::read(&path).unwrap();
        for (sector, lba) in octets.chunks(SECTOR_SIZE).zip(0_u64..) {
            assert_eq!(sector, [lba.to_le_bytes()[0] ^ 0x3c; SECTOR_SIZE], "sector {lba}");
        }
    }
}

#[test]
fn a_volatile_file_is_durable_after_a_flush() {
    let dir = disk_dir();
    let options = FileOptions { sync: SyncPolicy::OnFlush, ..sized() };
    let mut disk = open_with(&dir.path().join("image"), options);
    let ticket = write(&mut disk, 0, &pattern(1, 1)).unwrap();
    applied(&mut disk, ticket);
    assert!(disk.durable() < ticket);
    let flush = taken(&mut disk, BlockStorage::flush).unwrap();
    durable(&mut disk, flush).unwrap();
    assert!(disk.durable() > ticket);
}

#[test]
fn a_locked_image_is_refused_and_its_holder_named() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    let disk = open_with(&path, sized());
    let error = FileStorage::open(&path, sized()).unwrap_err();
    let FileError::InUse { holder: Some(holder), .. } = &error else { panic!("{error}") };
    assert_eq!(holder.pid, std::process::id());
    let reader = FileOptions { read_only: true, ..FileOptions::default() };
    assert!(matches!(FileStorage::open(&path, reader), Err(FileError::InUse { .. })));
    drop(disk);

    // Another program: `flock` holds the lock as long as the `cat` it runs waits for its input.
    let mut other = Command::new("flock")
        .arg(&path)
        .args(["sh", "-c", "echo locked; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    other.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let error = FileStorage::open(&path, sized()).unwrap_err();
    let text = error.to_string();
    let FileError::InUse { holder: Some(holder), .. } = error else { panic!("{text}") };
    assert_eq!(holder.pid, other.id());
    assert!(text.ends_with(&format!("is in use by flock (pid {})", other.id())), "{text}");
    drop(other.stdin.take());
    other.wait().unwrap();
    open_with(&path, sized());
}

#[test]
fn readers_share_an_image() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    put(&mut open_with(&path, sized()), 9, &pattern(1, 2)).unwrap();
    let options = || FileOptions { read_only: true, ..FileOptions::default() };
    let mut disks = [open_with(&path, options()), open_with(&path, options())];
    for disk in &mut disks {
        refuses_writes(disk);
        assert_eq!(read(disk, 9, 1).unwrap(), pattern(1, 2));
    }
    assert!(matches!(FileStorage::open(&path, sized()), Err(FileError::InUse { .. })));
}

#[test]
fn what_cannot_be_opened_is_told_apart() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    let open = |options| FileStorage::open(&path, options).map(|_| ()).unwrap_err();
    let plain = FileOptions::default;
    assert!(matches!(open(plain()), FileError::NotFound { .. }));
    let reader = FileOptions { read_only: true, ..sized() };
    assert!(matches!(open(reader), FileError::NotFound { .. }));
    assert!(!path.exists());
    File::create(&path).unwrap();
    assert!(matches!(open(plain()), FileError::Empty { bytes: 0, .. }));
    fs::write(&path, [1; 511]).unwrap();
    assert!(matches!(open(plain()), FileError::Empty { bytes: 511, .. }));
    fs::write(&path, [1; 5 * SECTOR_SIZE]).unwrap();
    let error = open(sized());
    assert!(matches!(error, FileError::SizeDiffers { found: 2560, wanted: 512_000, .. }));
    assert_eq!(fs::metadata(&path).unwrap().len(), 2560, "left as it was");
    let window = FileOptions { offset: Sectors(3), length: Some(Sectors(3)), ..plain() };
    assert!(matches!(open(window), FileError::Window { .. }));
    let huge = FileOptions { size: Some(Sectors(u64::MAX)), ..plain() };
    assert!(matches!(open(huge), FileError::TooLarge { .. }));
    let directory = FileStorage::open(dir.path(), sized()).unwrap_err();
    assert!(matches!(directory, FileError::IsDirectory { .. }), "{directory}");
    let device = FileStorage::open("/dev/null", plain()).unwrap_err();
    assert!(matches!(device, FileError::NotAFile { .. }), "{device}");
    let nowhere = FileStorage::open(dir.path().join("no/image"), sized()).unwrap_err();
    assert!(matches!(nowhere, FileError::NotFound { .. }), "{nowhere}");
    let below = FileStorage::open(path.join("image"), sized()).unwrap_err();
    assert!(matches!(below, FileError::Io { op: "open", .. }), "{below}");
}

#[test]
fn no_permission_is_told() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    fs::write(&path, [0; 4096]).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    let open = move || FileStorage::open(&path, FileOptions::default()).map(|_| ());
    // Root may everything, but for a thread that has given its capabilities up.
    let opened = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            };
            rustix::thread::set_capabilities(None, sets).unwrap();
        }
        open()
    });
    let error = opened.join().unwrap().unwrap_err();
    assert!(matches!(error, FileError::NoPermission { write: true, .. }), "{error}");
}

#[test]
fn an_interrupted_creation_is_taken_up_again() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    File::create(&path).unwrap();
    assert_eq!(open_with(&path, sized()).info().size, Sectors(SIZE));
    assert_eq!(fs::metadata(&path).unwrap().len(), BYTES as u64);
}

#[test]
fn a_window_is_a_disk_of_its_own() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    let before = pattern(30, 6);
    fs::write(&path, [&before[..], &[0xcc; 100]].concat()).unwrap();
    let options =
        FileOptions { offset: Sectors(7), length: Some(Sectors(11)), ..FileOptions::default() };
    let mut disk = open_with(&path, options);
    assert_eq!(disk.info().size, Sectors(11));
    assert_eq!(read(&mut disk, 0, 11).unwrap(), before[7 * SECTOR_SIZE..18 * SECTOR_SIZE]);
    assert_eq!(read(&mut disk, 11, 1), Err(Fault::OutOfRange));
    put(&mut disk, 10, &[0xdd; SECTOR_SIZE]).unwrap();
    assert_eq!(write(&mut disk, 11, &[0xdd; SECTOR_SIZE]), Err(Fault::OutOfRange));
    if disk.info().discard {
        let ticket = taken(&mut disk, |disk| disk.discard(Lba(0), Sectors(1))).unwrap();
        durable(&mut disk, ticket).unwrap();
    }
    let discarded = disk.info().discard;
    drop(disk);
    let mut want = [&before[..], &[0xcc; 100]].concat();
    want[17 * SECTOR_SIZE..18 * SECTOR_SIZE].fill(0xdd);
    if discarded {
        want[7 * SECTOR_SIZE..8 * SECTOR_SIZE].fill(0);
    }
    assert!(fs::read(&path).unwrap() == want, "nothing outside has changed");
}

/// Every sector of an image that was cut short under a running target is either right or an error.
#[test]
fn a_truncated_image_is_a_medium_error_until_it_is_whole() {
    const CUT: u64 = 512; // sectors; a chunk ends here
    let dir = disk_dir();
    let path = dir.path().join("image");
    let mut disk = open_with(&path, sized());
    let data: Vec<u8> = (0..SIZE).flat_map(|lba| pattern(1, lba.to_le_bytes()[0])).collect();
    for (part, lba) in data.chunks(8 * SECTOR_SIZE).zip((0..).step_by(8)) {
        put(&mut disk, lba, part).unwrap();
    }
    let sector = |lba: u64| {
        let at = usize::try_from(lba).unwrap() * SECTOR_SIZE;
        &data[at..at + SECTOR_SIZE]
    };
    let image = File::options().write(true).open(&path).unwrap();
    for _ in 0..3 {
        for lba in 0..SIZE {
            assert_eq!(read(&mut disk, lba, 1).unwrap(), sector(lba));
        }
        // All of it is hot now: the first of these reads runs into the missing pages.
        image.set_len(CUT * SECTOR_SIZE as u64).unwrap();
        assert_eq!(read(&mut disk, 700, 2), Err(Fault::Media));
        assert_eq!(read(&mut disk, CUT - 1, 2), Err(Fault::Media));
        for lba in 0..SIZE {
            match read(&mut disk, lba, 1) {
                Ok(octets) => assert!(lba < CUT && octets == sector(lba), "sector {lba}"),
                Err(fault) => assert!(lba >= CUT && fault == Fault::Media, "sector {lba}"),
            }
        }
        // A write behind the end would bring the lost sectors back as zeros.
        assert_eq!(put(&mut disk, SIZE - 1, sector(SIZE - 1)), Err(Fault::Media));
        put(&mut disk, 3, sector(3)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), CUT * SECTOR_SIZE as u64);

        let at = usize::try_from(CUT).unwrap() * SECTOR_SIZE;
        image.write_all_at(&data[at..], at as u64).unwrap();
        until(&mut disk, |disk| read(disk, 700, 2).ok());
        for lba in 0..SIZE {
            let octets = until(&mut disk, |disk| read(disk, lba, 1).ok());
            assert_eq!(octets, sector(lba));
        }
        put(&mut disk, SIZE - 1, sector(SIZE - 1)).unwrap();
    }
}

#[test]
fn a_new_size_is_taken_over_when_told() {
    let dir = disk_dir();
    let path = dir.path().join("image");
    let mut disk = open_with(&path, sized());
    assert!(!disk.measure_again().unwrap());
    let image = File::options().write(true).open(&path).unwrap();
    image.set_len(2 * BYTES as u64).unwrap();
    assert_eq!(read(&mut disk, SIZE, 1), Err(Fault::OutOfRange));
    assert!(disk.measure_again().unwrap());
    assert_eq!(disk.info().size, Sectors(2 * SIZE));
    put(&mut disk, 2 * SIZE - 1, &pattern(1, 5)).unwrap();
    assert_eq!(read(&mut disk, 2 * SIZE - 1, 1).unwrap(), pattern(1, 5));
    image.set_len(100).unwrap();
    assert!(matches!(disk.measure_again(), Err(FileError::Empty { .. })));
    image.set_len(BYTES as u64 / 2).unwrap();
    assert!(disk.measure_again().unwrap());
    assert_eq!(disk.info().size, Sectors(SIZE / 2));
    assert_eq!(read(&mut disk, SIZE / 2, 1), Err(Fault::OutOfRange));
    assert_eq!(read(&mut disk, SIZE / 2 - 1, 1).unwrap(), [0; SECTOR_SIZE]);
}

/// Writes `sectors` sectors to an image and has the kernel forget them. `None` where it cannot.
fn cold_image(dir: &TempDir, sectors: usize) -> Option<PathBuf> {
    let path = dir.path().join("cold");
    let mut image = File::create(&path).unwrap();
    if rustix::fs::fstatfs(&image).unwrap().f_type == 0x0102_1994 {
        skip("the build is on tmpfs, which is never cold");
        return None;
    }
    image.write_all(&pattern(sectors, 8)).unwrap();
    image.sync_all().unwrap();
    rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    Some(path)
}

#[test]
fn a_cold_read_waits_elsewhere_and_a_hot_one_does_not_wait_for_it() {
    let dir = disk_dir();
    let Some(path) = cold_image(&dir, 8192) else { return };
    let waker = Waker::new().unwrap();
    let options = FileOptions { waker: Some(waker.clone()), ..FileOptions::default() };
    let mut disk = open_with(&path, options);
    let want = pattern(8192, 8);
    let mut octets = vec![0xa5; 16 * SECTOR_SIZE];
    waker.fall_asleep();
    assert_eq!(disk.read(Lba(4000), &mut octets), Ok(Ready::Later));
    assert_eq!(octets, vec![0xa5; 16 * SECTOR_SIZE], "not touched");
    // The loop sleeps and is woken.
    let mut ready =
        [rustix::event::PollFd::from_borrowed_fd(waker.descriptor(), rustix::event::PollFlags::IN)];
    let ten_seconds = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ready, Some(&ten_seconds)).unwrap(), 1);
    waker.awake();
    assert!(disk.progress(), "it is worth asking again");
    assert_eq!(disk.read(Lba(4000), &mut octets), Ok(Ready::Done));
    assert_eq!(octets, want[4000 * SECTOR_SIZE..4016 * SECTOR_SIZE]);
    assert_eq!(disk.read(Lba(4016), &mut octets), Ok(Ready::Done), "hot now");
    assert_eq!(disk.read(Lba(0), &mut octets), Ok(Ready::Later));
    assert_eq!(disk.read(Lba(4000), &mut octets), Ok(Ready::Done), "does not wait");
}

#[test]
fn a_reader_that_goes_forward_is_read_ahead_for() {
    let dir = disk_dir();
    let Some(path) = cold_image(&dir, 32768) else { return };
    let mut disk = open_with(&path, FileOptions::default());
    let want = pattern(32768, 8);
    let mut octets = vec![0xa5; 16 * SECTOR_SIZE];
    let mut waits = 0;
    for lba in (0..32768_u64).step_by(16) {
        until(&mut disk, |disk| match disk.read(Lba(lba), &mut octets).unwrap() {
            Ready::Done => Some(()),
            Ready::Later => None,
        });
        // Time for what was started to arrive, as a client takes.
        let before = waits;
        if lba % 128 == 0 && lba + 128 < 32768 {
            std::thread::park_timeout(Duration::from_millis(2));
            disk.progress();
            let mut next = vec![0xa5; SECTOR_SIZE];
            waits += u32::from(disk.verify(Lba(lba + 128), Sectors(1)).unwrap() == Ready::Later);
            disk.read(Lba(lba + 127), &mut next).map(|_| ()).unwrap();
        }
        assert!(waits - before <= 1);
        let at = usize::try_from(lba).unwrap() * SECTOR_SIZE;
        assert!(octets == want[at..at + octets.len()], "sector {lba}");
    }
    assert!(waits < 64, "{waits} of 255 chunks were waited for");
}

#[test]
fn a_whole_cold_image_can_be_verified() {
    let dir = disk_dir();
    let Some(path) = cold_image(&dir, 40_000) else { return };
    let mut disk = open_with(&path, FileOptions::default());
    verify(&mut disk, 0, 40_000).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(39_000 * 512).unwrap();
    assert_eq!(verify(&mut disk, 0, 40_000), Err(Fault::Media));
}

#[test]
fn a_full_disk_fails_the_write_and_keeps_the_rest() {
    if !is_root() {
        return skip("mounting a small file system needs root");
    }
    // The mount is seen by this thread alone, and goes when it ends.
    let outcome = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let dir = disk_dir();
        run("mount", &["--make-rprivate", "/"]);
        let place = dir.path().to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs", place]);
        let mut disk = open_with(&dir.path().join("image"), sized());
        let mut written = Vec::new();
        let mut full = 0;
        for lba in (0..SIZE).step_by(8) {
            match put(&mut disk, lba, &pattern(8, lba.to_le_bytes()[0])) {
                Ok(()) => written.push(lba),
                Err(fault) => {
                    assert_eq!(fault, Fault::NoSpace);
                    full += 1;
                }
            }
        }
        assert!(written.len() > 20 && full > 20, "{} written, {full} not", written.len());
        for lba in &written {
            let want = pattern(8, lba.to_le_bytes()[0]);
            assert_eq!(read(&mut disk, *lba, 8).unwrap(), want, "sector {lba}");
        }
        // What is there can be written still, and what is given up makes room.
        put(&mut disk, written[0], &pattern(8, 99)).unwrap();
        let ticket = taken(&mut disk, |disk| disk.discard(Lba(0), Sectors(64))).unwrap();
        durable(&mut disk, ticket).unwrap();
        put(&mut disk, SIZE - 8, &pattern(8, 98)).unwrap();
        disk.close().unwrap();
        run("umount", &[place]);
    });
    outcome.join().unwrap();
}
