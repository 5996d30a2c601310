//! Damaged stores that are kept: what `fsck` says of each, whether it opens, and what can be read then.
//!
//! `tests/data/stores/base` is a store as a crash has left it, and nothing is wrong with it. Every other
//! directory there, but for those of `fixture.rs`, is named after a damage: `damage` says what is done to the
//! base, and `expected` what comes of it, word for word. See the `README.md` there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aoe_server::storage::Fault;
use aoe_server::storage::cas::{
    CasError, CasStore, CasVolume, FsckOptions, LostRange, Severity, SnapshotOptions, StoreOptions,
    VolumeOptions,
};

use crate::disk::read;
use crate::octets::{copy, flip};
use crate::stores_base::{DISKS, Disk, base, history, is_last, options};

/// How many damages there are: none vanishes unseen.
const FIXTURES: usize = 78;

/// How a line starts that no expectation may have.
const WRONG: &str = "WRONG: ";

pub(crate) fn stores() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores")
}

/// The names of all damages, in order.
fn fixtures() -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(stores()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_other = name == "base" || name.starts_with("version-");
        if entry.file_type().unwrap().is_dir() && !is_other {
            names.push(name);
        }
    }
    names.sort();
    names
}

#[test]
fn damaged_stores_are_told_and_read_as_expected() {
    let mut differences = String::new();
    let names = fixtures();
    for name in &names {
        let expected = fs::read_to_string(stores().join(name).join("expected"));
        let expected = expected.unwrap_or_else(|_| "(there is no expectation)\n".into());
        let found = outcome(name);
        if found != expected {
            write!(differences, "{name}\n--- expected\n{expected}+++ found\n{found}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    assert_eq!(names.len(), FIXTURES, "damages have come or gone");
}

/// Writes down what comes of each damage now; when a message has changed on purpose. What is new has to be
/// read before it is committed.
#[test]
#[ignore = "writes into the source"]
fn make_the_expectations() {
    for name in fixtures() {
        fs::write(stores().join(&name).join("expected"), outcome(&name)).unwrap();
    }
}

/// Everything there is to say of a damaged store.
fn outcome(name: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path();
    base(store);
    damage(&stores().join(name), store);
    let mut text = String::new();
    examine(store, &mut text);
    let accepting = StoreOptions { accept_loss: true, ..options() };
    if !open(store, &options(), &mut text) {
        text += "\nwith --accept-loss\n";
        let mut with_journal = String::new();
        if !open(store, &accepting, &mut text)
            && open(store, &StoreOptions { new_journal: true, ..accepting }, &mut with_journal)
        {
            text += "\nwith --accept-loss --new-journal\n";
            text += &with_journal;
        }
    }
    assert!(!text.contains(WRONG), "{name}\n{text}");
    text.replace(store.to_str().unwrap(), "STORE")
}

/// Does to a store what `damage` says, after what is in `files` was put into it.
fn damage(fixture: &Path, store: &Path) {
    let files = fixture.join("files");
    if files.exists() {
        copy(&files, store);
    }
    let text = fs::read_to_string(fixture.join("damage"));
    let text = text.unwrap_or_else(|error| panic!("{}/damage: {error}", fixture.display()));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some((act, words)) = words.split_first() else { continue };
        let path = store.join(words[0]);
        let number = |word: &str| word.parse::<u64>().unwrap();
        let open = || File::options().write(true).open(&path).unwrap();
        match (*act, &words[1..]) {
            ("flip", [at]) => flip(&path, number(at)),
            ("write", [at, octets @ ..]) => {
                let octet = |word: &&str| u8::from_str_radix(word, 16).unwrap();
                let octets: Vec<u8> = octets.iter().map(octet).collect();
                open().write_all_at(&octets, number(at)).unwrap();
            }
            ("cut", [length]) => {
                assert!(number(length) < fs::metadata(&path).unwrap().len(), "{line}");
                open().set_len(number(length)).unwrap();
            }
            ("zero", [at, count]) => {
                let zeros = vec![0; number(count) as usize];
                open().write_all_at(&zeros, number(at)).unwrap();
            }
            ("append", [octets]) => {
                let length = fs::metadata(&path).unwrap().len();
                open().set_len(length + number(octets)).unwrap();
            }
            ("remove", []) if path.is_dir() => fs::remove_dir_all(&path).unwrap(),
            ("remove", []) => fs::remove_file(&path).unwrap(),
            _ => panic!("{}: what is {line:?}?", fixture.display()),
        }
    }
}

/// Reads through the store, and says what was found.
fn examine(store: &Path, text: &mut String) {
    let report = match CasStore::fsck(store, &FsckOptions::default(), &mut |_| ()) {
        Ok(report) => report,
        Err(error) => return writeln!(text, "fsck refuses: {}", chain(&error)).unwrap(),
    };
    let verdict = if report.is_damaged() { "damaged" } else { "nothing is wrong" };
    let commit = report.commit.map_or("no commit".into(), |commit| format!("commit {commit}"));
    let journal = report.counts.journal.0;
    writeln!(text, "fsck: {verdict}; {commit}, {journal} writes in the journal").unwrap();
    for finding in &report.findings {
        let severity = match finding.severity() {
            Severity::Note => "note",
            Severity::Flaw => "flaw",
            Severity::Loss => "loss",
        };
        writeln!(text, "    {severity}, {}: {finding}", finding.code()).unwrap();
    }
    for LostRange { volume, snapshot, lba, sectors, kind, pack } in &report.lost {
        let disk = Disk { volume, snapshot: snapshot.as_deref() };
        let (first, last) = (lba.0, lba.0 + sectors.0 - 1);
        let pack = pack.map_or("no pack".into(), |pack| format!("pack {pack}"));
        writeln!(text, "    lost: {disk} sectors {first} to {last}: {kind:?}, {pack}").unwrap();
    }
}

/// Opens the store, if it can be, and says what cannot be read, or is not the latest that was written.
fn open(path: &Path, options: &StoreOptions, text: &mut String) -> bool {
    let (store, recovered) = match CasStore::open(path, options) {
        Ok(opened) => opened,
        Err(error) => {
            writeln!(text, "open refuses: {}", chain(&error)).unwrap();
            return false;
        }
    };
    writeln!(text, "opens, with {} writes of the journal", recovered.writes).unwrap();
    // Whoever comes upon a damaged index has it mended, which a commit waits for.
    let all = |disk: Disk<'_>| {
        attach(&store, disk)
            .map_or(true, |mut volume| read_all(disk, &mut volume).errors.is_empty())
    };
    if DISKS.map(all).contains(&false) {
        // What is damaged otherwise may make it fail.
        let _ = store.commit();
    }
    for disk in DISKS {
        match attach(&store, disk) {
            Ok(mut volume) => {
                let found = read_all(disk, &mut volume);
                found.tell(disk, options.accept_loss, text);
            }
            Err(error) => writeln!(text, "    {disk}: refused: {}", chain(&error)).unwrap(),
        }
    }
    true
}

/// What reading every sector has found.
#[derive(Default)]
struct Found {
    errors: BTreeSet<u64>,
    earlier: BTreeSet<u64>,
    never: BTreeSet<u64>,
}

impl Found {
    fn tell(self, disk: Disk<'_>, accept_loss: bool, text: &mut String) {
        // A torn write of what came last is all that may be missing unasked.
        let may_be_earlier = accept_loss || self.earlier.iter().all(|lba| is_last(disk, *lba));
        let lines = [
            ("", "cannot be read", self.errors),
            (if may_be_earlier { "" } else { WRONG }, "as of an earlier time", self.earlier),
            (WRONG, "as they never were", self.never),
        ];
        for (wrong, what, sectors) in lines {
            if !sectors.is_empty() {
                writeln!(text, "    {wrong}{disk}: {what}: {}", ranges(&sectors)).unwrap();
            }
        }
    }
}

fn attach(store: &CasStore, disk: Disk<'_>) -> Result<CasVolume, CasError> {
    match disk.snapshot {
        None => store.attach(disk.volume, VolumeOptions::default()),
        Some(name) => store.attach_snapshot(disk.volume, name, SnapshotOptions::default()),
    }
}

fn read_all(disk: Disk<'_>, volume: &mut CasVolume) -> Found {
    let mut found = Found::default();
    for first in (0..disk.sectors()).step_by(64) {
        read_some(disk, volume, first..first + 64, &mut found);
    }
    found
}

/// Reads many sectors at once, since that is faster, and where that fails fewer, down to one.
fn read_some(disk: Disk<'_>, volume: &mut CasVolume, sectors: Range<u64>, found: &mut Found) {
    let (first, count) = (sectors.start, (sectors.end - sectors.start) as usize);
    match read(volume, first, count) {
        Ok(octets) => {
            for (lba, octets) in sectors.zip(octets.chunks(512)) {
                match history(disk, lba).iter().position(|sector| octets == sector) {
                    Some(0) => {}
                    Some(_) => drop(found.earlier.insert(lba)),
                    None => drop(found.never.insert(lba)),
                }
            }
        }
        Err(Fault::Media) if count == 1 => drop(found.errors.insert(first)),
        Err(Fault::Media) => {
            for first in sectors.step_by(count / 8) {
                read_some(disk, volume, first..first + count as u64 / 8, found);
            }
        }
        Err(fault) => panic!("{disk}: sector {first}: {fault:?}"),
    }
}

/// Numbers that follow each other are told by the first and the last.
fn ranges(numbers: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let range = |(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        _ => format!("{first} to {last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

/// An error and all that is behind it, as the commands print it.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map_or(String::new(), |source| format!(": {}", chain(source)));
    format!("{error}{source}")
}
