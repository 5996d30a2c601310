//! Starting, changing and ending the real program: signals, reloads, what it tells the service
//! manager, and what it says when it cannot start.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "what is skipped is said aloud")]

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aoe_server::client::{Client, Found, Range};
use aoe_server::link::FramePool;
use aoe_server::protocol::{Address, Command, Frame, MacAddr};
use aoe_server::units::{Lba, Sectors};
use common::net::{MAC_A, PATIENCE, TestNet, receive_until, within};
use common::server::{Home, ServerProcess, as_nobody, client, ended, mem_target, packet_link, run};
use common::stamper::{Chance, Stamper};
use nix::sys::signal::Signal;

const E1_0: Address = Address { shelf: 1, slot: 0 };
const E1_1: Address = Address { shelf: 1, slot: 1 };
const E1_2: Address = Address { shelf: 1, slot: 2 };
const MTU: usize = 1500;
/// No initiator may notice that other targets come and go: what it would notice is that something
/// has to be sent again, which takes a quarter of a second and is doubled each time.
const NOTICEABLE: Duration = Duration::from_secs(3);

/// An initiator that does not wait for long: a target that has answered a query may be gone when it
/// is asked for its size.
fn watcher(net: &TestNet) -> Client {
    let mut watcher = client(net.b);
    watcher.set_patience(Duration::from_millis(500));
    watcher
}

/// Waits until a target has as many sectors as it should; `None`: until it is gone.
fn wait_for(client: &mut Client, address: Address, size: Option<u64>) {
    let mut found = Vec::new();
    let right = within(PATIENCE, || {
        let short = Duration::from_millis(100);
        found = client.discover(address, short, true).unwrap();
        let size_of = |found: &Found| found.disk.map_or(0, |disk| disk.size.0);
        found.first().map(size_of) == size
    });
    assert!(right, "not {size:?} sectors at {address}: {found:?}");
}

/// Reloads that add, change and remove targets, each waited for.
fn change_targets(net: &TestNet, home: &Home, server: &ServerProcess, steady: &str) {
    let mut client = watcher(net);
    let mut reload = |targets: &str, wanted: [Option<u64>; 2]| {
        server.reload(&(steady.to_string() + targets));
        for (address, size) in [E1_1, E1_2].into_iter().zip(wanted) {
            wait_for(&mut client, address, size);
        }
    };
    let image = home.file_target(2, "other", "size = \"1 MiB\"");
    for _ in 0..2 {
        reload(&mem_target(1, "64 KiB", ""), [Some(128), None]);
        reload(&(mem_target(1, "64 KiB", "") + &image), [Some(128), Some(2048)]);
        // One is opened again, the other one only changed.
        let read_only = image.clone() + "read_only = true\n";
        reload(&(mem_target(1, "128 KiB", "") + &read_only), [Some(256), Some(2048)]);
        reload(&(mem_target(1, "128 KiB", "buffer_count = 3") + &image), [Some(256), Some(2048)]);
        let adjusted = within(PATIENCE, || buffer_count(net, E1_1) == 3);
        assert!(adjusted, "{} frames", buffer_count(net, E1_1));
        reload("", [None, None]);
    }
}

fn buffer_count(net: &TestNet, address: Address) -> u16 {
    client(net.b).locate(address).unwrap()[0].buffer_count
}

#[test]
fn reloads_change_targets_while_another_is_served_without_error_or_gap() {
    for link in ["af-packet", "pcap"] {
        let Some(net) = TestNet::new(MTU) else { return };
        let home = Home::new();
        // With the probe, as it is used.
        let config = home.server(net.a, link).replace("probe = false", "probe = true")
            + &home.file_target(0, "image", "size = \"1 MiB\"");
        let mut server = ServerProcess::start_in(&home, &config);
        let done = AtomicBool::new(false);
        let mut stamper = Stamper::new(packet_link(net.b), MAC_A, E1_0, 1024, Chance::new());
        stamper.read_percent = 50;
        std::thread::scope(|scope| {
            let steady = scope.spawn(|| {
                let ended = stamper.run(PATIENCE * 6, |_| done.load(Ordering::Relaxed));
                stamper.finish();
                ended
            });
            let end = Done(&done);
            change_targets(&net, &home, &server, &config);
            drop(end);
            assert!(steady.join().unwrap(), "the reloads take too long");
        });
        assert_eq!(stamper.failures, []);
        assert!(stamper.longest_gap < NOTICEABLE, "a gap of {:?}", stamper.longest_gap);
        assert!(stamper.acknowledged > 100 && stamper.confirmed > 100, "it was hardly steady");
        assert_eq!(server.log().matches("again").count(), 10, "{}", server.log());
        assert!(!server.log().contains("ERROR"), "{}", server.log());
        assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
        let image = fs::read(home.path("image")).unwrap();
        assert_eq!(stamper.check(&image), [] as [String; 0]);
    }
}

