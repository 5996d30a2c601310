//! `check`: is a configuration good?

use std::error::Error as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::{COULD_NOT_TELL, NO};
use crate::config::{CasConfig, CasContent, Config, ConfigError, StorageConfig};

/// Check a configuration file, and say what it configures
///
/// Nothing is opened or created. Exits with 1 when the file has errors, all of which are printed,
/// each with its line and what would be right, and with 2 when it cannot be read.
#[derive(Debug, clap::Args)]
pub(super) struct CheckCmd {
    /// The configuration file
    #[arg(value_name = "FILE", env = "AOE_SERVER_CONFIG")]
    config: PathBuf,
    /// Print one JSON object per target, or per error, instead of text
    #[arg(long)]
    json: bool,
}

impl CheckCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match Config::load(&self.config) {
            Ok(config) => {
                self.describe(&config, out)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(errors) => {
                let mut code = NO;
                for error in errors.as_slice() {
                    if matches!(error, ConfigError::Unreadable { .. }) {
                        code = COULD_NOT_TELL;
                    }
                    self.complain(error, out)?;
                }
                Ok(ExitCode::from(code))
            }
        }
    }

    fn complain(&self, error: &ConfigError, out: &mut impl Write) -> std::io::Result<()> {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        if self.json {
            let place = error.place();
            let line = json!({
                "error": format!("{error}{cause}"),
                "line": place.map(|place| place.line),
                "column": place.map(|place| place.column),
            });
            writeln!(out, "{line}")
        } else {
            writeln!(out, "{error}{cause}")
        }
    }

    fn describe(&self, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
        if !self.json {
            let count = config.targets.len();
            let interfaces = config.server.interfaces.join(", ");
            writeln!(out, "{}: good, {count} targets on {interfaces}", self.config.display())?;
        }
        for target in &config.targets {
            let backend = target.storage.backend();
            if self.json {
                let (volume, snapshot) = match &target.storage {
                    StorageConfig::Cas(CasConfig { content, .. }) => match content {
                        CasContent::Volume { name, .. } => (Some(name), None),
                        CasContent::Snapshot { volume, name } => (Some(volume), Some(name)),
                    },
                    _ => (None, None),
                };
                let line = json!({
                    "target": target.address.to_string(),
                    "backend": backend,
                    "path": target.storage.path().map(|path| path.display().to_string()),
                    "volume": volume,
                    "snapshot": snapshot,
                    "read_only": target.read_only,
                });
                writeln!(out, "{line}")?;
            } else {
                let place = match &target.storage {
                    StorageConfig::Memory { .. } => String::new(),
                    storage => storage.to_string(),
                };
                let read_only = if target.read_only { " (read-only)" } else { "" };
                let address = target.address.to_string();
                writeln!(out, "  {address:<10} {backend:<6} {place}{read_only}")?;
            }
        }
        Ok(())
    }
}
