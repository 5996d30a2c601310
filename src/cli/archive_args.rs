//! Which archive is meant, in a running server or by itself, and what it answers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use super::server_args::ServerArgs;
use super::{NO, complain};
use crate::admin::{self, Refusal, RefusalKind, Request, StoreRequest};
use crate::blob::BlobError;
use crate::storage::cas::{CasError, CasStore, StoreOptions};

/// Which archive is meant.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ArchiveArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// Of several archives that the server has, the one in this directory
    #[arg(long, value_name = "PATH", conflicts_with = "store")]
    pub(super) archive: Option<PathBuf>,
    /// The archive in this directory, which no server has open, instead of a running server's
    #[arg(long, value_name = "PATH", conflicts_with = "socket")]
    pub(super) store: Option<PathBuf>,
    /// The journal of that archive, if it is not in it
    #[arg(long, value_name = "PATH", requires = "store")]
    journal: Option<PathBuf>,
    /// Print JSON: an object, or one for each line of a list
    #[arg(long)]
    pub(super) json: bool,
}

impl ArchiveArgs {
    /// Asks the archive. Pieces of the answer go to `item`. `None`: the answer is no, and that has been
    /// said on standard error.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) fn ask(
        &self,
        request: StoreRequest,
        item: &mut dyn FnMut(Value),
    ) -> anyhow::Result<Option<Value>> {
        let answer = if let Some(path) = &self.store {
            self.ask_alone(path, &request, item)?
        } else {
            let request = Request::Store { store: self.archive.clone(), request };
            self.server.ask(&request, item)?
        };
        Ok(told(answer))
    }

    /// Asks, and prints the answer: as JSON, or as `text` has it.
    pub(super) fn act(
        &self,
        out: &mut impl Write,
        request: StoreRequest,
        text: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<ExitCode> {
        let answer = self.ask(request, &mut |_| ())?;
        // A volume may have another size now than the server's configuration says: that would come out at
        // the next start only.
        let note = answer.as_ref().and_then(|answer| answer.get("configured")?.get("note"));
        if let Some(note) = note.and_then(Value::as_str) {
            complain(&anyhow::Error::msg(note.to_owned()));
        }
        self.print(out, answer, text)
    }

    /// Prints an answer.
    pub(super) fn print(
        &self,
        out: &mut impl Write,
        answer: Option<Value>,
        text: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<ExitCode> {
        let Some(answer) = answer else { return Ok(ExitCode::from(NO)) };
        if self.json {
            writeln!(out, "{answer}")?;
        } else {
            writeln!(out, "{}", text(&answer))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Opens the archive, asks it and closes it again.
    fn ask_alone(
        &self,
        path: &Path,
        request: &StoreRequest,
        item: &mut dyn FnMut(Value),
    ) -> anyhow::Result<Result<Value, Refusal>> {
        // Opening would make one.
        match CasStore::expect(path) {
            Err(error @ CasError::NotAnArchive { .. }) => return Ok(Err(error.into())),
            expected => expected?,
        }
        let options = StoreOptions { journal: self.journal.clone(), ..StoreOptions::default() };
        let store = match CasStore::open(path, &options) {
            Ok((store, _)) => store,
            Err(error @ CasError::Blob(BlobError::InUse { .. })) => {
                return Err(error).context(
                    "ask the server that has it: leave out --store, and name its control socket by \
                     --socket or its configuration by --config",
                );
            }
            Err(error) => return Err(error.into()),
        };
        let answer = admin::perform(&store, request, item);
        store.close()?;
        match answer {
            Err(refusal) if refusal.kind != RefusalKind::Refused => Err(refusal.into()),
            answer => Ok(answer),
        }
    }
}

/// Says on standard error that the answer is no, if it is.
pub(super) fn told(answer: Result<Value, Refusal>) -> Option<Value> {
    answer.map_err(|refusal| complain(&refusal.into())).ok()
}
