//! The ways to keep disks, and what is done to a disk by whoever runs its server.

use std::fs::OpenOptions;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::common::capture::run;
use crate::common::server::{Home, PROGRAM, ServerProcess};

/// The disk of e1.0 in the server's directory.
const IMAGE: &str = "disk";
/// The archive there that has the volume e1.0.
const ARCHIVE: &str = "archive";

/// A way to keep disks.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Its name in results.
    pub(crate) name: &'static str,
    /// What `[server]` says about it.
    pub(crate) server: &'static str,
    /// What the target e1.0 says; `{dir}` is the server's directory.
    pub(crate) target: &'static str,
    keeping: Keeping,
}

/// What a disk is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// A file that is the disk, octet by octet.
    Image,
    /// A volume of an archive.
    Archive,
}

/// A file.
pub(crate) const FILE: Backend = Backend {
    name: "file",
    server: "",
    target: "backend = \"file\"\npath = \"{dir}/disk\"\n",
    keeping: Keeping::Image,
};

/// A file behind a journal.
pub(crate) const JOURNALLED: Backend = Backend {
    name: "journalled",
    server: "journal = \"{dir}/journal\"\njournal_size = \"32 MiB\"\n",
    ..FILE
};

/// A volume of an archive, small enough for many commits and for reads from packs.
pub(crate) const ARCHIVED: Backend = Backend {
    name: "archive",
    server: "",
    target: "backend = \"cas\"\n[target.cas]\n[target.cas.blob_store]\ntype = \"file\"\n\
             path = \"{dir}/archive\"\ncommit_size = \"4 MiB\"\ncache_size = \"8 MiB\"\n",
    keeping: Keeping::Archive,
};

impl Backend {
    /// Makes the disk of e1.0, of so many sectors, before there is a server.
    pub(crate) fn make(&self, home: &Home, sectors: u64) {
        match self.keeping {
            Keeping::Image => set_image_len(home, sectors),
            Keeping::Archive => {
                let archive = text(home.path(ARCHIVE));
                own(&["store", "init", &archive, "--journal-size", "32 MiB"]);
                own(&["volume", "create", "e1.0", &bytes(sectors), "--store", &archive]);
            }
        }
    }

    /// Makes it so many sectors long while it is served.
    pub(crate) fn resize(&self, home: &Home, server: &ServerProcess, sectors: u64) {
        match self.keeping {
            Keeping::Image => {
                set_image_len(home, sectors);
                server.signal(Signal::SIGHUP);
            }
            Keeping::Archive => {
                control(home, &["volume", "resize", "e1.0", &bytes(sectors)]);
            }
        }
    }

    /// The file that has what is on the disk while it is served, if there is one.
    pub(crate) fn live_image(&self, home: &Home) -> Option<PathBuf> {
        (self.keeping == Keeping::Image).then(|| home.path(IMAGE))
    }

    /// A file that has what is on the disk, which its server has let go of. An archive is checked
    /// whole before.
    pub(crate) fn image(&self, home: &Home) -> PathBuf {
        if self.keeping == Keeping::Archive {
            let (archive, image) = (text(home.path(ARCHIVE)), text(home.path("exported")));
            own(&["store", "fsck", &archive]);
            own(&["image", "export", "e1.0", &image, "--store", &archive, "--overwrite"]);
            return image.into();
        }
        home.path(IMAGE)
    }

    /// Whether there are snapshots of disks.
    pub(crate) fn has_snapshots(&self) -> bool {
        self.keeping == Keeping::Archive
    }
}

/// Runs one of our own commands that has to succeed, and hands out what it printed.
#[track_caller]
pub(crate) fn own(args: &[&str]) -> String {
    let ran = run(PROGRAM, args);
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.out, ran.error);
    ran.out
}

/// Has the server in `home` do something by its control socket.
#[track_caller]
pub(crate) fn control(home: &Home, args: &[&str]) -> String {
    let socket = text(home.path("state").join("control.sock"));
    own(&[args, &["--socket", &socket]].concat())
}

fn set_image_len(home: &Home, sectors: u64) {
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(home.path(IMAGE));
    open.and_then(|image| image.set_len(sectors * 512)).unwrap();
}

fn bytes(sectors: u64) -> String {
    format!("{} B", sectors * 512)
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a path of text")
}
