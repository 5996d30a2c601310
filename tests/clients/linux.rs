//! The driver that is in every Linux: a machine that finds its disk, makes a file system there, and
//! loses nothing of it whatever is done to the server.

use std::time::Duration;

use aoe_server::clock::now;

use crate::common::capture::{Recorder, Session};
use crate::common::net::{interface_counters, within};
use crate::guest::{Guest, Ran};
use crate::scene::{CASES, Case, GREETING, SECTORS, Scene};
use crate::steps::Steps;

/// Sectors of e1.0 after it has grown.
const GROWN: u64 = SECTORS + (32 << 11);
/// How long anything may take in which the server is away for a while.
const INTERRUPTED: Duration = Duration::from_mins(2);
/// Frames after which a load is certainly under way.
const UNDER_WAY: u64 = 800;

/// The disk.
pub(crate) const DISK: &str = "/dev/etherd/e1.0";

/// Odd numbers of sectors, each in one piece past the page cache, at both ends of the disk.
fn transfer_odd_lengths(scene: &Scene, guest: &mut Guest) -> String {
    guest.run("head -c 65536 /dev/urandom >/tmp/odd");
    for sectors in [1, 3, 17, 37] {
        let octets = sectors * 512;
        for at in [0, (SECTORS - sectors) * 512] {
            guest.run(&format!(
                "dd if=/tmp/odd of={DISK} bs={octets} count=1 oflag=direct,seek_bytes seek={at} \
                 conv=notrunc status=none && \
                 dd if={DISK} bs={octets} count=1 iflag=direct,skip_bytes skip={at} status=none | \
                 cmp -n {octets} - /tmp/odd"
            ));
        }
    }
    let there = guest.run(&format!("tail -c 18944 {DISK} | sha256sum"));
    if let Some(here) = scene.checksum((SECTORS - 37) * 512, 37 * 512) {
        assert_eq!(there, here, "the image has something else");
    }
    let past = guest.attempt(&format!(
        "dd if=/tmp/odd of={DISK} bs=512 count=2 oflag=direct seek={} status=none",
        SECTORS - 1
    ));
    assert_ne!(past.code, 0, "written past the end");
    "1, 3, 17 and 37 sectors at both ends".into()
}

/// Writes at odd places, read back and verified by checksums.
pub(crate) fn verify_by_fio(guest: &mut Guest) -> String {
    for load in [
        "--rw=randwrite --bs=1536 --offset=512 --size=2m",
        "--rw=write --bs=256k --offset=8m --size=8m",
    ] {
        guest.begin(&format!(
            "fio --name=raw --filename={DISK} --direct=1 --ioengine=libaio --iodepth=16 \
             --verify=crc32c --verify_fatal=1 {load} --minimal >/tmp/fio || cat /tmp/fio"
        ));
        assert_eq!(guest.end(INTERRUPTED).out, "", "it has complained");
    }
    "10 MiB in pieces of 3 and of 512 sectors".into()
}

/// Makes a file system with many files, of which there are checksums in it and beside it.
pub(crate) fn make_file_system(guest: &mut Guest) -> String {
    guest.run(&format!("mke2fs -q -F -t ext4 {DISK}"));
    guest.run(&format!("mount -t ext4 {DISK} /mnt && mkdir /mnt/many"));
    guest.run("head -c 1500000 /dev/urandom >/tmp/blob");
    guest.run("split -a 3 -b 4321 /tmp/blob /mnt/many/ && cp /tmp/blob /mnt/one");
    guest.run("cd /mnt && sha256sum one many/* >/mnt/sums");
    guest.run(&format!("umount /mnt && e2fsck -fn {DISK}"));
    guest.run(&format!("mount -t ext4 {DISK} /mnt"));
    checksums_hold(guest);
    let count = guest.run("ls /mnt/many | wc -l");
    format!("{count} files, fsck finds nothing")
}

/// Reads all files again from the target.
pub(crate) fn checksums_hold(guest: &mut Guest) {
    guest.run("sync && echo 3 >/proc/sys/vm/drop_caches && cd /mnt && sha256sum -s -c sums");
}

