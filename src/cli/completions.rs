//! `completions`: for shells.

use std::io::Write;
use std::process::ExitCode;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsCmd {
    /// The shell
    shell: clap_complete::Shell,
}

impl CompletionsCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        // The generator panics when it cannot write, as into a pipe that nobody reads any more.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::definition(), "aoe-server", &mut script);
        out.write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
