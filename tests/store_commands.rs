//! `store fsck`, `store repair` and `store usage`: what they print and how they exit.
#![cfg(all(feature = "cli", feature = "cas"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/octets.rs"]
#[allow(dead_code, reason = "another test uses the rest of it")]
mod octets;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use octets::{FRAME_HEADER, copy, flip, packs, roots_of};

/// A copy of the store of `tests/data/stores`, with a journal.
fn store() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores/version-1");
    copy(&fixture, directory.path());
    let archive = directory.path().join("archive");
    fs::rename(archive.join("journal.heads"), archive.join("journal")).unwrap();
    File::options().write(true).open(archive.join("journal")).unwrap().set_len(1 << 20).unwrap();
    directory
}

/// Runs a command of `store`.
fn run(arguments: &[&str], store: &Path) -> (i32, String, String) {
    run_words(&[&["store"], arguments].concat(), store)
}

/// Runs a command on an archive: exit code, standard output and standard error.
fn run_words(words: &[&str], store: &Path) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_aoe-server"));
    let output = program.args(words).arg(store).output().unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_sound_store() {
    let store = store();
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 0, "{out}");
    assert!(out.ends_with("nothing is wrong\n") && out.contains("1 volumes, 1 snapshots"), "{out}");
    let (code, out, _) = run(&["fsck", "--json"], store.path());
    assert_eq!((code, out.lines().count()), (0, 1));
    assert!(out.contains(r#""damaged":false"#) && out.contains(r#""lost":[]"#), "{out}");
    let (code, out, _) = run(&["repair", "--index"], store.path());
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = run(&["usage"], store.path());
    assert_eq!(code, 0);
    assert!(out.contains("e1.0@one") && out.contains("each block once"), "{out}");
    let (code, out, _) = run(&["usage", "--json"], store.path());
    // Two blocks each, of which one is the same.
    assert_eq!(code, 0);
    assert!(out.contains(r#""mapped_bytes":16384"#), "{out}");
    let (code, _, complaint) = run(&["repair", "--roots"], store.path());
    assert_eq!(code, 1);
    assert!(complaint.contains("is sound"), "{complaint}");
}

/// What messages ask for can be done.
#[test]
fn a_store_without_its_journal() {
    let store = store();
    let journal = store.path().join("archive/journal");
    fs::remove_file(&journal).unwrap();
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 1, "{out}");
    let (code, _, complaint) = run(&["recover"], store.path());
    assert_eq!(code, 2, "{complaint}");
    assert!(complaint.contains("is missing: acknowledged writes may be lost"), "{complaint}");
    let advice =
        format!("aoe-server store recover --accept-loss --new-journal {}", store.path().display());
    assert!(complaint.contains(&advice), "{complaint}");
    // Its disk may not be mounted: whoever accepts another loss does not mean this one.
    let (code, _, complaint) = run(&["recover", "--accept-loss"], store.path());
    assert_eq!(code, 2, "{complaint}");
    assert!(complaint.contains(&advice), "{complaint}");
    let (code, _, complaint) = run(&["recover", "--new-journal"], store.path());
    assert_eq!(code, 2);
    assert!(complaint.contains("--accept-loss"), "{complaint}");
    assert!(!journal.exists());
    let (code, out, complaint) = run(&["recover", "--accept-loss", "--new-journal"], store.path());
    assert_eq!(code, 0, "{complaint}");
    assert!(out.contains("0 writes of 0 B to 0 volumes were in the journal; commit"), "{out}");
    // Once.
    let (code, out, complaint) = run(&["recover", "--json"], store.path());
    assert_eq!(code, 0, "{complaint}");
    assert!(out.contains(r#""writes":0"#), "{out}");
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 0, "{out}");
    let (code, _, complaint) = run(&["recover"], Path::new("/nonexistent"));
    assert_eq!(code, 2);
    assert!(complaint.contains("is not an archive"), "{complaint}");
    // Of what makes no sense together nothing is done.
    let (code, _, complaint) = run(&["repair", "--index", "--dry-run"], store.path());
    assert_eq!(code, 2, "{complaint}");
}

/// What a volume or a snapshot holds, as a raw image; or what is said instead.
fn exported(source: &str, store: &Path) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let (code, _, complaint) =
        run_words(&["image", "export", source, image.to_str().unwrap(), "--store"], store);
    if code == 0 { Ok(fs::read(&image).unwrap()) } else { Err(complaint) }
}

/// It was once said to be no archive, with the advice to make one.
#[test]
fn a_store_without_root_slots() {
    let store = store();
    // Has the journal marked with the last commit, as all are by now.
    let (code, _, complaint) = run(&["recover"], store.path());
    assert_eq!(code, 0, "{complaint}");
    let disks = ["e1.0", "e1.0@one"];
    let before = disks.map(|disk| exported(disk, store.path()).unwrap());
    assert_ne!(before[0], before[1]);
    fs::remove_file(roots_of(store.path())).unwrap();

    let advice = format!("aoe-server store repair --roots {}", store.path().display());
    for words in [
        &["store", "info", "--store"][..],
        &["store", "commit", "--store"],
        &["store", "usage"],
        &["store", "init"],
        &["store", "recover"],
        &["store", "recover", "--accept-loss", "--new-journal"],
        &["store", "repair", "--index"],
        &["volume", "list", "--store"],
        &["volume", "create", "e1.1", "1MiB", "--store"],
        &["snapshot", "create", "e1.0@two", "--store"],
    ] {
        let (code, out, complaint) = run_words(words, store.path());
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}: {complaint}");
        assert!(complaint.contains(&advice), "{words:?}: {complaint}");
    }
    assert!(exported("e1.0", store.path()).unwrap_err().contains(&advice));
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 1);
    assert!(out.contains(&advice) && !out.contains("belongs to no commit"), "{out}");
    assert!(!roots_of(store.path()).exists());

    let (code, out, complaint) = run(&["repair", "--roots"], store.path());
    assert_eq!(code, 0, "{complaint}");
    assert!(out.contains("no acknowledged write is missing") && out.ends_with("mended\n"), "{out}");
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 0, "{out}");
    let after = disks.map(|disk| exported(disk, store.path()).unwrap());
    assert!(after == before);
}

