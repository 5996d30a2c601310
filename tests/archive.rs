//! An archive under real targets: the real program, its commands, and an initiator of this process, over
//! a virtual cable. Two targets share one store; a snapshot is made, the disk is overwritten, the snapshot
//! is served beside it, and brought back.

#![cfg(feature = "cas")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use aoe_server::client::{Client, ClientError, Disk, Range};
use aoe_server::protocol::Address;
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use common::net::TestNet;
use common::server::{Home, ServerProcess, client, ended, run};

const MTU: usize = 9000;
const E1_0: Address = Address { shelf: 1, slot: 0 };
const E1_1: Address = Address { shelf: 1, slot: 1 };
const E1_9: Address = Address { shelf: 1, slot: 9 };
/// Bytes of the disks: some hundred blocks, and several commits.
const BYTES: usize = 8 << 20;

fn range(disk: &Disk) -> Range<'_> {
    let count = Sectors((BYTES / SECTOR_SIZE) as u64);
    Range { disk, lba: Lba(0), count, depth: 16 }
}

fn read(client: &mut Client, target: Address) -> Vec<u8> {
    let disk = client.open(target).unwrap();
    let mut octets = Vec::new();
    client.read(&range(&disk), &mut octets, &mut |_| ()).unwrap();
    octets
}

fn write(client: &mut Client, target: Address, octets: &[u8]) -> Result<(), ClientError> {
    let disk = client.open(target).unwrap();
    client.write(&range(&disk), &mut &octets[..], &mut |_| ()).map(|_| ())
}

/// Octets that do not repeat within the disk, others for each seed, and that can be compressed a little.
fn content(seed: u32) -> Vec<u8> {
    let word = |n: u32| {
        let mixed = (n ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        (mixed ^ mixed >> 13) & 0x0fff_ffff
    };
    let words = u32::try_from(BYTES / 4).unwrap();
    (0..words).flat_map(|n| word(n).to_le_bytes()).collect()
}

struct Archive {
    home: Home,
    config: String,
    _net: TestNet,
    client: Client,
}

impl Archive {
    fn new() -> Option<Self> {
        let net = TestNet::new(MTU)?;
        let home = Home::new();
        let size = format!("size = \"{BYTES} B\"");
        let of_store = "journal_size = \"4 MiB\"\ncommit_size = \"1 MiB\"";
        let config = home.server(net.a, "af-packet")
            + &format!("control_socket = \"{}\"\n", home.path("control").display())
            + &home.archive_target(0, "archive", &size, of_store)
            + &home.archive_target(1, "archive", &size, of_store);
        let client = client(net.b);
        Some(Self { home, config, _net: net, client })
    }

    fn start(&self) -> ServerProcess {
        ServerProcess::start_in(&self.home, &self.config)
    }

    /// Runs a command on the running server, and returns what it printed.
    fn command(&self, words: &[&str]) -> String {
        let socket = self.home.path("control");
        let mut args: Vec<&str> = words.to_vec();
        args.extend(["--socket", socket.to_str().unwrap()]);
        ended(&run(args), 0).0
    }

    fn store(&self) -> std::path::PathBuf {
        self.home.path("archive")
    }
}

/// Octets of all files below `path`.
fn bytes_below(path: &Path) -> u64 {
    let sum = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() { bytes_below(&entry.path()) } else { entry.metadata().unwrap().len() }
    };
    std::fs::read_dir(path).unwrap().map(sum).sum()
}

#[test]
fn a_disk_is_written_kept_overwritten_served_as_it_was_and_brought_back() {
    let Some(mut archive) = Archive::new() else { return };
    let mut server = archive.start();
    let (old, new) = (content(1), content(2));
    write(&mut archive.client, E1_0, &old).unwrap();
    let made = archive.command(&["snapshot", "create", "e1.0@before"]);
    assert!(made.contains("e1.0@before"), "{made}");
    write(&mut archive.client, E1_0, &new).unwrap();
    assert!(read(&mut archive.client, E1_0) == new);

    archive.command(&["snapshot", "export", "e1.0@before", "e1.9"]);
    assert!(read(&mut archive.client, E1_9) == old, "the snapshot is served beside the disk");
    assert!(write(&mut archive.client, E1_9, &new).is_err(), "a snapshot takes no writes");
    archive.command(&["snapshot", "unexport", "e1.9"]);

    let listed = archive.command(&["snapshot", "list", "e1.0", "--json"]);
    assert!(listed.contains("\"before\""), "{listed}");
    archive.command(&["snapshot", "restore", "--force", "e1.0@before"]);
    assert!(read(&mut archive.client, E1_0) == old, "it is what it was");

    // What a restart finds is the same, and so is what comes out of a crash.
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    let mut server = archive.start();
    assert!(read(&mut archive.client, E1_0) == old);
    server.kill();
    let mut server = archive.start();
    assert!(read(&mut archive.client, E1_0) == old);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

#[test]
fn two_targets_with_one_content_take_the_space_of_one() {
    let Some(mut archive) = Archive::new() else { return };
    let mut server = archive.start();
    let content = content(3);
    write(&mut archive.client, E1_0, &content).unwrap();
    archive.command(&["snapshot", "create", "e1.0@one"]);
    let one = bytes_below(&archive.store());
    write(&mut archive.client, E1_1, &content).unwrap();
    archive.command(&["snapshot", "create", "e1.1@two"]);
    let two = bytes_below(&archive.store());
    // Nodes and manifests come on top, and blocks that a commit met half written; the rest does not.
    let more = two - one;
    assert!(more < BYTES as u64 / 8, "{more} octets more for the same content");
    assert!(read(&mut archive.client, E1_1) == content);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
}

/// Sparse images become volumes and images again, with all of their holes.
#[test]
fn images_go_into_an_archive_and_come_out_again() {
    let home = Home::new();
    let (image, copy, store) = (home.path("image"), home.path("copy"), home.path("archive"));
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(64 << 20).unwrap();
    let data = content(7);
    file.write_all_at(&data[..3 << 20], 5 << 20).unwrap();
    file.write_all_at(&data[..512], (64 << 20) - 512).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (store, image_text, copy_text) = (text(&store), text(&image), text(&copy));
    ended(&run(["store", "init", &store]), 0);
    let import = ["image", "import", &image_text, "disk", "--store", &store, "--json"];
    let (told, _) = ended(&run(import), 0);
    assert!(told.contains("\"hole_octets\":"), "{told}");
    ended(&run(["snapshot", "create", "disk@one", "--store", &store]), 0);
    ended(&run(["image", "export", "disk@one", &copy_text, "--store", &store]), 0);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&image).unwrap());
    let taken = std::fs::metadata(&copy).unwrap().blocks() * 512;
    assert!(taken < 4 << 20, "{taken} octets for 3 MiB of data");
    // What is there is not overwritten unasked.
    let again = run(["image", "export", "disk", &copy_text, "--store", &store]);
    assert_eq!(again.status.code(), Some(2));
    ended(&run(["image", "export", "disk", &copy_text, "--overwrite", "--store", &store]), 0);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&image).unwrap());
}
