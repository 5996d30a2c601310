//! The fuzz bodies on a stable compiler: each over its corpus and over mutations of it.
//!
//! A body is a file in `tests/fuzz_bodies` with a `pub(crate) fn run(&[u8])` that panics on a fault. To add
//! one: the file, a line in [`BODIES`], a corpus directory of the same name, a target in
//! `fuzz/fuzz_targets` and its `[[bin]]` in `fuzz/Cargo.toml`. What a fuzzer finds goes into the
//! corpus.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "cas")]
#[path = "fuzz_bodies/archive_entry.rs"]
mod archive_entry;
#[cfg(feature = "cas")]
#[path = "fuzz_bodies/archive_frame.rs"]
mod archive_frame;
#[cfg(feature = "cas")]
#[path = "fuzz_bodies/archive_manifest.rs"]
mod archive_manifest;
#[cfg(feature = "cas")]
#[path = "fuzz_bodies/archive_pack.rs"]
mod archive_pack;
#[cfg(feature = "cas")]
#[path = "fuzz_bodies/archive_root.rs"]
mod archive_root;
#[path = "fuzz_bodies/config.rs"]
mod config;
#[cfg(feature = "admin")]
#[path = "fuzz_bodies/control.rs"]
mod control;
#[path = "fuzz_bodies/engine.rs"]
mod engine;
#[path = "fuzz_bodies/frame.rs"]
mod frame;
#[path = "fuzz_bodies/identify.rs"]
mod identify;
#[cfg(feature = "cas")]
#[path = "fuzz_bodies/index_run.rs"]
mod index_run;
#[path = "fuzz_bodies/journal.rs"]
mod journal;
#[cfg(feature = "cas")]
#[path = "fuzz_bodies/node.rs"]
mod node;
#[path = "fuzz_bodies/print.rs"]
mod print;
#[path = "fuzz_bodies/savefile.rs"]
mod savefile;
#[path = "fuzz_bodies/settings.rs"]
mod settings;

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

/// Something that is done with any octets, and panics when it goes wrong.
type Body = fn(&[u8]);

const BODIES: &[(&str, Body)] = &[
    #[cfg(feature = "cas")]
    ("archive_entry", archive_entry::run),
    #[cfg(feature = "cas")]
    ("archive_frame", archive_frame::run),
    #[cfg(feature = "cas")]
    ("archive_manifest", archive_manifest::run),
    #[cfg(feature = "cas")]
    ("archive_pack", archive_pack::run),
    #[cfg(feature = "cas")]
    ("archive_root", archive_root::run),
    ("config", config::run),
    #[cfg(feature = "admin")]
    ("control", control::run),
    ("engine", engine::run),
    ("frame", frame::run),
    ("identify", identify::run),
    #[cfg(feature = "cas")]
    ("index_run", index_run::run),
    ("journal", journal::run),
    #[cfg(feature = "cas")]
    ("node", node::run),
    ("print", print::run),
    ("savefile", savefile::run),
    ("settings", settings::run),
];

/// Mutated inputs for each body: some seconds in all.
const MUTATIONS: usize = 5_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs kept for `name`, with where they are.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = root().join("tests/data/corpus").join(name);
    let entries =
        fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// Names of the files or directories in `directory`, without their extensions.
fn names_in(directory: &str) -> BTreeSet<String> {
    fs::read_dir(root().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_body_survives_its_corpus() {
    for (name, body) in BODIES.iter().copied() {
        let inputs = corpus(name);
        assert!(inputs.len() >= 10, "{name} has only {} inputs", inputs.len());
        for (path, input) in inputs {
            let fate = panic::catch_unwind(|| body(&input));
            assert!(fate.is_ok(), "{name} fails on {}", path.display());
        }
    }
}

#[test]
fn every_body_survives_mutations_of_its_corpus() {
    for (name, body) in BODIES.iter().copied() {
        let inputs: Vec<_> = corpus(name).into_iter().map(|(_, input)| input).collect();
        let mut random = Random(0x616f_6521);
        for round in 0..MUTATIONS {
            let input = mutate(&inputs, &mut random);
            let fate = panic::catch_unwind(|| body(&input));
            assert!(fate.is_ok(), "{name} fails in round {round} on {}", hex(&input));
        }
    }
}

#[test]
#[cfg(all(feature = "cas", feature = "admin"))]
fn bodies_targets_and_corpora_go_together() {
    let bodies: BTreeSet<String> = BODIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in("tests/fuzz_bodies"), bodies);
    assert_eq!(names_in("tests/data/corpus"), bodies);
    assert_eq!(names_in("fuzz/fuzz_targets"), bodies);
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for name in &bodies {
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        assert_eq!(manifest.matches(&path).count(), 1, "the target {name} in fuzz/Cargo.toml");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), bodies.len(), "targets in fuzz/Cargo.toml");
}

#[test]
fn mutations_are_the_same_in_every_run_and_differ_from_each_other() {
    let inputs = [b"known octets".to_vec(), b"others".to_vec()];
    let run = || {
        let mut random = Random(7);
        (0..100).map(|_| mutate(&inputs, &mut random)).collect::<Vec<_>>()
    };
    let mutated = run();
    assert_eq!(mutated, run());
    assert!(mutated.iter().collect::<BTreeSet<_>>().len() > 50);
}

fn hex(octets: &[u8]) -> String {
    use std::fmt::Write;
    octets.iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").unwrap();
        text
    })
}

/// An input of the corpus with one to eight things wrong with it.
fn mutate(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const NASTY: [u8; 10] = [0, 1, 2, 0x0f, 0x10, 0x7f, 0x80, 0xf0, 0xfe, 0xff];
    let mut input = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(8) {
        let place = random.below(input.len().max(1));
        match random.below(7) {
            0 => input.truncate(place),
            1 => {
                let more = random.below(600);
                input.extend((0..more).map(|_| random.octet()));
            }
            2 => {
                // The tail of another input, spliced on.
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len() + 1);
                input.truncate(place);
                input.extend_from_slice(&other[from..]);
            }
            3 => input.insert(place.min(input.len()), random.octet()),
            4 => {
                if let Some(octet) = input.get_mut(place) {
                    *octet ^= 1 << random.below(8);
                }
            }
            5 => {
                if let Some(octet) = input.get_mut(place) {
                    *octet = random.octet();
                }
            }
            _ => {
                if let Some(octet) = input.get_mut(place) {
                    *octet = NASTY[random.below(NASTY.len())];
                }
            }
        }
    }
    input
}

/// Marsaglia's xorshift, 64 bits: enough to scatter faults, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is above zero.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap();
        usize::try_from((self.next() >> 11) % end).unwrap()
    }

    fn octet(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}
