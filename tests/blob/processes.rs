//! What takes another process: to be killed, or to have a file system of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

/// Where a child process finds the store that it is to work in; without it the tests that are for
/// child processes do nothing.
const STORE: &str = "AOE_TEST_BLOB_STORE";
const ROUNDS: u64 = 12;
const THREADS: u64 = 3;

fn this_test(name: &str, store: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(STORE, store);
    command
}

/// The blob that a thread of a round puts at a turn: often one of an earlier round.
fn killed_content(round: u64, thread: u64, turn: u64) -> Vec<u8> {
    let seed = (round * 7 + turn * THREADS + thread) % 4_096;
    octets(seed, usize::try_from(1 + seed * 37 % 60_000).unwrap())
}

/// Puts blobs until it is killed, and tells the name of each that is durable.
#[test]
fn child_that_puts() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let path = Path::new(&path);
    let store = FileBlobStore::open(path).unwrap();
    let round = std::env::var("ROUND").unwrap().parse().unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                // An end, for when nobody kills it.
                for turn in 0..20_000 {
                    let contents = [0, 1].map(|more| killed_content(round, thread, turn + more));
                    let blobs = [0, 1].map(|place| Blob::new(&contents[place]));
                    let count = if turn % 8 == 0 { 2 } else { 1 };
                    store.put_many(&blobs[..count]).unwrap();
                    let lines: Vec<_> =
                        blobs[..count].iter().map(|blob| format!("put {}\n", blob.id())).collect();
                    // In one go, so that lines do not mix.
                    std::io::stdout().lock().write_all(lines.concat().as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_killed_process_leaves_every_promised_blob_and_no_half_one() {
    let temp = temp();
    let mut promised = std::collections::BTreeSet::new();
    let mut swept = 0;
    for round in 0..ROUNDS {
        let mut child = this_test("processes::child_that_puts", temp.path())
            .env("ROUND", round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = 0;
        while told < 20 + round * 11 {
            let line = lines.next().expect("it goes on until it is killed").unwrap();
            if let Some(name) = line.strip_prefix("put ") {
                promised.insert(name.parse::<BlobId>().unwrap());
                told += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had told and we had not read. The last line may be cut off.
        for line in lines.map_while(Result::ok) {
            promised.extend(line.strip_prefix("put ").and_then(|name| name.parse::<BlobId>().ok()));
        }
        swept += unfinished(temp.path());
        let store = FileBlobStore::open(temp.path()).unwrap();
        assert_eq!(unfinished(temp.path()), 0);
        let found = names(&store, "");
        for id in &found {
            store.get(*id).unwrap();
        }
        for id in &promised {
            assert!(found.binary_search(id).is_ok(), "round {round}: {id} is lost");
        }
    }
    assert!(swept > 0, "no kill ever hit a put");
}

/// How many files of a store are not blobs yet.
fn unfinished(root: &Path) -> usize {
    let shards = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let shards = shards.filter(|path| path.is_dir());
    let names = shards.flat_map(|path| std::fs::read_dir(path).unwrap());
    names.filter(|name| name.as_ref().unwrap().path().extension().is_some()).count()
}

/// Fills a small file system, and then has it made read-only.
#[test]
fn child_on_a_small_file_system() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let root = Path::new(&path).join("blobs");
    let store = FileBlobStore::open(&root).unwrap();
    let contents: Vec<_> = (0..64).map(|seed| octets(seed, 100_000)).collect();
    let blobs: Vec<_> = contents.iter().map(|octets| Blob::new(octets)).collect();
    let mut stored = Vec::new();
    let error = blobs.iter().find_map(|blob| match store.put(blob) {
        Ok(_) => {
            stored.push(blob.id());
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(error, Some(BlobError::NoSpace { op: "write", .. })), "{error:?}");
    let error = store.put_many(&blobs).unwrap_err();
    assert!(matches!(error, BlobError::NoSpace { .. }), "{error:?}");
    assert_eq!(unfinished(&root), 0, "they would take up the space that is missing");
    stored.sort_unstable();
    assert_eq!(names(&store, ""), stored);
    for id in &stored {
        store.get(*id).unwrap();
    }
    store.delete(stored[0]).unwrap();
    let back = blobs.iter().find(|blob| blob.id() == stored[0]).unwrap();
    assert_eq!(store.put(back).unwrap(), Put::Written, "there is room again");
    drop(store);

    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&path).status().unwrap();
    assert!(remounted.success());
    let error = FileBlobStore::open(&root).unwrap_err();
    assert!(matches!(error, BlobError::ReadOnly { .. }), "{error:?}");
    let error = FileBlobStore::open(Path::new(&path).join("more")).unwrap_err();
    assert!(matches!(error, BlobError::ReadOnly { .. }), "{error:?}");
    let reader = FileBlobStore::open_read_only(&root).unwrap();
    assert_eq!(names(&reader, ""), stored);
    println!("all as it should be");
}

#[test]
fn a_full_or_read_only_file_system_is_named() {
    let temp = temp();
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let inside = this_test("processes::child_on_a_small_file_system", temp.path());
    command.args([
        "sh",
        "-c",
        "mount -t tmpfs -o size=1M none \"$0\" && echo mounted && exec \"$@\"",
    ]);
    command.arg(temp.path()).arg(inside.get_program()).args(inside.get_args());
    let output = command.env(STORE, temp.path()).output();
    let told = match &output {
        Ok(output) => {
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)
        }
        Err(error) => error.to_string().into(),
    };
    if !told.starts_with("mounted") {
        assert!(std::env::var_os("CI").is_none(), "no file system of its own: {told}");
        eprintln!("SKIPPED: no file system of its own: {told}");
        return;
    }
    assert!(told.contains("all as it should be"), "{told}");
}