/// Kills the server while a file is being written, and starts it again.
fn kill_in_mid_write(scene: &mut Scene, guest: &mut Guest, name: &str) -> String {
    let before = interface_counters(scene.switch.net.a).0;
    guest.begin(&format!(
        "fio --name={name} --directory=/mnt --rw=randwrite --bsrange=4k-32k --size=12m --fsync=32 \
         --verify=crc32c --verify_fatal=1 --minimal >/tmp/fio || cat /tmp/fio"
    ));
    let under_way = || interface_counters(scene.switch.net.a).0 > before + UNDER_WAY;
    assert!(within(INTERRUPTED, under_way), "no load");
    scene.crash(Duration::from_secs(1));
    let (again, served) = (now(), interface_counters(scene.switch.net.a).0);
    let Ran { code, out } = guest.end(INTERRUPTED);
    assert_eq!((code, out.as_str()), (0, ""), "it has complained");
    let more = interface_counters(scene.switch.net.a).0 - served;
    assert!(more > UNDER_WAY, "only {more} frames after the restart: it was not in mid-write");
    guest.run(&format!("umount /mnt && e2fsck -fn {DISK} && mount -t ext4 {DISK} /mnt"));
    checksums_hold(guest);
    format!("written and verified {:.1} s after the restart", now().since(again).as_secs_f64())
}

/// Makes the disk longer while its file system is in use.
fn grow(scene: &mut Scene, guest: &mut Guest) -> String {
    let before = guest.run("df -k /mnt | tail -n 1 | awk '{print $2}'");
    scene.resize(GROWN);
    let size = format!("[ $(blockdev --getsz {DISK}) = {GROWN} ]");
    guest.wait_for(&format!("{{ aoe-revalidate e1.0; {size}; }}"), 20);
    guest.run(&format!("resize2fs {DISK}"));
    let after = guest.run("df -k /mnt | tail -n 1 | awk '{print $2}'");
    checksums_hold(guest);
    format!("{SECTORS} to {GROWN} sectors, {before} to {after} KiB of files")
}

/// Mounts what the disk was beside what it has become, and then makes it what it was.
fn snapshots(scene: &mut Scene, guest: &mut Guest) -> String {
    const OLD: &str = "/dev/etherd/e1.9";
    let holds = |guest: &mut Guest| {
        guest.run("echo 3 >/proc/sys/vm/drop_caches && cd /tmp/old && sha256sum -s -c sums");
    };
    guest.run("umount /mnt");
    scene.control("snapshot create e1.0@before");
    guest.run(&format!("mount -t ext4 {DISK} /mnt"));
    guest.run("head -c 1500000 /dev/urandom >/mnt/one && rm /mnt/many/*a && cp /mnt/one /mnt/two");
    guest.run("sync");
    scene.control("snapshot export e1.0@before e1.9");
    guest.wait_for(&format!("[ -b {OLD} ]"), 20);
    guest.run(&format!("mkdir -p /tmp/old && mount -t ext4 -o ro {OLD} /tmp/old"));
    holds(guest);
    let changed = guest.attempt("cd /mnt && sha256sum -s -c sums");
    assert_ne!(changed.code, 0, "the disk has not changed");
    // It goes on changing, by many times what a commit takes.
    guest.run("for n in 1 2 3 4 5 6; do head -c 3000000 /dev/urandom >/mnt/two; sync; done");
    holds(guest);
    let write = guest.attempt(&format!("dd if=/dev/zero of={OLD} bs=512 count=1 oflag=direct"));
    assert_ne!(write.code, 0, "a snapshot was written to");
    guest.run("umount /tmp/old && umount /mnt");
    scene.control("snapshot unexport e1.9");
    // It was used just now, and is not any more.
    scene.control("snapshot restore e1.0@before --force");
    guest.run("echo 3 >/proc/sys/vm/drop_caches");
    guest.run(&format!("e2fsck -fn {DISK} && mount -t ext4 {DISK} /mnt"));
    checksums_hold(guest);
    "holds beside the disk that changes, takes no writes; restored, fsck finds nothing".into()
}

