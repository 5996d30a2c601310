//! Servers that live and end with a journal: by `kill -9` in mid-write, by SIGTERM, with a journal
//! that is used over and over, with targets that come and go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aoe_server::clock::now;
use aoe_server::link::{BATCH_FRAMES, FramePool, Link};
use aoe_server::units::SECTOR_SIZE;
use nix::sys::signal::Signal;

use super::common::net::{MAC_A, MAC_B, PATIENCE, TestNet, receive_until, send_all};
use super::common::server::{Home, ServerProcess, client, ended, packet_link};
use super::common::stamper::{Chance, Stamper, UNIT};
use super::{
    MTU, e1, filled, is_marked, journalled, marks_are_possible, overwrite, read_all, recover,
    refused, turn, write,
};

/// Units of each disk that is stamped.
const UNITS: usize = 512;
/// Targets that are written to at once.
const TARGETS: u8 = 3;
/// Lives and deaths of the server.
const ROUNDS: u64 = 4;
/// Large enough that no room has to be made in one life: until then every image may lack everything.
const ROOMY: &str = "32 MiB";

fn image(home: &Home, slot: u8) -> PathBuf {
    home.path(&format!("image{slot}"))
}

fn targets(home: &Home) -> String {
    let size = format!("size = \"{} B\"", UNITS * UNIT);
    (0..TARGETS).map(|slot| home.file_target(slot, &format!("image{slot}"), &size)).collect()
}

fn stampers(net: &TestNet, chance: &mut Chance) -> Vec<Stamper> {
    let stamper = |slot| {
        chance.next();
        Stamper::new(packet_link(net.b), MAC_A, e1(slot), UNITS, chance.clone())
    };
    (0..TARGETS).map(stamper).collect()
}

/// Has all of them write until each has so many more writes acknowledged.
fn run_all(stampers: &mut [Stamper], more: u64) {
    let goals: Vec<_> = stampers.iter().map(|stamper| stamper.acknowledged + more).collect();
    let end = now().after(PATIENCE * 3);
    while stampers.iter().zip(&goals).any(|(stamper, goal)| stamper.acknowledged < *goal) {
        assert!(now() < end, "too slow: {more} writes for each");
        stampers.iter_mut().for_each(Stamper::turn);
    }
}

/// Puts sectors back to what they were, by chance: all, none, or some.
fn lose_what_was_not_synced(image: &Path, before: &[u8], chance: &mut Chance) {
    let mut octets = fs::read(image).unwrap();
    let lost = [0, 50, 100][usize::try_from(chance.below(3)).unwrap()];
    for (sector, old) in octets.chunks_mut(SECTOR_SIZE).zip(before.chunks(SECTOR_SIZE)) {
        if chance.below(100) < lost {
            sector.copy_from_slice(old);
        }
    }
    overwrite(image, &octets);
}

/// Both ways to replay in turn: by a server with the journal, and by hand, for one without.
#[test]
fn kill_9_in_mid_write_loses_nothing_acknowledged_of_any_target() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let with_journal = journalled(&home, &net, ROOMY) + &targets(&home);
    let without = home.server(net.a, "af-packet") + &targets(&home);
    let mut chance = Chance::new();
    let mut stampers = stampers(&net, &mut chance);
    for round in 0..ROUNDS {
        let mut server = ServerProcess::start_in(&home, &with_journal);
        let before: Vec<_> =
            (0..TARGETS).map(|slot| fs::read(image(&home, slot)).unwrap()).collect();
        let turns = turn(&home.path("journal"));
        run_all(&mut stampers, 100 + chance.below(500));
        let later = now().nanos() + chance.below(500_000);
        while now().nanos() < later {}
        server.kill();
        stampers.iter_mut().for_each(Stamper::mourn);
        assert_eq!(turn(&home.path("journal")), turns, "no room was made: {ROOMY} are enough");
        for (slot, before) in (0..TARGETS).zip(&before) {
            lose_what_was_not_synced(&image(&home, slot), before, &mut chance);
        }
        let config = if round % 2 == 0 {
            &with_journal
        } else {
            let (stdout, _) = ended(&recover([home.path("journal")]), 0);
            assert!(stdout.contains("nothing is in it any more"), "{stdout}");
            assert!((0..TARGETS).all(|slot| !is_marked(&image(&home, slot))));
            &without
        };
        server = ServerProcess::start_in(&home, config);
        if round % 2 == 0 {
            server.wait_for_log("the last server did not come to its end");
        }
        for (slot, stamper) in (0..TARGETS).zip(&mut stampers) {
            let octets = fs::read(image(&home, slot)).unwrap();
            let faults = stamper.check(&octets);
            assert!(faults.is_empty(), "round {round}, image {slot}: {faults:#?}");
            assert!(read_all(&net, slot) == octets, "round {round}: not the image is served");
            assert_eq!(stamper.failures, []);
        }
        assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    }
}

