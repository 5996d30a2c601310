//! Block devices over files, for tests that may make some.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aoe_server::clock;
use aoe_server::storage::device::{DeviceError, DeviceOptions, DeviceStorage, ReadMethod};
use tempfile::TempDir;

/// A block device over a file.
pub(crate) struct LoopDevice {
    path: PathBuf,
    dir: TempDir,
}

impl LoopDevice {
    /// `None` where there are none, which is said aloud.
    pub(crate) fn new(bytes: u64, block: u32, read_only: bool) -> Option<Self> {
        let must = std::env::var_os("CI").is_some() && Path::new("/dev/loop-control").exists();
        if !rustix::process::geteuid().is_root() {
            skip("loop devices need root");
            return None;
        }
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = dir.path().join("disk");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let block = block.to_string();
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--sector-size", &block]).arg(&image);
        if read_only {
            losetup.arg("--read-only");
        }
        match losetup.output() {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap();
                Some(Self { path: path.trim().into(), dir })
            }
            other => {
                assert!(!must, "no loop device: {other:?}");
                skip("no loop device is to be had");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file below the device so long: what is past its end cannot be read.
    pub(crate) fn cut(&self, bytes: u64) {
        let image = OpenOptions::new().write(true).open(self.dir.path().join("disk")).unwrap();
        image.set_len(bytes).unwrap();
    }

    pub(crate) fn open(&self, reads: ReadMethod) -> DeviceStorage {
        self.open_with(|| DeviceOptions { reads, ..DeviceOptions::default() })
    }

    pub(crate) fn open_with(&self, options: impl Fn() -> DeviceOptions) -> DeviceStorage {
        let start = clock::now();
        loop {
            match DeviceStorage::open(&self.path, options()) {
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

    /// The ways to read the device here, which is said aloud where `io_uring` is none of them.
    pub(crate) fn methods(&self) -> Vec<ReadMethod> {
        let options =
            DeviceOptions { reads: ReadMethod::Ring, read_only: true, ..DeviceOptions::default() };
        match DeviceStorage::open(&self.path, options) {
            Ok(_) => vec![ReadMethod::Ring, ReadMethod::Threads],
            Err(error) => {
                let switch = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
                let must = std::env::var_os("CI").is_some()
                    && switch.is_ok_and(|switch| switch.trim() == "0");
                assert!(!must, "{error:?}");
                skip("io_uring is refused here");
                vec![ReadMethod::Threads]
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn skip(why: &str) {
    eprintln!("\n*** SKIPPED: {why} ***\n");
}
