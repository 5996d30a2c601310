//! File systems of a few megabytes, on which a test can run out of space.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so aloud")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// A small file system that only the calling thread and its children see.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `bytes` at `place`. `None`, said aloud, where that is not permitted; in CI that
    /// is a failure.
    pub(crate) fn mount(place: PathBuf, bytes: usize) -> Option<Self> {
        fs::create_dir(&place).unwrap();
        let size = format!("size={bytes}");
        let mounted = own_mounts()
            && done(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&place));
        if mounted {
            return Some(Self(place));
        }
        let why = "cannot mount a small file system; try as root";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Or the directory could not be removed. A server may use it still: it goes away with that.
        done(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// Takes all the room that is left.
pub(crate) fn fill(ballast: &Path) {
    let mut file = fs::File::create(ballast).unwrap();
    for len in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; len]).is_ok() {}
    }
}

pub(crate) fn done(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// Has what the calling thread mounts be seen by it and its children only.
fn own_mounts() -> bool {
    unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && done(Command::new("mount").args(["--make-rprivate", "/"]))
}
