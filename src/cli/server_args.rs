//! Which running server is meant, and what it answers.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::ProgressBar;
use serde_json::Value;

use crate::admin::{CallError, Caller, Refusal, RefusalKind, Request};
use crate::config::{Config, ServerConfig};

/// Which running server is meant.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ServerArgs {
    /// The control socket of the running server; if neither this nor a configuration is named, the one
    /// that servers have by default
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The configuration of the running server, which says where its control socket is
    #[arg(short, long, value_name = "FILE", env = "AOE_SERVER_CONFIG")]
    config: Option<PathBuf>,
}

impl ServerArgs {
    /// Asks the server. Pieces of the answer go to `item`. An answer of no is the inner error.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) fn ask(
        &self,
        request: &Request,
        item: &mut dyn FnMut(Value),
    ) -> anyhow::Result<Result<Value, Refusal>> {
        let bar = waiting();
        let mut wait = |progress: &Value| {
            let seconds = progress.get("seconds").and_then(Value::as_u64).unwrap_or_default();
            bar.set_message(format!("waiting for the server, {seconds} s"));
        };
        let answer = self.call()?.ask(request, item, &mut wait);
        bar.finish_and_clear();
        match answer {
            Ok(value) => Ok(Ok(value)),
            Err(CallError::Refused(refusal)) if refusal.kind == RefusalKind::Refused => {
                Ok(Err(refusal))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn call(&self) -> anyhow::Result<Caller> {
        let path = match (&self.socket, &self.config) {
            (Some(path), _) => path.clone(),
            (None, Some(config)) => Config::load(config)?.server.control_socket(),
            (None, None) => ServerConfig::new(Vec::new()).control_socket(),
        };
        let remedy = "is the server running? --socket names its control socket, --config its \
                      configuration";
        Caller::connect(path).context(remedy)
    }
}

/// A line on standard error, when that is a terminal, for what takes its time.
fn waiting() -> ProgressBar {
    if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() }
}
