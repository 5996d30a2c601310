//! What was acknowledged is there: after `kill -9` and SIGTERM in mid-write, with an image that is
//! cut short, on a full disk, and where nothing may be written. The real program, as a process of
//! its own, over a virtual cable.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "what is skipped is said aloud")]

mod common;

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;

use aoe_server::client::{Client, ClientError, Disk, MaskChange, Range};
use aoe_server::clock::now;
use aoe_server::protocol::{Address, MacAddr};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use common::net::{MAC_A, MAC_B, PATIENCE, TestNet};
use common::server::{Home, ServerProcess, as_nobody, client, ended, packet_link};
use common::small_disk::SmallDisk;
use common::stamper::{Chance, Stamper, UNIT};
use nix::sys::signal::Signal;

const E1_0: Address = Address { shelf: 1, slot: 0 };
const MTU: usize = 1500;
/// Units of the disks that are stamped: one MiB, so that many writes go to the same sectors.
const UNITS: usize = 1024;
/// Lives and deaths of one image.
const ROUNDS: usize = 4;

fn range(disk: &Disk, lba: u64, count: u64) -> Range<'_> {
    Range { disk, lba: Lba(lba), count: Sectors(count), depth: 16 }
}

fn read(client: &mut Client, disk: &Disk, lba: u64, count: u64) -> Result<Vec<u8>, ClientError> {
    let mut octets = Vec::new();
    client.read(&range(disk, lba, count), &mut octets, &mut |_| ())?;
    Ok(octets)
}

fn write(client: &mut Client, disk: &Disk, lba: u64, octets: &[u8]) -> Result<(), ClientError> {
    let range = range(disk, lba, sectors(octets.len()));
    client.write(&range, &mut &octets[..], &mut |_| ()).map(|_| ())
}

/// Makes sure that a command has failed with these registers.
#[track_caller]
fn assert_ata<T: std::fmt::Debug>(result: Result<T, ClientError>, status: u8, error: u8) {
    match result {
        Err(ClientError::Ata { status: s, error: e, .. }) if (s, e) == (status, error) => {}
        other => panic!("not {status:02x}/{error:02x}: {other:?}"),
    }
}

fn sectors(bytes: usize) -> u64 {
    (bytes / SECTOR_SIZE) as u64
}

/// All of the target, as the server gives it.
fn read_all(net: &TestNet) -> Vec<u8> {
    let mut client = client(net.b);
    let disk = client.open(E1_0).unwrap();
    read(&mut client, &disk, 0, disk.size().0).unwrap()
}

/// Lets a server live and end several times in the midst of writes, each time as `end` does it, and
/// looks each time at the image and at what the next server reads from it.
fn nothing_acknowledged_is_lost(link: &str, end: impl Fn(&mut ServerProcess, &mut Stamper)) {
    lives_and_deaths(link, false, end);
}

/// The same with a volume of an archive, which has no image to look at.
fn nothing_acknowledged_of_an_archive_is_lost(
    link: &str,
    end: impl Fn(&mut ServerProcess, &mut Stamper),
) {
    lives_and_deaths(link, true, end);
}

