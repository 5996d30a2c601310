//! The octets of a journal: what is in `docs/formats.md` is what the program reads and writes, now and
//! in versions to come; and what is appended comes back in order.
//!
//! `tests/data/journals` has a journal of each version, and damaged ones, each with what is to be
//! found in it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/journal_octets.rs"]
mod journal_octets;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aoe_server::storage::journal::{Appender, Reclaimer, Room, Scan, Sequence};
use journal_octets::{Head, Memory, PAGE, SEGMENTS, entry, record};
use proptest::prelude::*;

const ID: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// A journal of four segments of a page that was just opened.
const OPENED: Head =
    Head { id: ID, segment_bytes: 4096, segments: 4, clean: false, turn: 2, released: 0 };
const A: &[u8] = b"/data/a.img";
const B: &[u8] = b"/data/b.img";

fn journals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/journals")
}

/// An empty journal that was opened.
fn opened(head: Head) -> Vec<u8> {
    let before = Head { clean: true, turn: head.turn - 1, ..head };
    let mut octets = [head.octets(), before.octets()].concat();
    octets.resize(SEGMENTS + usize::try_from(head.segment_bytes).unwrap() * 4, 0);
    octets
}

/// The records of `version-1.journal`: an image is written to, and another; the second is closed.
fn first_version() -> [Vec<Vec<u8>>; 4] {
    let image = |number, path, marked: bool| entry(1, u8::from(marked), number, [0, 0], path);
    let write = |number, offset, data: &[u8]| entry(2, 0, number, [offset, 0], data);
    let opened = image(1, A, true);
    [
        vec![opened.clone(), write(1, 512, &[0xaa; 512])],
        vec![
            opened.clone(),
            entry(3, 0, 1, [1024, 512], &[]),
            image(2, B, false),
            write(2, 0, &[0xbb; 1024]),
        ],
        vec![opened.clone(), write(1, 0, &[0xcc; 512]), entry(4, 0, 2, [0, 0], &[])],
        vec![opened, write(1, 1024, &[0xdd; 512])],
    ]
}

fn entries(scan: &Scan, medium: &Memory) -> Vec<(u64, Vec<u8>)> {
    let mut entries = Vec::new();
    let read = scan.entries(medium, |sequence, entry| {
        entries.push((sequence.0, entry.to_vec()));
        true
    });
    read.unwrap();
    entries
}

/// What there is to say of a journal.
fn summary(medium: &Memory) -> String {
    let scan = match Scan::of(medium) {
        Ok(scan) => scan,
        Err(error) => return format!("refused: {error}\n"),
    };
    let mut text = format!("journal {}\n", scan.id());
    for lost in scan.lost() {
        writeln!(text, "lost: {} to {}", lost.start(), lost.end()).unwrap();
    }
    for (sequence, entry) in entries(&scan, medium) {
        let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
        let [kind, image, offset, len] = [u64::from(entry[0]), number(8), number(16), number(24)];
        let rest = entry.len() - 32;
        writeln!(text, "{sequence}: kind {kind}, image {image}, {offset}, {len}, {rest} octets")
            .unwrap();
    }
    text
}

#[test]
fn journals_of_all_versions_and_damaged_ones_are_read_as_expected() {
    let mut differences = String::new();
    let mut count = 0;
    for file in fs::read_dir(journals()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "journal") {
            continue;
        }
        count += 1;
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap_or_default();
        let found = summary(&Memory::new(fs::read(&path).unwrap()));
        if found != expected {
            let name = path.display();
            write!(differences, "{name}\n--- expected\n{expected}+++ found\n{found}").unwrap();
        }
    }
    assert!(differences.is_empty() && count >= 10, "\n{differences}");
}