/// Says that it is done, even when what was to be done has failed.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_bad_configuration_on_reload_changes_nothing_and_is_told_with_its_line() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let good = home.server(net.a, "af-packet") + &mem_target(0, "64 KiB", "");
    let mut server = ServerProcess::start_in(&home, &good);
    let mut client = watcher(&net);
    wait_for(&mut client, E1_0, Some(128));

    // The target would go and another would come, were it not for the last line.
    let bad = home.server(net.a, "af-packet") + &mem_target(1, "64 KiB", "red_only = true");
    let line = 1 + bad.lines().position(|line| line.starts_with("red_only")).unwrap();
    server.reload(&bad);
    server.wait_for_log("the configuration stays as it was");
    let place = format!("{}:{line}", server.config_path().display());
    assert!(server.log().contains(&place), "no {place} in\n{}", server.log());
    assert!(server.log().contains("`read_only`"), "{}", server.log());
    wait_for(&mut client, E1_0, Some(128));
    wait_for(&mut client, E1_1, None);

    fs::remove_file(server.config_path()).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log_again("the configuration stays as it was", 2);
    wait_for(&mut client, E1_0, Some(128));

    // A target that cannot be opened keeps the others from nothing, and itself as it was.
    let missing = home.file_target(1, "missing", "");
    server.reload(&(good.clone() + &missing + &mem_target(2, "32 KiB", "")));
    wait_for(&mut client, E1_2, Some(64));
    server.wait_for_log("missing does not exist");
    wait_for(&mut client, E1_0, Some(128));
    wait_for(&mut client, E1_1, None);
    server.reload(&good);
    wait_for(&mut client, E1_2, None);
    wait_for(&mut client, E1_0, Some(128));
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    let Some(net) = TestNet::new(MTU) else { return };
    for (signal, poll) in
        [(Signal::SIGTERM, "block"), (Signal::SIGINT, "adaptive"), (Signal::SIGTERM, "spin")]
    {
        let home = Home::new();
        let config = home.server(net.a, "af-packet")
            + &format!("poll = \"{poll}\"\n")
            + &mem_target(0, "64 KiB", "");
        let mut server = ServerProcess::start_in(&home, &config);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        assert!(server.log().contains("stopped: all that was accepted is durable"));
    }
}