fn lives_and_deaths(link: &str, is_archive: bool, end: impl Fn(&mut ServerProcess, &mut Stamper)) {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let size = format!("size = \"{} B\"", UNITS * UNIT);
    let target = if is_archive {
        // Commits all the time, in a journal that is used again and again.
        home.archive_target(
            0,
            "archive",
            &size,
            "journal_size = \"1 MiB\"\ncommit_size = \"1 MiB\"",
        )
    } else {
        home.file_target(0, "image", &size)
    };
    let config = home.server(net.a, link) + &target;
    let mut chance = Chance::new();
    let mut stamper = Stamper::new(packet_link(net.b), MAC_A, E1_0, UNITS, chance.clone());
    let mut server = ServerProcess::start_in(&home, &config);
    for round in 0..ROUNDS {
        let moment = stamper.acknowledged + 100 + chance.below(2_000);
        let written = stamper.run(PATIENCE * 3, |stamper| stamper.acknowledged >= moment);
        assert!(written, "round {round}: {} of {moment} writes", stamper.acknowledged);
        // At any point of a turn of the server, not only when it has just answered.
        let later = now().nanos() + chance.below(500_000);
        while now().nanos() < later {}
        assert!(stamper.in_flight() > 0, "in mid-write");
        end(&mut server, &mut stamper);
        stamper.mourn();
        let image = (!is_archive).then(|| fs::read(home.path("image")).unwrap());
        if let Some(image) = &image {
            let faults = stamper.check(image);
            assert!(faults.is_empty(), "round {round}, the image: {faults:#?}");
        }
        server = ServerProcess::start_in(&home, &config);
        let served = read_all(&net);
        if let Some(image) = image {
            assert!(served == image, "round {round}: not what the image holds is served");
        }
        let faults = stamper.check(&served);
        assert!(faults.is_empty(), "round {round}, as served: {faults:#?}");
    }
    assert_eq!(stamper.failures, []);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

fn kill(server: &mut ServerProcess, _: &mut Stamper) {
    server.kill();
}

/// Writes go on while the server ends.
fn terminate(server: &mut ServerProcess, stamper: &mut Stamper) {
    server.signal(Signal::SIGTERM);
    let mut status = None;
    let ended = stamper.run(PATIENCE * 3, |_| {
        status = server.ended();
        status.is_some()
    });
    assert!(ended, "the server does not end; its log:\n{}", server.log());
    assert_eq!(status.unwrap().code(), Some(0), "{}", server.log());
    assert!(server.log().contains("all that was accepted is durable"), "{}", server.log());
}

#[test]
fn kill_9_in_mid_write_loses_nothing_acknowledged_over_af_packet() {
    nothing_acknowledged_is_lost("af-packet", kill);
}

#[test]
fn kill_9_in_mid_write_loses_nothing_acknowledged_over_pcap() {
    nothing_acknowledged_is_lost("pcap", kill);
}

#[cfg(feature = "cas")]
#[test]
fn kill_9_in_mid_write_loses_nothing_of_an_archive() {
    nothing_acknowledged_of_an_archive_is_lost("af-packet", kill);
}

#[cfg(feature = "cas")]
#[test]
fn sigterm_in_mid_write_ends_cleanly_and_loses_nothing_of_an_archive() {
    nothing_acknowledged_of_an_archive_is_lost("pcap", terminate);
}

#[test]
fn sigterm_in_mid_write_ends_cleanly_and_loses_nothing_over_af_packet() {
    nothing_acknowledged_is_lost("af-packet", terminate);
}

#[test]
fn sigterm_in_mid_write_ends_cleanly_and_loses_nothing_over_pcap() {
    nothing_acknowledged_is_lost("pcap", terminate);
}

#[test]
fn an_image_cut_short_fails_where_it_is_lost_and_serves_the_rest() {
    const SIZE: usize = 1 << 20;
    const CUT: usize = 256 << 10;
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "af-packet") + &home.file_target(0, "image", "");
    let content: Vec<u8> = (0..251).cycle().take(SIZE).collect();
    fs::write(home.path("image"), &content).unwrap();
    let mut server = ServerProcess::start_in(&home, &config);
    let mut client = client(net.b);
    let disk = client.open(E1_0).unwrap();
    let last = sectors(SIZE) - 2;
    // All of it is in memory, and known to be, when it goes.
    assert_eq!(read(&mut client, &disk, 0, disk.size().0).unwrap(), content);
    let image = OpenOptions::new().write(true).open(home.path("image")).unwrap();
    image.set_len(CUT as u64).unwrap();

    let (kept, lost) = (sectors(CUT) - 2, sectors(CUT));
    for lba in [lost, lost + 100, last] {
        assert_ata(read(&mut client, &disk, lba, 2), 0x41, 0x40);
        assert_ata(write(&mut client, &disk, lba, &[0x11; 1024]), 0x61, 0x04);
    }
    // Half there is not there.
    assert_ata(read(&mut client, &disk, lost - 1, 2), 0x41, 0x40);
    let before = read(&mut client, &disk, kept, 2).unwrap();
    assert_eq!(before, content[CUT - 1024..CUT]);
    write(&mut client, &disk, kept, &[0x22; 1024]).unwrap();
    assert_eq!(read(&mut client, &disk, kept, 2).unwrap(), [0x22; 1024]);
    assert_eq!(
        fs::metadata(home.path("image")).unwrap().len(),
        CUT as u64,
        "it was not brought back"
    );
    server.wait_for_log("cut short");
    assert!(server.ended().is_none());

    // When it is as long as before, it is served as before.
    image.set_len(SIZE as u64).unwrap();
    write(&mut client, &disk, last, &[0x33; 1024]).unwrap();
    assert_eq!(read(&mut client, &disk, last, 2).unwrap(), [0x33; 1024]);
    assert_eq!(read(&mut client, &disk, lost, 2).unwrap(), [0; 1024]);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_recovers() {
    const BYTES: usize = 1 << 20;
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let disk = home.path("disk");
    let Some(_mounted) = SmallDisk::mount(disk.clone(), BYTES) else { return };
    fs::write(disk.join("filler"), vec![0xa5; BYTES / 2]).unwrap();
    // It is sparse: for half of it there is no room.
    let size = format!("size = \"{} B\"", UNITS * UNIT);
    let config = home.server(net.a, "af-packet") + &home.file_target(0, "disk/image", &size);
    let mut server = ServerProcess::start_in(&home, &config);
    let mut stamper = Stamper::new(packet_link(net.b), MAC_A, E1_0, UNITS, Chance::new());

    let mut refused = Vec::new();
    for unit in 0..UNITS {
        if let Some(failure) = stamper.write_one(unit) {
            assert_eq!(failure.what, "61/04");
            refused.push(unit);
        }
    }
    assert!(!refused.is_empty() && stamper.acknowledged > 0, "{} acknowledged", refused.len());
    assert!(server.ended().is_none());
    let image = fs::read(disk.join("image")).unwrap();
    assert_eq!(stamper.check(&image), [] as [String; 0], "while the disk is full");
    // What is there can be changed, still.
    assert_eq!(stamper.write_one(0), None);

    fs::remove_file(disk.join("filler")).unwrap();
    for unit in refused.iter().copied().take(64) {
        assert_eq!(stamper.write_one(unit), None, "there is space again");
    }
    let image = fs::read(disk.join("image")).unwrap();
    assert_eq!(stamper.check(&image), [] as [String; 0], "with space again");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    let image = fs::read(disk.join("image")).unwrap();
    assert_eq!(stamper.check(&image), [] as [String; 0], "after the end");
}

#[test]
fn a_read_only_target_refuses_writes_and_leaves_the_image_alone() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config =
        home.server(net.a, "af-packet") + &home.file_target(0, "image", "read_only = true");
    let content = vec![0x5a; 64 << 10];
    fs::write(home.path("image"), &content).unwrap();
    let changed = fs::metadata(home.path("image")).unwrap().modified().unwrap();
    let mut server = ServerProcess::start_in(&home, &config);
    let mut client = client(net.b);
    let disk = client.open(E1_0).unwrap();
    assert_eq!(read(&mut client, &disk, 0, 128).unwrap(), content);
    for lba in [0, 64, 126] {
        assert_ata(write(&mut client, &disk, lba, &[0x11; 1024]), 0x41, 0x04);
    }
    assert_eq!(read(&mut client, &disk, 0, 128).unwrap(), content);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    assert_eq!(fs::read(home.path("image")).unwrap(), content);
    assert_eq!(fs::metadata(home.path("image")).unwrap().modified().unwrap(), changed);
}

