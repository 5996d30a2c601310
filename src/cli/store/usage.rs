//! `store usage`: what takes the space of an archive.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::super::client_output::octets;
use crate::storage::cas::{CasStore, DiskUsage, Usage};

/// Tell what takes the space of an archive: by volume and snapshot, and what is saved
///
/// No server may have it open. Reads all of its trees, and none of its blocks.
#[derive(Debug, clap::Args)]
pub(super) struct UsageCmd {
    /// The directory of the archive
    path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl UsageCmd {
    /// Runs the command.
    ///
    /// # Errors
    /// When the archive cannot be looked at, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let usage = CasStore::usage_of(&self.path)?;
        if self.json {
            writeln!(out, "{}", json_of(&usage))?;
        } else {
            text_of(&usage, out)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn name(disk: &DiskUsage) -> String {
    match &disk.snapshot {
        Some(snapshot) => format!("{}@{snapshot}", disk.volume),
        None => disk.volume.clone(),
    }
}

fn text_of(usage: &Usage, out: &mut impl Write) -> std::io::Result<()> {
    let size = |bytes: u64| octets(bytes.into());
    let width = usage.disks.iter().map(|disk| name(disk).len()).max().unwrap_or(0).max(8);
    writeln!(out, "{:width$} {:>12} {:>12} {:>12} {:>12}", "", "size", "mapped", "own", "stored")?;
    for disk in &usage.disks {
        let bytes = disk.size.bytes().unwrap_or(u64::MAX);
        let cells = [bytes, disk.mapped_bytes, disk.own_bytes, disk.own_stored_bytes].map(size);
        let [bytes, mapped, own, stored] = cells;
        let name = name(disk);
        writeln!(out, "{name:width$} {bytes:>12} {mapped:>12} {own:>12} {stored:>12}")?;
    }
    let [mapped, unique, payload] =
        [usage.mapped_bytes, usage.unique_bytes, usage.payload_bytes].map(size);
    writeln!(out, "mapped {mapped}; each block once: {unique} ({:.2}x)", usage.dedup_ratio())?;
    writeln!(out, "compressed: {payload} ({:.2}x)", usage.compression_ratio())?;
    let (nodes, packs) = (size(usage.node_bytes), size(usage.pack_bytes));
    writeln!(
        out,
        "packs: {} of {packs}, {nodes} of nodes ({:.2}x the blocks that are in use)",
        usage.packs,
        usage.overhead_ratio()
    )?;
    if usage.unreadable > 0 {
        writeln!(
            out,
            "{} nodes and blocks cannot be found: store fsck tells more",
            usage.unreadable
        )?;
    }
    Ok(())
}

fn json_of(usage: &Usage) -> serde_json::Value {
    let disk = |disk: &DiskUsage| {
        json!({
            "volume": disk.volume,
            "snapshot": disk.snapshot,
            "sectors": disk.size.0,
            "mapped_bytes": disk.mapped_bytes,
            "own_bytes": disk.own_bytes,
            "own_stored_bytes": disk.own_stored_bytes,
        })
    };
    json!({
        "path": usage.path.display().to_string(),
        "disks": usage.disks.iter().map(disk).collect::<Vec<_>>(),
        "mapped_bytes": usage.mapped_bytes,
        "unique_bytes": usage.unique_bytes,
        "payload_bytes": usage.payload_bytes,
        "node_bytes": usage.node_bytes,
        "packs": usage.packs,
        "pack_bytes": usage.pack_bytes,
        "dedup_ratio": usage.dedup_ratio(),
        "compression_ratio": usage.compression_ratio(),
        "overhead_ratio": usage.overhead_ratio(),
        "unreadable": usage.unreadable,
    })
}
