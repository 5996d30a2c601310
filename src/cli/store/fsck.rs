//! `store fsck`: an archive is read through.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::super::NO;
use super::super::client_output::{octets, progress};
use crate::storage::cas::{
    CasStore, Finding, FsckOptions, FsckPhase, FsckProgress, FsckReport, LostRange, Severity,
};

/// Read all of an archive, and tell what of it is damaged and which sectors that costs
///
/// No server may have it open. Nothing is written. Exits with 1 when anything is wrong, and with 2 when
/// that could not be told.
#[derive(Debug, clap::Args)]
pub(super) struct FsckCmd {
    /// The directory of the archive
    path: PathBuf,
    /// Its journal, if it is not in it
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl FsckCmd {
    /// Runs the command.
    ///
    /// # Errors
    /// When the archive cannot be looked at, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let options = FsckOptions { journal: self.journal.clone() };
        let report = reading_through(|progress| CasStore::fsck(&self.path, &options, progress))?;
        if self.json {
            writeln!(out, "{}", json_of(&report))?;
        } else {
            text_of(&report, out)?;
        }
        Ok(if report.is_damaged() { ExitCode::from(NO) } else { ExitCode::SUCCESS })
    }
}

/// Shows how far what reads all packs has come.
pub(super) fn reading_through<T>(read: impl FnOnce(&mut dyn FnMut(FsckProgress)) -> T) -> T {
    let mut bar = None;
    let result = read(&mut |told: FsckProgress| {
        if told.phase == FsckPhase::Packs {
            let bar = bar.get_or_insert_with(|| progress("reading", Some(told.of_bytes)));
            bar.set_position(told.bytes);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity() {
        Severity::Note => "note",
        Severity::Flaw => "damaged",
        Severity::Loss => "lost",
    }
}

fn disk(lost: &LostRange) -> String {
    match &lost.snapshot {
        Some(snapshot) => format!("{}@{snapshot}", lost.volume),
        None => lost.volume.clone(),
    }
}

fn text_of(report: &FsckReport, out: &mut impl Write) -> std::io::Result<()> {
    let path = report.path.display();
    let counts = &report.counts;
    if let Some(commit) = report.commit {
        let (volumes, snapshots) = (counts.volumes, counts.snapshots);
        writeln!(out, "{path}: commit {commit}, {volumes} volumes, {snapshots} snapshots")?;
        let (packs, size, frames) = (counts.packs, octets(counts.pack_bytes.into()), counts.frames);
        writeln!(out, "read {packs} packs of {size}: {frames} frames, {} nodes", counts.nodes)?;
    }
    if counts.journal.0 > 0 {
        let (writes, size) = (counts.journal.0, octets(counts.journal.1.into()));
        writeln!(out, "{writes} writes of {size} are in the journal only")?;
    }
    for finding in &report.findings {
        writeln!(out, "{}: {finding}", severity(finding))?;
    }
    for lost in &report.lost {
        let (first, last) = (lost.lba.0, lost.lba.0 + lost.sectors.0 - 1);
        write!(out, "lost: {} sectors {first} to {last}, ", disk(lost))?;
        write!(out, "{} KiB: a {}", lost.sectors.0 / 2, lost.kind.name())?;
        match lost.pack {
            Some(pack) => writeln!(out, " in pack {pack}")?,
            None => writeln!(out, " that is in no pack")?,
        }
    }
    if report.commit.is_none() {
        let (blobs, size) = (counts.unlisted.0, octets(counts.unlisted.1.into()));
        writeln!(out, "there are {blobs} blobs of {size}, of which nothing tells what is in them")?;
        let is_without = report.findings.contains(&Finding::NoRoot);
        let until = if is_without {
            format!("its root slots are mended: aoe-server store repair --roots {path}")
        } else {
            "what is named above is put back".into()
        };
        return writeln!(out, "{path}: DAMAGED; nothing of it can be read until {until}");
    }
    if report.is_damaged() {
        let lost: u64 = report.lost.iter().map(|lost| lost.sectors.0).sum();
        writeln!(out, "{path}: DAMAGED; {lost} sectors of volumes and snapshots cannot be read")
    } else {
        writeln!(out, "{path}: nothing is wrong")
    }
}

fn json_of(report: &FsckReport) -> Value {
    let counts = &report.counts;
    let finding = |finding: &Finding| {
        json!({
            "code": finding.code(),
            "severity": match finding.severity() {
                Severity::Note => "note",
                Severity::Flaw => "flaw",
                Severity::Loss => "loss",
            },
            "blob": finding.blob().map(|blob| blob.to_string()),
            "text": finding.to_string(),
        })
    };
    let lost = |lost: &LostRange| {
        json!({
            "volume": lost.volume,
            "snapshot": lost.snapshot,
            "lba": lost.lba.0,
            "sectors": lost.sectors.0,
            "kind": lost.kind.name(),
            "pack": lost.pack.map(|pack| pack.to_string()),
        })
    };
    json!({
        "path": report.path.display().to_string(),
        "store": report.store.map(|store| store.to_string()),
        "commit": report.commit,
        "damaged": report.is_damaged(),
        "packs": counts.packs,
        "pack_bytes": counts.pack_bytes,
        "frames": counts.frames,
        "nodes": counts.nodes,
        "volumes": counts.volumes,
        "snapshots": counts.snapshots,
        "index_entries": counts.index_entries,
        "journal_writes": counts.journal.0,
        "journal_bytes": counts.journal.1,
        "unlisted_blobs": counts.unlisted.0,
        "unlisted_bytes": counts.unlisted.1,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "lost": report.lost.iter().map(lost).collect::<Vec<_>>(),
    })
}