#[test]
fn an_image_that_may_only_be_read_is_served_read_only_or_not_at_all() {
    const CAPABILITY: &str = "+net_raw";
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    home.open_to_everybody();
    let (image, config) = (home.path("image"), home.path("aoe-server.toml"));
    fs::write(&image, [0x5a; 4096]).unwrap();
    fs::set_permissions(&image, Permissions::from_mode(0o444)).unwrap();
    let args = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
    let server_program = home.program();
    let able = as_nobody(&server_program, CAPABILITY, &["--version".as_ref()]).output().unwrap();
    if !able.status.success() {
        let why = "cannot become another user with one capability; try as root";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }

    let text = home.server(net.a, "af-packet") + &home.file_target(0, "image", "");
    fs::write(&config, &text).unwrap();
    let output = as_nobody(&server_program, CAPABILITY, &args).output().unwrap();
    let (_, stderr) = ended(&output, 2);
    assert!(stderr.contains("no permission to write to image"), "{stderr}");
    assert!(stderr.contains("target e1.0"), "{stderr}");

    fs::write(&config, text + "read_only = true\n").unwrap();
    let mut server = ServerProcess::spawn(&home, as_nobody(&server_program, CAPABILITY, &args));
    server.wait_for_log("1 targets on");
    let mut client = client(net.b);
    let disk = client.open(E1_0).unwrap();
    assert_eq!(read(&mut client, &disk, 0, 8).unwrap(), [0x5a; 4096]);
    assert_ata(write(&mut client, &disk, 0, &[0x11; 512]), 0x41, 0x04);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    assert_eq!(fs::read(&image).unwrap(), [0x5a; 4096]);
}