#[test]
fn sigterm_in_mid_write_leaves_whole_images_that_need_no_journal() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = journalled(&home, &net, ROOMY) + &targets(&home);
    let mut stampers = stampers(&net, &mut Chance::new());
    let mut server = ServerProcess::start_in(&home, &config);
    if marks_are_possible(&home) {
        assert!((0..TARGETS).all(|slot| is_marked(&image(&home, slot))), "while it is served");
    }
    run_all(&mut stampers, 300);
    server.signal(Signal::SIGTERM);
    let mut status = None;
    let end = now().after(PATIENCE * 3);
    while status.is_none() && now() < end {
        stampers.iter_mut().for_each(Stamper::turn);
        status = server.ended();
    }
    assert_eq!(status.unwrap().code(), Some(0), "{}", server.log());
    stampers.iter_mut().for_each(Stamper::mourn);
    assert!((0..TARGETS).all(|slot| !is_marked(&image(&home, slot))), "none is marked any more");
    let (stdout, _) = ended(&recover([home.path("journal"), "--dry-run".into()]), 0);
    assert!(stdout.contains("nothing to do"), "{stdout}");
    // The journal was emptied; nobody has to have it.
    fs::remove_file(home.path("journal")).unwrap();
    let without = home.server(net.a, "af-packet") + &targets(&home);
    let mut server = ServerProcess::start_in(&home, &without);
    for (slot, stamper) in (0..TARGETS).zip(&mut stampers) {
        let faults = stamper.check(&read_all(&net, slot));
        assert!(faults.is_empty(), "image {slot}: {faults:#?}");
    }
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