/// The program writes octet for octet what the documentation says, and the file of the first version
/// is that.
#[test]
fn what_is_written_is_what_the_documentation_says() {
    let mut laid_out = opened(OPENED);
    let medium = Arc::new(Memory::new(laid_out.clone()));
    let (mut appender, _) = Scan::of(&medium).unwrap().ends(Arc::clone(&medium));
    let (mut first, mut previous) = (1, 0);
    for (segment, entries) in first_version().iter().enumerate() {
        assert_eq!(appender.begin(), Room::NewSegment);
        for entry in entries {
            let (header, rest) = entry.split_at(32);
            appender.stage(&[header, rest]);
        }
        appender.commit().unwrap();
        let parts: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let (octets, checksum) = record(ID, first, previous, &parts);
        laid_out[SEGMENTS + segment * PAGE..][..octets.len()].copy_from_slice(&octets);
        (first, previous) = (first + entries.len() as u64, checksum);
    }
    assert_eq!(appender.begin(), Room::None);
    assert!(medium.octets() == laid_out, "the program writes something else");
    assert!(fs::read(journals().join("version-1.journal")).unwrap() == laid_out, "the file is");
}

#[test]
fn the_example_in_the_documentation_is_right() {
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md");
    let text = fs::read_to_string(formats).unwrap();
    let example = text.split("### Example").nth(1).unwrap().split("```").nth(1).unwrap();
    let octets = |line: &str| -> Vec<u8> {
        let octet = |word: &str| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2);
        // A comment follows after more than two spaces.
        let hex = line.split("   ").next().unwrap_or_default();
        hex.split_whitespace().map_while(octet).collect()
    };
    let octets: Vec<u8> = example.lines().flat_map(octets).collect();
    let (record, _) =
        record(ID, 1, 0, &[&entry(1, 1, 1, [0, 0], A), &entry(3, 0, 1, [1024, 512], &[])]);
    assert_eq!(octets, [&OPENED.octets()[..68], &record[..]].concat());
}

/// What is done to a journal.
#[derive(Debug, Clone)]
enum Step {
    /// Entries of these lengths are committed as one record.
    Commit(Vec<usize>),
    /// The oldest segment is given up.
    Release,
    /// It is opened again, as after a crash.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec(0_usize..3000, 1..5).prop_map(Step::Commit),
        2 => Just(Step::Release),
        1 => Just(Step::Reopen),
    ]
}

/// A journal with what ought to be in it.
struct Model {
    medium: Arc<Memory>,
    appender: Appender<Arc<Memory>>,
    reclaimer: Reclaimer<Arc<Memory>>,
    entries: Vec<(u64, Vec<u8>)>,
    released: u64,
}

impl Model {
    fn new() -> Self {
        let head = Head { segment_bytes: 5 * 4096, ..OPENED };
        let medium = Arc::new(Memory::new(opened(head)));
        let (appender, reclaimer) = Scan::of(&medium).unwrap().ends(Arc::clone(&medium));
        Self { medium, appender, reclaimer, entries: Vec::new(), released: 0 }
    }

    fn commit(&mut self, lens: &[usize]) {
        while self.appender.begin() == Room::None {
            self.retire();
            if !self.release() {
                return;
            }
        }
        self.retire();
        for len in lens {
            let n = u8::try_from(self.entries.len() % 251).unwrap();
            let entry = vec![n; *len];
            if self.appender.has_room(*len) {
                let sequence = self.appender.stage(&[&entry[..len / 3], &entry[len / 3..]]);
                self.entries.push((sequence.0, entry));
            }
        }
        self.appender.commit().unwrap();
    }

    fn retire(&mut self) {
        if let Some(segment) = self.appender.take_retired() {
            self.reclaimer.retire(segment);
        }
    }

    fn release(&mut self) -> bool {
        let oldest = self.reclaimer.waiting().front().map(|segment| segment.last);
        if let Some(last) = oldest {
            self.reclaimer.release(last).unwrap();
            self.released = last.0;
        }
        oldest.is_some()
    }

    fn reopen(&mut self) {
        let scan = Scan::of(&self.medium).unwrap();
        assert_eq!(scan.lost(), []);
        let needed = self.entries.iter().filter(|(sequence, _)| *sequence > self.released);
        assert!(entries(&scan, &self.medium).iter().eq(needed), "not what was appended");
        (self.appender, self.reclaimer) = scan.ends(Arc::clone(&self.medium));
        assert_eq!(self.appender.last(), Sequence(self.entries.len() as u64));
    }
}

proptest! {
    #[test]
    fn what_is_appended_comes_back_in_order(steps in proptest::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Commit(lens) => model.commit(&lens),
                Step::Release => {
                    model.release();
                }
                Step::Reopen => model.reopen(),
            }
        }
        model.reopen();
    }
}