#[test]
fn sigusr1_logs_the_counters() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "pcap") + &mem_target(0, "64 KiB", "");
    let mut server = ServerProcess::start_in(&home, &config);
    let mut client = client(net.b);
    let disk = client.open(E1_0).unwrap();
    let range = Range { disk: &disk, lba: Lba(0), count: Sectors(22), depth: 4 };
    client.read(&range, &mut std::io::sink(), &mut |_| ()).unwrap();
    // They are published some times a second.
    let logged = within(PATIENCE, || {
        server.signal(Signal::SIGUSR1);
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains("e1.0: "));
        lines.any(|line| line.contains("reads: 11, sectors_read: 22, writes: 0"))
    });
    assert!(logged, "{}", server.log());
    assert!(server.log().contains("aoe-a: LinkInfo"), "{}", server.log());
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_end() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "af-packet") + &mem_target(0, "64 KiB", "");
    let path = home.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut octets = [0xa5; 512];
        let len = manager.recv(&mut octets).expect("the server tells something");
        String::from_utf8(octets[..len].to_vec()).unwrap()
    };
    let mut server = ServerProcess::start_with(&home, &config, |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert_eq!(next().trim_end(), "READY=1");
    // When it says so, it does serve.
    client(net.b).open(E1_0).unwrap();
    for text in [config.clone(), "[server]\nnonsense = 1\n".into(), config] {
        server.reload(&text);
        let reloading = next();
        let mut lines = reloading.lines();
        assert_eq!(lines.next(), Some("RELOADING=1"));
        let time = lines.next().and_then(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{reloading:?}");
        assert_eq!(next().trim_end(), "READY=1", "good or bad, it serves on");
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(next().trim_end(), "STOPPING=1");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn an_image_that_has_grown_is_announced_on_sighup() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "af-packet") + &home.file_target(0, "image", "");
    fs::write(home.path("image"), vec![0x5a; 64 << 10]).unwrap();
    let mut server = ServerProcess::start_in(&home, &config);
    let mut client = client(net.b);
    assert_eq!(client.open(E1_0).unwrap().size(), Sectors(128));
    let image = fs::OpenOptions::new().write(true).open(home.path("image")).unwrap();
    image.set_len(1 << 20).unwrap();
    assert_eq!(client.open(E1_0).unwrap().size(), Sectors(128), "nobody has said so yet");

    let mut heard = packet_link(net.b);
    server.signal(Signal::SIGHUP);
    let mut pool = FramePool::new(8);
    let mut batch = pool.batch();
    receive_until(&mut heard, &mut batch, 1);
    let frame = Frame::parse(batch.frame(0)).unwrap();
    assert_eq!((frame.destination, frame.source), (MacAddr::BROADCAST, MAC_A));
    let header = frame.header;
    assert_eq!((header.address(), header.command()), (E1_0, Command::CONFIG));
    assert!(header.flags().is_response());
    let disk = client.open(E1_0).unwrap();
    assert_eq!(disk.size(), Sectors(2048));
    let end = Range { disk: &disk, lba: Lba(2046), count: Sectors(2), depth: 1 };
    client.write(&end, &mut &[0x77; 1024][..], &mut |_| ()).unwrap();
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    assert!(fs::read(home.path("image")).unwrap().ends_with(&[0x77; 1024]));
}

/// Starts a server that cannot start, and hands out what it says.
fn refused(home: &Home, config: &str, code: i32) -> String {
    let path = home.path("refused.toml");
    fs::write(&path, config).unwrap();
    let output = run(["serve".as_ref(), "--config".as_ref(), path.as_os_str()]);
    ended(&output, code).1
}

#[test]
fn a_second_server_on_the_same_image_is_told_who_has_it() {
    let Some(net) = TestNet::new(MTU) else { return };
    let (home, other) = (Home::new(), Home::new());
    let target = home.file_target(0, "image", "size = \"1 MiB\"");
    let config = home.server(net.a, "af-packet") + &target;
    let mut server = ServerProcess::start_in(&home, &config);
    let stderr = refused(&other, &(other.server(net.b, "af-packet") + &target), 2);
    assert!(stderr.contains("target e1.0"), "{stderr}");
    let image = home.path("image");
    let image = image.display();
    let said = format!("image {image} is in use by aoe-server (pid {})", server.pid());
    assert!(stderr.contains(&said), "{stderr}");
    // The first one has not noticed.
    client(net.b).open(E1_0).unwrap();
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn a_second_server_with_the_same_state_directory_is_told_who_has_it() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let config = home.server(net.a, "af-packet") + &mem_target(0, "64 KiB", "");
    let mut server = ServerProcess::start_in(&home, &config);
    let stderr = refused(&home, &(home.server(net.b, "pcap") + &mem_target(1, "64 KiB", "")), 2);
    let said = format!("is in use by aoe-server (pid {})", server.pid());
    assert!(stderr.contains(&said), "{stderr}");
    assert!(stderr.contains(&home.path("state").display().to_string()), "{stderr}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn a_missing_interface_is_told_with_those_there_are() {
    let Some(_net) = TestNet::new(MTU) else { return };
    for link in ["af-packet", "pcap"] {
        let home = Home::new();
        let stderr = refused(&home, &(home.server("aoe-x", link) + &mem_target(0, "1 MiB", "")), 2);
        assert!(stderr.contains("no interface \"aoe-x\""), "{stderr}");
        for present in ["aoe-a", "aoe-b", "lo"] {
            assert!(stderr.contains(present), "no {present}: {stderr}");
        }
    }
}

#[test]
fn who_may_not_send_frames_is_told_how_to_allow_it() {
    let Some(net) = TestNet::new(MTU) else { return };
    for link in ["af-packet", "pcap"] {
        let home = Home::new();
        home.open_to_everybody();
        let (program, config) = (home.program(), home.path("aoe-server.toml"));
        fs::write(&config, home.server(net.a, link) + &mem_target(0, "1 MiB", "")).unwrap();
        let able = as_nobody(&program, "-all", &["--version".as_ref()]).output().unwrap();
        if !able.status.success() {
            let why = "cannot become another user; try as root";
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            return;
        }
        let args = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        let (_, stderr) = ended(&as_nobody(&program, "-all", &args).output().unwrap(), 2);
        let said = format!("sudo setcap cap_net_raw+ep {}", program.display());
        assert!(stderr.contains(&said), "{stderr}");
        assert!(stderr.contains("aoe-a"), "{stderr}");
    }
}

#[test]
fn who_may_not_have_the_buffer_that_the_targets_need_is_told_how_to_allow_it() {
    // Four initiators with 64 frames at each of 64 targets, at 16 KiB a frame.
    const NEEDED: u64 = 4 * 64 * 64 * (16 << 10);
    let Some(net) = TestNet::new(MTU) else { return };
    let allowed = fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
    if allowed.trim().parse::<u64>().unwrap() >= NEEDED {
        eprintln!("SKIPPED: everybody may have {allowed} bytes of receive buffer here");
        return;
    }
    let home = Home::new();
    home.open_to_everybody();
    let (program, config) = (home.program(), home.path("aoe-server.toml"));
    let mut text = home.server(net.a, "af-packet");
    (0..64).for_each(|slot| text += &mem_target(slot, "64 KiB", ""));
    fs::write(&config, text).unwrap();
    let args = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
    let command = |args: &[&std::ffi::OsStr]| as_nobody(&program, "-all,+net_raw", args);
    if !command(&["--version".as_ref()]).output().unwrap().status.success() {
        let why = "cannot become another user with one capability; try as root";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let mut server = ServerProcess::spawn(&home, command(&args));
    let log = server.wait_for_log("64 targets on");
    let told = log.lines().find(|line| line.contains("receive buffer")).unwrap_or_default();
    assert!(told.contains("WARN") && told.contains(net.a), "{log}");
    assert!(told.ends_with(&format!("sysctl -w net.core.rmem_max={NEEDED}")), "{told}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn room_for_requests_that_wait_takes_no_memory_before_it_is_used() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let mut text = home.server(net.a, "af-packet");
    (0..128).for_each(|slot| text += &mem_target(slot, "4 KiB", ""));
    let server = ServerProcess::start_in(&home, &text);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = resident.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    // All of it would be 128 times 2.3 MiB.
    assert!(kibibytes < 100 << 10, "{resident}");
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
    let home = Home::new();
    let config = home.server("lo", "pcap") + &mem_target(0, "1 MiB", "bufer_count = 8");
    let line = 1 + config.lines().position(|line| line.starts_with("bufer")).unwrap();
    let stderr = refused(&home, &config, 1);
    let place = format!("{}:{line}", home.path("refused.toml").display());
    assert!(stderr.contains(&place), "no {place}: {stderr}");
    assert!(stderr.contains("unknown key `bufer_count`"), "{stderr}");
    assert!(stderr.contains("did you mean `buffer_count`?"), "{stderr}");
    assert!(!home.path("state").exists(), "nothing was begun");
}

#[test]
fn what_cannot_be_an_image_is_refused_before_anything_is_served() {
    let Some(net) = TestNet::new(MTU) else { return };
    let home = Home::new();
    let server = home.server(net.a, "af-packet");
    let stderr = refused(&home, &(server.clone() + &home.file_target(0, "image", "")), 2);
    assert!(stderr.contains("target e1.0"), "{stderr}");
    assert!(stderr.contains("image does not exist; give a size to have it created"), "{stderr}");
    assert!(!home.path("image").exists());

    fs::create_dir(home.path("directory")).unwrap();
    // All that is wrong is told at once, and what is not wrong is not served either.
    let config = server
        + &home.file_target(0, "directory", "")
        + &home.file_target(1, "image", "")
        + &mem_target(2, "64 KiB", "");
    let stderr = refused(&home, &config, 2);
    assert!(stderr.contains("directory is a directory; name a file in it"), "{stderr}");
    assert!(stderr.contains("target e1.1"), "{stderr}");
    assert!(!stderr.contains("e1.2"), "{stderr}");
}