/// The smallest journal there is, used over and over: what was acknowledged can be read all the time,
/// and acknowledgements go on while images are synced to make room.
#[test]
fn a_small_journal_wraps_many_times_while_writes_are_acknowledged() {
    /// As many records, of a page at least, as the journal has pages.
    const WRAP: u64 = 256;
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = journalled(&home, &net, "1 MiB") + &targets(&home);
    let journal = home.path("journal");
    let mut stampers = stampers(&net, &mut Chance::new());
    for stamper in &mut stampers {
        stamper.read_percent = 20;
    }
    let mut server = ServerProcess::start_in(&home, &config);
    let (mut checkpoints, first) = (0, turn(&journal));
    for _ in 0..12 {
        let before = turn(&journal);
        run_all(&mut stampers, WRAP / 2);
        checkpoints += u64::from(turn(&journal) > before);
    }
    let stored: u64 = stampers.iter().map(|stamper| stamper.acknowledged).sum();
    assert!(checkpoints >= 4, "room was made in {checkpoints} of 12 spans of time");
    let made = turn(&journal) - first;
    assert!(stored > 4 * WRAP * 4 && made >= 4, "{stored} writes, room made {made} times");
    server.kill();
    stampers.iter_mut().for_each(Stamper::mourn);
    server = ServerProcess::start_in(&home, &config);
    for (slot, stamper) in (0..TARGETS).zip(&mut stampers) {
        let faults = stamper.check(&read_all(&net, slot));
        assert!(faults.is_empty(), "image {slot}: {faults:#?}");
        assert!(stamper.confirmed > 0 && stamper.failures.is_empty(), "{:?}", stamper.failures);
    }
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn a_reload_takes_targets_out_of_the_journal_and_puts_them_in() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let size = "size = \"1 MiB\"";
    let target = |slot| home.file_target(slot, &format!("image{slot}"), size);
    let start = journalled(&home, &net, ROOMY);
    let both = format!("{start}{}{}", target(0), target(1));
    let mut server = ServerProcess::start_in(&home, &both);
    let mut client = client(net.b);
    let before = fs::read(image(&home, 1)).unwrap();
    write(&mut client, 0, 0, &[0x10; 4096]);
    write(&mut client, 1, 0, &[0x20; 4096]);

    server.reload(&format!("{start}{}", target(1)));
    server.wait_for_log("1 targets on");
    assert!(!is_marked(&image(&home, 0)), "it has everything");
    assert_eq!(fs::read(image(&home, 0)).unwrap()[..4096], [0x10; 4096]);
    // It can be used at once, by anybody.
    filled(&home, "image0", 0x11, 1 << 20);
    server.reload(&format!("{start}{}{}{}", target(0), target(1), target(2)));
    server.wait_for_log("3 targets on");
    write(&mut client, 0, 8, &[0x12; 4096]);
    write(&mut client, 1, 8, &[0x22; 4096]);
    write(&mut client, 2, 8, &[0x32; 4096]);
    server.kill();

    // Of the image that was there all the time nothing was synced, as far as anybody knows.
    overwrite(&image(&home, 1), &before);
    ended(&recover([home.path("journal")]), 0);
    let halves = |slot: u8| {
        let octets = fs::read(image(&home, slot)).unwrap();
        [octets[0], octets[4096], octets[8192]]
    };
    assert_eq!(
        [halves(0), halves(1), halves(2)],
        [[0x11, 0x12, 0x11], [0x20, 0x22, 0], [0, 0x32, 0]]
    );
}

/// Those that are told to flush flush, and those that are only read need nothing.
#[test]
fn volatile_and_read_only_targets_do_not_use_the_journal() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    filled(&home, "image0", 0x0a, 1 << 20);
    let config = journalled(&home, &net, "1 MiB")
        + &home.file_target(0, "image0", "read_only = true")
        + &home.file_target(1, "image1", "size = \"1 MiB\"\ndurability = \"volatile\"");
    let mut server = ServerProcess::start_in(&home, &config);
    write(&mut client(net.b), 1, 0, &[0x20; 4096]);
    assert!(!is_marked(&image(&home, 0)) && !is_marked(&image(&home, 1)));
    server.kill();
    let (stdout, _) = ended(&recover([home.path("journal"), "--dry-run".into()]), 0);
    assert!(stdout.contains("nothing to do"), "{stdout}");
    let without = home.server(net.a, "af-packet") + &home.file_target(1, "image1", "");
    let mut server = ServerProcess::start_in(&home, &without);
    assert_eq!(read_all(&net, 1)[..4096], [0x20; 4096]);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

/// Sends a TRIM of `count` sectors at `lba`, and waits until it is done.
fn trim(net: &TestNet, slot: u8, lba: u16, count: u16) {
    let mut link = packet_link(net.b);
    let mut frame = vec![];
    frame.extend_from_slice(&MAC_A.0);
    frame.extend_from_slice(&MAC_B.0);
    frame.extend_from_slice(&[0x88, 0xa2, 0x10, 0, 0, 1, slot, 0, 0x12, 0x34, 0x56, 0x78]);
    // 48 bits, to the target; TRIM; one sector of ranges; DATA SET MANAGEMENT.
    frame.extend_from_slice(&[0x41, 0x01, 1, 0x06, 0, 0, 0, 0, 0, 0, 0, 0]);
    let ranges = frame.len();
    frame.resize(ranges + SECTOR_SIZE, 0);
    frame[ranges..ranges + 2].copy_from_slice(&lba.to_le_bytes());
    frame[ranges + 6..ranges + 8].copy_from_slice(&count.to_le_bytes());
    let mut sending = FramePool::new(BATCH_FRAMES);
    let mut batch = sending.batch();
    let buffer = batch.next_buffer().unwrap();
    buffer[..frame.len()].copy_from_slice(&frame);
    batch.commit(frame.len());
    send_all(&mut link, &batch);
    let mut received = FramePool::new(BATCH_FRAMES);
    let mut batch = received.batch();
    receive_until(&mut link, &mut batch, 1);
    let reply = batch.frame(0);
    assert_eq!(reply[20..24], [0x12, 0x34, 0x56, 0x78], "the tag");
    assert_eq!(reply[27] & 0x21, 0, "the status: {reply:02x?}");
    let _ = link.check();
}

