//! What is particular to block devices.

use std::fs::File;
use std::path::PathBuf;

use aoe_server::storage::device::{DeviceError, DeviceOptions};

use super::*;

/// A block device over a file of [`SIZE`] sectors.
pub(crate) struct LoopDevice {
    path: PathBuf,
    _dir: TempDir,
}

impl LoopDevice {
    /// `None` where there are none, which is said aloud.
    pub(crate) fn new(block: u32, read_only: bool) -> Option<Self> {
        let must = std::env::var_os("CI").is_some() && Path::new("/dev/loop-control").exists();
        if !is_root() {
            skip("loop devices need root");
            return None;
        }
        let dir = disk_dir();
        let image = dir.path().join("disk");
        File::create(&image).unwrap().set_len(BYTES as u64).unwrap();
        let block = block.to_string();
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--sector-size", &block]).arg(&image);
        if read_only {
            losetup.arg("--read-only");
        }
        match losetup.output() {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap();
                Some(Self { path: path.trim().into(), _dir: dir })
            }
            other => {
                assert!(!must, "no loop device: {other:?}");
                skip("no loop device is to be had");
                None
            }
        }
    }

    pub(crate) fn open(&self) -> DeviceStorage {
        let start = clock::now();
        loop {
            match DeviceStorage::open(&self.path, DeviceOptions::default()) {
                // A program that another test is just starting has a copy of the descriptor.
                Err(DeviceError::Busy { .. })
                    if clock::now().since(start) < Duration::from_secs(5) =>
                {
                    std::thread::yield_now();
                }
                opened => return opened.unwrap(),
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn a_device_passes_the_suite() {
    for block in [512, 4096] {
        let Some(device) = LoopDevice::new(block, false) else { return };
        let mut disk = device.open();
        assert!(disk.info().discard, "a loop device over a file zeroes ranges");
        suite(&mut disk);
        let long = vec![0; 17 * 17 * SECTOR_SIZE];
        let mut into = long.clone();
        assert_eq!(disk.read(Lba(0), &mut into), Err(Fault::Aborted));
        put(&mut disk, 100, &pattern(100, 77)).unwrap();
        disk.close().unwrap();
        assert_eq!(read(&mut device.open(), 100, 100).unwrap(), pattern(100, 77));
    }
}

#[test]
fn a_device_is_claimed_once_and_can_be_read_only() {
    let Some(device) = LoopDevice::new(512, false) else { return };
    let disk = device.open();
    let error = DeviceStorage::open(&device.path, DeviceOptions::default()).unwrap_err();
    assert!(matches!(error, DeviceError::Busy { .. }), "{error}");
    let reader = || DeviceOptions { read_only: true, ..DeviceOptions::default() };
    refuses_writes(&mut DeviceStorage::open(&device.path, reader()).unwrap());
    drop(disk);
    device.open();

    let Some(protected) = LoopDevice::new(512, true) else { return };
    let error = DeviceStorage::open(&protected.path, DeviceOptions::default()).unwrap_err();
    assert!(matches!(error, DeviceError::WriteProtected { .. }), "{error}");
    refuses_writes(&mut DeviceStorage::open(&protected.path, reader()).unwrap());
}

#[test]
fn what_is_no_device_is_told_apart() {
    let dir = disk_dir();
    let open = |path: &Path| DeviceStorage::open(path, DeviceOptions::default()).unwrap_err();
    assert!(matches!(open(&dir.path().join("none")), DeviceError::NotFound { .. }));
    assert!(matches!(open(dir.path()), DeviceError::NotADevice { .. }));
    assert!(matches!(open(Path::new("/dev/null")), DeviceError::NotADevice { .. }));
}

/// A read that began before a write must not be handed to who asks after it.
#[test]
fn a_device_never_hands_over_what_a_write_has_replaced() {
    let Some(device) = LoopDevice::new(512, false) else { return };
    let mut disk = device.open();
    for generation in 0..200_u8 {
        let mut octets = [0xa5; 2 * SECTOR_SIZE];
        // Begun, and then not collected.
        let _ = disk.read(Lba(8), &mut octets).unwrap();
        if generation % 2 == 0 {
            news(&mut disk);
        }
        let ticket = write(&mut disk, 9, &[generation; SECTOR_SIZE]).unwrap();
        if generation % 3 == 0 {
            let _ = disk.read(Lba(8), &mut octets).unwrap();
        }
        applied(&mut disk, ticket);
        assert_eq!(read(&mut disk, 8, 2).unwrap()[SECTOR_SIZE..], [generation; SECTOR_SIZE]);
    }
}

#[test]
fn reads_that_nobody_collects_do_not_use_a_device_up() {
    let Some(device) = LoopDevice::new(512, false) else { return };
    let mut disk = device.open();
    put(&mut disk, 990, &pattern(2, 1)).unwrap();
    let mut sector = [0xa5; SECTOR_SIZE];
    for round in 0..4 {
        for lba in 0..200 {
            let _ = disk.read(Lba(lba), &mut sector).unwrap();
        }
        let _ = disk.verify(Lba(round), Sectors(900)).unwrap();
    }
    assert_eq!(read(&mut disk, 990, 2).unwrap(), pattern(2, 1));
}