/// Without what a root slot names, root slots made anew are of no use.
#[test]
fn a_store_without_its_manifests() {
    let store = store();
    // Both root slots name something.
    for _ in 0..2 {
        let (code, _, complaint) = run(&["recover"], store.path());
        assert_eq!(code, 0, "{complaint}");
    }
    for pack in packs(store.path()).iter().filter(|pack| !pack.has_blocks()) {
        fs::remove_file(&pack.path).unwrap();
    }
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 1);
    assert!(
        out.ends_with("nothing of it can be read until what is named above is put back\n"),
        "{out}"
    );
    assert!(!out.contains("repair --roots"), "{out}");
}

#[test]
fn a_damaged_store() {
    let store = store();
    let pack = packs(store.path()).into_iter().find(octets::Pack::has_blocks).unwrap();
    flip(&pack.path, pack.frames[0].offset + FRAME_HEADER);
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 1);
    assert!(out.contains("lost: e1.0") && out.contains("DAMAGED"), "{out}");
    let (code, out, _) = run(&["fsck", "--json"], store.path());
    assert_eq!(code, 1);
    assert!(out.contains(r#""code":"frame""#) && out.contains(r#""kind":"block""#), "{out}");

    fs::remove_file(roots_of(store.path())).unwrap();
    let (code, out, _) = run(&["fsck"], store.path());
    assert_eq!(code, 1);
    assert!(out.contains("store repair --roots"), "{out}");
    let (code, out, _) = run(&["repair", "--roots", "--dry-run"], store.path());
    assert_eq!(code, 0);
    assert!(out.contains("can be mended"), "{out}");
    assert!(!roots_of(store.path()).exists());
    let (code, out, _) = run(&["repair", "--roots", "--json"], store.path());
    assert_eq!(code, 0);
    assert!(out.contains(r#""written":true"#), "{out}");
    assert!(roots_of(store.path()).exists());
}

#[test]
fn no_store() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["fsck"][..], &["usage"], &["repair", "--index"], &["repair", "--roots"]] {
        let (code, out, complaint) = run(arguments, directory.path());
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(complaint.contains("is not an archive"), "{complaint}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let (code, _, _) = run(&["repair"], directory.path());
    assert_eq!(code, 2);
}
