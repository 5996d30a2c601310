//! `store repair`: an archive's index or root slots are made anew.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::super::{NO, complain};
use super::fsck::reading_through;
use crate::storage::cas::{
    CasError, CasStore, IndexRepair, JournalRelation, RepairRootsOptions, RootsRepair,
};

/// Make anew what an archive can have made of the rest of it
///
/// No server may have it open. Exits with 1 when something of it cannot be mended, or nothing need be.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct RepairCmd {
    /// The directory of the archive
    path: PathBuf,
    /// Throw the index away and make it of what is in the packs, all of which are read
    #[arg(long, conflicts_with = "roots", required_unless_present = "roots")]
    index: bool,
    /// Make the root slots anew: find the newest state that is there in full
    #[arg(long)]
    roots: bool,
    /// Only tell what state that is
    #[arg(long, conflicts_with = "index")]
    dry_run: bool,
    /// Go back to it even if there is a root slot of that state or a later one
    #[arg(long, conflicts_with = "index")]
    force: bool,
    /// Its journal, if it is not in it
    #[arg(long, value_name = "PATH", conflicts_with = "index")]
    journal: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl RepairCmd {
    /// Runs the command.
    ///
    /// # Errors
    /// When the archive cannot be mended, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        if self.roots {
            let Self { journal, dry_run, force, .. } = self;
            let options =
                RepairRootsOptions { journal: journal.clone(), dry_run: *dry_run, force: *force };
            return match CasStore::repair_roots(&self.path, &options) {
                Ok(repair) => {
                    self.tell_roots(&repair, out)?;
                    Ok(ExitCode::SUCCESS)
                }
                Err(error @ (CasError::RootsSound { .. } | CasError::NoState { .. })) => {
                    complain(&error.into());
                    Ok(ExitCode::from(NO))
                }
                Err(error) => Err(error.into()),
            };
        }
        let repair = reading_through(|progress| CasStore::repair_index(&self.path, progress))?;
        self.tell_index(&repair, out)?;
        let whole = repair.unusable.is_empty() && repair.damaged.is_empty();
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    fn tell_index(&self, repair: &IndexRepair, out: &mut impl Write) -> std::io::Result<()> {
        let path = self.path.display();
        if self.json {
            let searched = |(pack, frames): &(crate::blob::BlobId, u64)| json!({ "pack": pack.to_string(), "frames": frames });
            let unusable = |(pack, why): &(crate::blob::BlobId, String)| json!({ "pack": pack.to_string(), "why": why });
            let line = json!({
                "path": path.to_string(),
                "packs": repair.packs,
                "entries": repair.entries,
                "damaged": repair.damaged.iter().map(searched).collect::<Vec<_>>(),
                "searched": repair.searched.iter().map(searched).collect::<Vec<_>>(),
                "unusable": repair.unusable.iter().map(unusable).collect::<Vec<_>>(),
            });
            return writeln!(out, "{line}");
        }
        for (pack, frames) in &repair.searched {
            writeln!(out, "pack {pack} is damaged: {frames} frames were found in it")?;
        }
        for (pack, frames) in &repair.damaged {
            writeln!(out, "pack {pack} is damaged: {frames} frames of it are lost")?;
        }
        for (pack, why) in &repair.unusable {
            writeln!(out, "pack {pack} cannot be used: {why}")?;
        }
        let (entries, packs) = (repair.entries, repair.packs);
        writeln!(out, "{path}: the index has {entries} places in {packs} packs")
    }

    fn tell_roots(&self, repair: &RootsRepair, out: &mut impl Write) -> std::io::Result<()> {
        let path = self.path.display();
        let (word, journal) = match &repair.journal {
            JournalRelation::Follows => {
                ("follows", "goes on where that ends: no acknowledged write is missing".to_owned())
            }
            JournalRelation::Gap => {
                ("gap", "shows that acknowledged writes are missing from it".to_owned())
            }
            JournalRelation::Unreadable(why) => {
                ("unreadable", format!("cannot be read, so that writes may be missing: {why}"))
            }
            _ => ("unknown", "does not tell whether acknowledged writes are missing".to_owned()),
        };
        if self.json {
            let volumes = repair.volumes.iter();
            let line = json!({
                "path": path.to_string(),
                "store": repair.store.to_string(),
                "commit": repair.commit,
                "volumes": volumes.map(|volume| &volume.name).collect::<Vec<_>>(),
                "snapshots": repair.snapshots,
                "incomplete": repair.incomplete.iter()
                    .map(|(commit, why)| json!({ "commit": commit, "why": why }))
                    .collect::<Vec<_>>(),
                "journal": word,
                "written": repair.written,
            });
            return writeln!(out, "{line}");
        }
        for (commit, why) in &repair.incomplete {
            writeln!(out, "commit {commit} is not there in full: {why}")?;
        }
        let RootsRepair { commit, snapshots, volumes, .. } = repair;
        writeln!(out, "commit {commit}: {} volumes, {snapshots} snapshots", volumes.len())?;
        for volume in volumes {
            writeln!(out, "  {}, {} sectors", volume.name, volume.size)?;
        }
        writeln!(out, "the journal {journal}")?;
        let what = if repair.written { "mended" } else { "can be mended" };
        let recover = "aoe-server store recover --accept-loss";
        match repair.journal {
            JournalRelation::Follows => writeln!(out, "{path}: {what}"),
            JournalRelation::Unreadable(_) => writeln!(
                out,
                "{path}: {what}; then the journal has to be put back, or the loss of it accepted: {recover} \
                 --new-journal {path}"
            ),
            _ => {
                writeln!(out, "{path}: {what}; then the loss has to be accepted: {recover} {path}")
            }
        }
    }
}
