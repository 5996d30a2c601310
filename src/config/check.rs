//! Checks a file as a whole: its tables, and targets against each other and the server.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::cas;
use super::error::Problem;
use super::read::{self, SERVER_KEYS, Section};
use super::target::{self, Draft, TARGET_KEYS};
use super::text::{Report, closest};
use super::{Config, ServerConfig};
use crate::engine::MAX_TARGETS;
use crate::storage::journal::FileJournal;

/// The configuration that the file holds. What is wrong with it is in the report, and left out.
pub(super) fn config(report: &mut Report<'_>, file: &DeTable<'_>) -> Config {
    for (key, _) in file {
        unknown_table(report, key.span().start, key.get_ref());
    }
    let server = server(report, file);
    let mut drafts = targets(report, file);
    if drafts.len() > MAX_TARGETS {
        let at = drafts.get(MAX_TARGETS).map_or(0, |draft| draft.at);
        report.invalid(at, Problem::TooManyTargets { count: drafts.len() });
    }
    addresses_differ(report, &drafts);
    images_differ(report, &drafts);
    journal_is_no_image(report, &drafts, &server);
    cas::stores_agree(report, &mut drafts);
    interfaces_are_served(report, &drafts, &server);
    Config { server, targets: drafts.into_iter().filter_map(|draft| draft.target).collect() }
}

fn unknown_table(report: &mut Report<'_>, at: usize, name: &str) {
    const OUTSIDE: &str = "above all tables";
    const TABLES: [&str; 2] = ["server", "target"];
    if TABLES.contains(&name) {
        return;
    }
    let key_of = |keys: &[&'static str]| keys.iter().find(|key| **key == name).copied();
    let problem = if let Some(key) = key_of(SERVER_KEYS) {
        Problem::Misplaced { key, right: "[server]", wrong: OUTSIDE }
    } else if let Some(key) = key_of(TARGET_KEYS) {
        Problem::Misplaced { key, right: "[[target]]", wrong: OUTSIDE }
    } else {
        let suggestion = closest(name, &TABLES).map(|table| match table {
            "server" => "[server]",
            _ => "[[target]]",
        });
        Problem::UnknownTable { key: name.into(), suggestion }
    };
    report.invalid(at, problem);
}

fn server(report: &mut Report<'_>, file: &DeTable<'_>) -> ServerConfig {
    if let Some((key, value)) = file.get_key_value("server") {
        if let DeValue::Table(table) = value.get_ref() {
            return read::server(report, Section::new("[server]", value.span().start, table));
        }
        let problem = Problem::WrongBrackets { key: "server", right: "[server]" };
        report.invalid(key.span().start, problem);
    } else {
        let remedy = "a table that starts with [server] and names the `interface`";
        report.invalid(0, Problem::Missing { key: "[server]", table: "the file", remedy });
    }
    ServerConfig::new(Vec::new())
}

fn targets(report: &mut Report<'_>, file: &DeTable<'_>) -> Vec<Draft> {
    let Some((key, value)) = file.get_key_value("target") else { return Vec::new() };
    let array = value.get_ref().as_array().map_or(&[][..], |array| array);
    let tables = array.iter().map(|each| Some((each.span().start, each.get_ref().as_table()?)));
    let Some(tables) = tables.collect::<Option<Vec<_>>>().filter(|tables| !tables.is_empty())
    else {
        let problem = Problem::WrongBrackets { key: "target", right: "[[target]]" };
        report.invalid(key.span().start, problem);
        return Vec::new();
    };
    tables
        .into_iter()
        .map(|(at, table)| target::target(report, Section::new("[[target]]", at, table)))
        .collect()
}

fn addresses_differ(report: &mut Report<'_>, drafts: &[Draft]) {
    let mut taken = HashMap::new();
    for draft in drafts {
        let Some(address) = draft.address else { continue };
        if let Some(first) = taken.get(&address) {
            let first_line = report.line(*first);
            report.invalid(draft.at, Problem::AddressTaken { address, first_line });
        } else {
            taken.insert(address, draft.at);
        }
    }
}

/// Refuses two targets in one image unless both only read. Windows that do not overlap do not help:
/// each target locks its whole image.
fn images_differ(report: &mut Report<'_>, drafts: &[Draft]) {
    let mut used: HashMap<PathBuf, &Draft> = HashMap::new();
    for draft in drafts {
        let Some(path) = &draft.path else { continue };
        let first = *used.entry(normalized(path)).or_insert(draft);
        if first.at != draft.at && !(first.read_only && draft.read_only) {
            let first_line = report.line(first.path_at);
            let path: String = path.to_string_lossy().into();
            report.invalid(draft.path_at, Problem::SharedPath { path, first_line });
        }
    }
}

/// Refuses a target in the file that the server journals to, or makes a new journal in.
fn journal_is_no_image(report: &mut Report<'_>, drafts: &[Draft], server: &ServerConfig) {
    let Some(journal) = &server.journal else { return };
    let places = [journal.path.clone(), FileJournal::made_at(&journal.path)];
    let places = places.map(|place| normalized(&place));
    for draft in drafts {
        if let Some(path) = draft.path.as_ref().filter(|path| places.contains(&normalized(path))) {
            let path: String = path.to_string_lossy().into();
            report.invalid(draft.path_at, Problem::JournalPath { path });
        }
    }
}

/// `path` without the parts that mean nothing. Two names of one file that only the file system can
/// tell are found when the second is locked.
pub(super) fn normalized(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn interfaces_are_served(report: &mut Report<'_>, drafts: &[Draft], server: &ServerConfig) {
    // Without interfaces the server's own keys were wrong, and every target's would seem to be.
    if server.interfaces.is_empty() {
        return;
    }
    let known: HashSet<_> = server.interfaces.iter().collect();
    for (at, name) in drafts.iter().flat_map(|draft| &draft.interfaces) {
        if !known.contains(name) {
            let served = server.interfaces.clone();
            report.invalid(*at, Problem::ForeignInterface { value: name.clone(), served });
        }
    }
}
