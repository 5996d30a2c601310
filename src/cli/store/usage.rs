//! `store usage`: what takes the space of an archive.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use super::super::NO;
use super::super::archive_args::ArchiveArgs;
use super::super::client_output::{field, octets, rows};
use crate::admin::{StoreRequest, usage};
use crate::storage::cas::CasStore;

/// Tell what takes the space of an archive: by volume and snapshot, and what is saved
///
/// As of the last commit. Reads all of its trees, and none of its blocks.
#[derive(Debug, clap::Args)]
pub(super) struct UsageCmd {
    /// The directory of an archive that no server has open; without, the one of a running server
    #[arg(conflicts_with_all = ["archive", "store", "socket"])]
    path: Option<PathBuf>,
    #[command(flatten)]
    archive: ArchiveArgs,
}

impl UsageCmd {
    /// Runs the command.
    ///
    /// # Errors
    /// When the archive cannot be looked at, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let told = match &self.path {
            Some(path) => Some(usage(&CasStore::usage_of(path)?)),
            None => self.archive.ask(StoreRequest::Usage, &mut |_| ())?,
        };
        let Some(usage) = told else { return Ok(ExitCode::from(NO)) };
        if self.archive.json {
            writeln!(out, "{usage}")?;
        } else {
            text_of(&usage, out)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn name(disk: &Value) -> String {
    let volume = field(disk, "volume");
    match disk.get("snapshot").and_then(Value::as_str) {
        Some(snapshot) => format!("{volume}@{snapshot}"),
        None => volume,
    }
}

fn text_of(usage: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let count = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).unwrap_or_default();
    let size = |of: &Value, name: &str| octets(count(of, name).into());
    let ratio = |name: &str| usage.get(name).and_then(Value::as_f64).unwrap_or_default();
    let disks = rows(usage, "disks");
    let width = disks.iter().map(|disk| name(disk).len()).max().unwrap_or(0).max(8);
    writeln!(out, "{:width$} {:>12} {:>12} {:>12} {:>12}", "", "size", "mapped", "own", "stored")?;
    for disk in disks {
        let bytes = octets(u128::from(count(disk, "sectors")) * 512);
        let [mapped, own, stored] =
            ["mapped_bytes", "own_bytes", "own_stored_bytes"].map(|name| size(disk, name));
        let name = name(disk);
        writeln!(out, "{name:width$} {bytes:>12} {mapped:>12} {own:>12} {stored:>12}")?;
    }
    let [mapped, unique, payload] =
        ["mapped_bytes", "unique_bytes", "payload_bytes"].map(|name| size(usage, name));
    writeln!(out, "mapped {mapped}; each block once: {unique} ({:.2}x)", ratio("dedup_ratio"))?;
    writeln!(out, "compressed: {payload} ({:.2}x)", ratio("compression_ratio"))?;
    let (nodes, packs) = (size(usage, "node_bytes"), size(usage, "pack_bytes"));
    writeln!(
        out,
        "packs: {} of {packs}, {nodes} of nodes ({:.2}x the blocks that are in use)",
        count(usage, "packs"),
        ratio("overhead_ratio")
    )?;
    let unreadable = count(usage, "unreadable");
    if unreadable > 0 {
        writeln!(out, "{unreadable} nodes and blocks cannot be found: store fsck tells more")?;
    }
    Ok(())
}