#[test]
fn discards_go_through_the_journal() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    filled(&home, "image0", 0x0a, 1 << 20);
    let config = journalled(&home, &net, "1 MiB") + &home.file_target(0, "image0", "");
    let mut server = ServerProcess::start_in(&home, &config);
    let mut client = client(net.b);
    if !client.open(e1(0)).unwrap().facts.trim {
        eprintln!("SKIPPED: no holes can be punched here");
        return;
    }
    write(&mut client, 0, 0, &[0x0b; 8192]);
    trim(&net, 0, 8, 16);
    write(&mut client, 0, 16, &[0x0c; 512]);
    server.kill();
    overwrite(&image(&home, 0), &vec![0x0a; 1 << 20]);
    let (stdout, _) = ended(&recover([home.path("journal")]), 0);
    assert!(stdout.contains(" writes, "), "{stdout}");
    let octets = fs::read(image(&home, 0)).unwrap();
    let sector = |lba: usize| octets[lba * SECTOR_SIZE];
    assert_eq!([0, 7, 8, 15, 16, 17, 23, 24].map(sector), [0xb, 0xb, 0, 0, 0xc, 0, 0, 0xa]);
}

/// What the images had is brought in before the journal is made anew, and it keeps its name: an
/// image that had nothing in it carries its mark still, and is served.
#[test]
fn a_journal_of_another_size_takes_over_from_one_that_a_crash_left() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let size = "size = \"1 MiB\"";
    let targets = home.file_target(0, "image0", size) + &home.file_target(1, "image1", size);
    let config = |size| journalled(&home, &net, size) + &targets;
    let mut server = ServerProcess::start_in(&home, &config("1 MiB"));
    write(&mut client(net.b), 0, 0, &[0x10; 4096]);
    server.kill();
    overwrite(&image(&home, 0), &[0; 4096]);
    let mut server = ServerProcess::start_in(&home, &config("3 MiB"));
    assert_eq!(read_all(&net, 0)[..4096], [0x10; 4096]);
    let bytes = fs::metadata(home.path("journal")).unwrap().len();
    assert!((3 << 20) - 65536 < bytes && bytes <= 3 << 20, "{bytes}");
    assert!(!home.path("journal.new").exists());
    write(&mut client(net.b), 1, 0, &[0x20; 4096]);
    server.kill();
    overwrite(&image(&home, 1), &[0; 4096]);

    // With another one the image is refused: this has nothing for it.
    fs::rename(home.path("journal"), home.path("moved")).unwrap();
    if marks_are_possible(&home) {
        let why = refused(&home, &config("1 MiB"));
        assert!(why.contains("was not closed"), "{why}");
    }
    fs::remove_file(home.path("journal")).unwrap();
    // Where a journal is does not matter, only which it is. A link to it stays a link.
    std::os::unix::fs::symlink(home.path("moved"), home.path("journal")).unwrap();
    let mut server = ServerProcess::start_in(&home, &config("2 MiB"));
    assert_eq!(read_all(&net, 1)[..4096], [0x20; 4096]);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    assert!(fs::symlink_metadata(home.path("journal")).unwrap().is_symlink());
    assert!(fs::metadata(home.path("moved")).unwrap().size() <= 2 << 20);
}
