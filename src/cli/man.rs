//! `man`: manual pages.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

/// Print the manual page, or write one for every command
#[derive(Debug, clap::Args)]
pub(super) struct ManCmd {
    /// Write aoe-server.1, aoe-server-serve.1 and so on into this directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl ManCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let command = super::definition();
        let Some(directory) = &self.directory else {
            clap_mangen::Man::new(command).render(out)?;
            return Ok(ExitCode::SUCCESS);
        };
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        clap_mangen::generate_to(command, directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