/// Reads from a target that cannot be written to.
fn read_only(guest: &mut Guest) -> String {
    let disk = "/dev/etherd/e1.1";
    guest.wait_for(&format!("[ -b {disk} ]"), 20);
    let sum = guest.run(&format!("sha256sum <{disk}"));
    let write = format!("dd if=/dev/zero of={disk} bs=512 count=1 oflag=direct");
    let Ran { code, out } = guest.attempt(&write);
    assert!(code != 0 && out.contains("error"), "written: {out}");
    assert_eq!(guest.run("cat '/sys/block/etherd!e1.1/state'"), "up");
    guest.run(&format!("mkdir -p /tmp/ro && mount -t ext4 -o ro,noload {disk} /tmp/ro"));
    assert_eq!(guest.run("cat /tmp/ro/greeting"), GREETING);
    guest.run("umount /tmp/ro && echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(guest.run(&format!("sha256sum <{disk}")), sum, "it has changed");
    "a write fails, reads go on".into()
}

/// Checks that the disk is there as it should be.
fn found(case: &Case, guest: &mut Guest) -> String {
    let size: u64 = guest.run(&format!("blockdev --getsz {DISK}")).parse().unwrap();
    let payload = guest.run("cat '/sys/block/etherd!e1.0/payload'");
    assert_eq!(size, SECTORS);
    assert_eq!(payload, case.payload().to_string());
    assert_eq!(guest.run("cat '/sys/block/etherd!e1.0/state'"), "up");
    format!("{size} sectors, payload {payload}, Linux {}", guest.release)
}

/// From discovery to a file system: what is recorded, and judged by tshark.
fn first_steps(steps: &Steps, scene: &Scene, guest: &mut Guest) {
    let capture = scene.path("session.pcap");
    let recorder = Recorder::start(scene.switch.net.b, &capture);
    steps.step("discovery, size, payload", || {
        guest.discover("e1.0");
        found(&scene.case, guest)
    });
    steps.step("odd O_DIRECT transfers", || transfer_odd_lengths(scene, guest));
    steps.step("fio verifies crc32c", || verify_by_fio(guest));
    steps.step("mkfs.ext4, files, fsck, remount", || make_file_system(guest));
    let missed = recorder.end();
    steps.step("tshark: nothing amiss", || Session::read(&capture, missed).to_string());
}

fn linux_driver(case: Case) {
    let Some(mut scene) = Scene::new(case, 0) else { return };
    let tap = scene.switch.add_tap(case.mtu);
    let steps = Steps::of(case.title("linux"));
    let mut guest = Guest::boot(tap, case.mtu);
    first_steps(&steps, &scene, &mut guest);
    steps.step("kill -9 in mid-write", || kill_in_mid_write(&mut scene, &mut guest, "killed"));
    steps.step("live resize, aoe-revalidate", || grow(&mut scene, &mut guest));
    steps.step("read-only target", || read_only(&mut guest));
    if case.backend.has_snapshots() {
        steps.step("snapshot exported, restored", || snapshots(&mut scene, &mut guest));
    }
    steps.step("restart", || {
        scene.restart();
        checksums_hold(&mut guest);
        "checksums hold".into()
    });
    steps.step("second boot", || {
        guest.run("umount /mnt");
        guest.power_off();
        let mut guest = Guest::boot(tap, case.mtu);
        guest.discover("e1.0");
        guest.run(&format!("e2fsck -fn {DISK} && mount -t ext4 {DISK} /mnt"));
        checksums_hold(&mut guest);
        guest.run("umount /mnt");
        guest.power_off();
        scene.end();
        scene.check_file_system();
        "checksums hold, fsck finds nothing, there and on the server".into()
    });
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn the_linux_driver_loses_nothing_file_af_packet() {
    linux_driver(CASES[0]);
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn the_linux_driver_loses_nothing_file_pcap() {
    linux_driver(CASES[1]);
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn the_linux_driver_loses_nothing_journal_af_packet() {
    linux_driver(CASES[2]);
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn the_linux_driver_loses_nothing_journal_pcap() {
    linux_driver(CASES[3]);
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn the_linux_driver_loses_nothing_archive_af_packet() {
    linux_driver(CASES[4]);
}

#[test]
#[ignore = "takes minutes: make test-clients"]
fn the_linux_driver_loses_nothing_archive_pcap() {
    linux_driver(CASES[5]);
}
