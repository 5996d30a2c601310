//! An archive takes no more memory than it was given, and for all the rest a tenth of that, or 20 MiB where
//! that is more: buffers on their way into the journal, and blocks that a commit has at hand.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "it tells by how much")]

#[path = "common/noise.rs"]
mod noise;

use std::process::Command;
use std::time::Duration;

use aoe_server::clock::now;
use aoe_server::storage::cas::{CasStore, CasVolume, StoreOptions, VolumeOptions};
use aoe_server::storage::{Accepted, BlockStorage, Ready};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};

use noise::noise;

const MIB: u64 = 1 << 20;
/// What is given to overlays and to caches each, in bytes: a lot, and little.
const BUDGETS: [u64; 2] = [128 * MIB, 32 * MIB];
/// What an archive with four volumes takes beside that, however little it is given, in bytes.
const FIXED: u64 = 20 * MIB;
/// Which of those, for a process of its own.
const WHICH: &str = "ARCHIVE_MEMORY";
/// What is written to each volume, in bytes.
const WRITTEN: u64 = 160 * MIB;
/// Octets of a request.
const REQUEST: usize = 32 << 10;
const SECTORS: u64 = (REQUEST / SECTOR_SIZE) as u64;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A figure of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let figure = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kib = figure.trim_start_matches(':').trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

/// What the data of a request is made of.
fn seed(disk: usize, version: u64, request: u64) -> u64 {
    version << 48 | (disk as u64) << 32 | request
}

/// Drives all disks, as the poll loop does, until `done` of one of them.
fn drive(disks: &mut [CasVolume], of: usize, mut done: impl FnMut(&mut CasVolume) -> bool) {
    let start = now();
    while !done(&mut disks[of]) {
        assert!(now().since(start) < PATIENCE, "nothing comes of it");
        for disk in &mut *disks {
            disk.progress();
        }
        std::thread::park_timeout(Duration::from_micros(100));
    }
}

/// Writes new data all over a volume, other data for each version.
fn flood(disks: &mut [CasVolume], of: usize, version: u64) {
    let mut data = vec![0; REQUEST];
    for request in 0..WRITTEN / REQUEST as u64 {
        noise(seed(of, version, request), &mut data);
        drive(disks, of, |disk| {
            disk.write(Lba(request * SECTORS), &data).unwrap() != Accepted::Later
        });
    }
    let last = disks[of].applied();
    drive(disks, of, |disk| disk.durable() >= last);
    disks[of].outcome(last).unwrap();
}

/// Reads all that [`flood`] has written.
fn read_back(disks: &mut [CasVolume], of: usize, version: u64) {
    let (mut data, mut expected) = (vec![0; REQUEST], vec![0; REQUEST]);
    for request in 0..WRITTEN / REQUEST as u64 {
        drive(disks, of, |disk| {
            disk.read(Lba(request * SECTORS), &mut data).unwrap() == Ready::Done
        });
        noise(seed(of, version, request), &mut expected);
        assert!(data == expected, "volume {of}, request {request}");
    }
}

/// In a process of its own, since what one test leaves behind would count for the next.
#[test]
fn memory_stays_within_the_budgets() {
    if let Ok(which) = std::env::var(WHICH) {
        return stays_within(BUDGETS[which.parse::<usize>().unwrap()]);
    }
    for which in 0..BUDGETS.len() {
        let program = std::env::current_exe().unwrap();
        let mut run = Command::new(program);
        run.args(["--exact", "memory_stays_within_the_budgets", "--nocapture"]);
        let run = run.env(WHICH, which.to_string()).output().unwrap();
        let told = String::from_utf8_lossy(&run.stdout);
        println!("{told}");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(told.contains("1 passed"), "it was not run");
    }
}

fn stays_within(budget: u64) {
    let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let before = status("VmRSS");
    // From here on the most that there was counts.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let options = StoreOptions {
        overlay_bytes: budget,
        cache_bytes: budget,
        journal_bytes: 64 * MIB,
        commit_bytes: 32 * MIB,
        ..StoreOptions::default()
    };
    let (store, _) = CasStore::open(directory.path(), &options).unwrap();
    let attach = |name: &str| {
        let size = Some(Sectors(WRITTEN / SECTOR_SIZE as u64));
        store.attach(name, VolumeOptions { size, ..VolumeOptions::default() }).unwrap()
    };
    let mut disks = ["a", "b", "c", "d"].map(attach);
    let peak = || status("VmHWM").saturating_sub(before);
    // One after the other, so that what each leaves behind counts.
    (0..disks.len()).for_each(|disk| flood(&mut disks, disk, 0));
    let written = peak();
    (0..disks.len()).for_each(|disk| read_back(&mut disks, disk, 0));
    let read = peak();
    flood(&mut disks, 0, 1);
    read_back(&mut disks, 0, 1);
    let again = peak();
    let (overlay, cache) = (store.info().unwrap().overlay, store.info().unwrap().cache);
    let given = 2 * budget;
    let most = given + (given / 10).max(FIXED);
    println!(
        "at most {written}, {read}, {again} bytes, of {most}; overlays {overlay:?}, cache {cache:?}"
    );
    // Both were filled: otherwise it would be no feat.
    assert!(written > budget / 2, "{written} bytes");
    assert!(cache.0 > budget / 10 * 8, "{cache:?}");
    assert!(again <= most, "{again} bytes, of {most}");
}
