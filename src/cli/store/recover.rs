//! `store recover`: what the journal of an archive has is brought into it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::super::client_output::octets;
use crate::storage::cas::{CasStore, Recovered, StoreOptions};

/// Bring what a crash has left in its journal into an archive
///
/// A server that opens the archive does so by itself. No server may have it open.
#[derive(Debug, clap::Args)]
pub(super) struct RecoverCmd {
    /// The directory of the archive
    path: PathBuf,
    /// Its journal, if it is not in it
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Do without acknowledged writes that are missing: parts of the journal, or what a lost root slot had
    #[arg(long)]
    accept_loss: bool,
    /// Make a journal if there is none, and do without all that the missing one had
    #[arg(long, requires = "accept_loss")]
    new_journal: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl RecoverCmd {
    /// Runs the command.
    ///
    /// # Errors
    /// When the archive cannot be opened, or something be made durable, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let Self { path, journal, accept_loss, new_journal, json } = self;
        // Opening would make one.
        CasStore::expect(path)?;
        let options = StoreOptions {
            journal: journal.clone(),
            accept_loss: *accept_loss,
            new_journal: *new_journal,
            ..StoreOptions::default()
        };
        let (store, recovered) = CasStore::open(path, &options)?;
        // The loss is accepted once: from here on it is a state as any other.
        store.commit()?;
        let commit = store.info()?.commit;
        store.close()?;
        let Recovered { writes, bytes, volumes, .. } = recovered;
        let path = path.display();
        if *json {
            let path = path.to_string();
            writeln!(
                out,
                "{}",
                json!({ "path": path, "writes": writes, "bytes": bytes, "volumes": volumes, "commit": commit })
            )?;
        } else {
            let size = octets(bytes.into());
            writeln!(
                out,
                "{path}: {writes} writes of {size} to {volumes} volumes were in the journal; commit {commit} \
                 has them"
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