#[test]
fn what_initiators_set_survives_a_restart_and_kill_9_right_after_the_reply() {
    const OTHER: MacAddr = MacAddr([2, 0xae, 0, 0, 0, 0x77]);
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config =
        home.server(net.a, "af-packet") + &home.file_target(0, "image", "size = \"1 MiB\"");
    let mut server = ServerProcess::start_in(&home, &config);
    let mut client = client(net.b);
    client.set_config_string(E1_0, b"first", false).unwrap();
    server.kill();
    server = ServerProcess::start_in(&home, &config);
    assert_eq!(client.config_string(E1_0).unwrap().as_slice(), b"first");
    client.set_config_string(E1_0, b"second", true).unwrap();
    client.change_mask(E1_0, &[MaskChange::Add(MAC_B), MaskChange::Add(OTHER)]).unwrap();
    server.kill();
    server = ServerProcess::start_in(&home, &config);
    assert_eq!(client.mask(E1_0).unwrap().as_slice(), [MAC_B, OTHER]);
    client.reserve(E1_0, &[OTHER, MAC_B], false).unwrap();
    server.kill();
    server = ServerProcess::start_in(&home, &config);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        assert_eq!(client.config_string(E1_0).unwrap().as_slice(), b"second");
        assert_eq!(client.mask(E1_0).unwrap().as_slice(), [MAC_B, OTHER]);
        assert_eq!(client.reservation(E1_0).unwrap().as_slice(), [OTHER, MAC_B]);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        server = ServerProcess::start_in(&home, &config);
    }
    // It is in force, too: who is left out of the mask hears nothing, others may not write.
    client.reserve(E1_0, &[OTHER], true).unwrap();
    client.change_mask(E1_0, &[MaskChange::Remove(OTHER)]).unwrap();
    server.kill();
    server = ServerProcess::start_in(&home, &config);
    assert_eq!(client.mask(E1_0).unwrap().as_slice(), [MAC_B]);
    let disk = client.open(E1_0).unwrap();
    let refused = write(&mut client, &disk, 0, &[0x11; 512]);
    assert!(matches!(refused, Err(ClientError::Refused { .. })), "{refused:?}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}
