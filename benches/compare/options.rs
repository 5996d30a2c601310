//! What can be said on the command line.

use std::path::PathBuf;

/// Measures this server against vblade and against the limit of the wire.
///
/// Believe ratios, not rates: every server is measured once a round, one right after the other.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "scripts/compare", bin_name = "scripts/compare")]
pub(crate) struct Options {
    /// How often to measure everything
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: u16,
    /// How long each measurement takes
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Measure this section only; may be given more than once
    #[arg(long, value_name = "SECTION")]
    pub(crate) only: Vec<Part>,
    /// Where to write everything as JSON
    #[arg(long, value_name = "FILE", default_value = "target/compare.json")]
    pub(crate) json: PathBuf,
    /// Where to draw plots, and put a page with them and the tables
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    /// One round of a tenth of a second each, to see whether everything works
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub(crate) quick: bool,
    /// The program to measure; scripts/compare builds it
    #[arg(long, value_name = "FILE", env = "AOE_SERVER", hide = true)]
    pub(crate) server: Option<PathBuf>,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Reads, by requests in flight
    Reads,
    /// Writes, by requests in flight
    Writes,
    /// Seven reads to three writes
    Mix,
    /// Durable writes of 4 KiB with 64 in flight
    Durable,
    /// Many targets in one process
    Targets,
    /// A hot target beside a cold one
    Cold,
    /// What the load generator can do
    Ceiling,
    /// With nothing to do: spin, adaptive, block
    Idle,
}

impl Options {
    /// Puts in what `--quick` stands for.
    pub(crate) fn settled(mut self) -> Self {
        if self.quick {
            (self.rounds, self.seconds) = (1, 0.1);
        }
        self
    }

    /// Whether a part is to be measured.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
