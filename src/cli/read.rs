//! `read`: sectors of a target to a file or to standard output.

use std::format;
use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::client_output::{octets, progress, time};
use super::target_args::{LinkArgs, parse_target};
use crate::client::{Client, ClientError, Disk, Range, SparseWriter};
use crate::clock;
use crate::protocol::Address;
use crate::units::{Lba, Sectors};

/// Octets gathered before they are written.
const BUFFER: usize = 1 << 20;

/// Copy a target to a file or to standard output
#[derive(Debug, clap::Args)]
pub(super) struct ReadCmd {
    #[command(flatten)]
    link: LinkArgs,
    /// The target, for example e7.3
    #[arg(value_parser = parse_target)]
    target: Address,
    /// The file to write, which is replaced; - for standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The first sector to read
    #[arg(long, value_name = "LBA", default_value_t = 0)]
    offset: u64,
    /// How many sectors to read; all, when missing
    #[arg(long, value_name = "COUNT")]
    sectors: Option<u64>,
    /// The most requests in flight; never more than the target can hold
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    depth: usize,
    /// Leave holes in the file where the data is zero
    #[arg(long)]
    sparse: bool,
    /// Print one JSON object about what was done; needs a file
    #[arg(long)]
    json: bool,
}

impl ReadCmd {
    /// Runs the command: 0 when all was read, 1 when the target cannot give it.
    ///
    /// # Errors
    /// When the interface cannot be used, or the file or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let to_stdout = self.file.as_os_str() == "-";
        anyhow::ensure!(
            !to_stdout || !(self.json || self.sparse),
            "--json and --sparse need a file to write to"
        );
        anyhow::ensure!(
            !to_stdout || !std::io::stdout().is_terminal(),
            "a disk is not for the terminal: name a file, or redirect standard output"
        );
        let mut client = self.link.client(Duration::from_secs(5))?;
        // Before the file is replaced, it is seen that there is something to replace it with.
        let disk = match client.open(self.target) {
            Ok(disk) => disk,
            Err(error) => return self.link.conclude(Err(error)),
        };
        let range = self.range(&disk);
        if let Err(error) = disk.contains(range.lba, range.count) {
            return self.link.conclude(Err(error));
        }
        let started = clock::now();
        let result = if to_stdout {
            let mut sink = BufWriter::with_capacity(BUFFER, &mut *out);
            let read = copy(&mut client, &range, &mut sink);
            sink.flush().context("cannot write to standard output")?;
            read
        } else {
            self.to_file(&mut client, &range)?
        };
        let done = match result {
            Ok(done) => done,
            Err(error) => return self.link.conclude(Err(error)),
        };
        let took = clock::now().since(started);
        if self.json {
            let line = json!({
                "target": format!("{}", self.target),
                "octets": done,
                "seconds": took.as_secs_f64(),
                "retransmissions": client.counters().retransmissions,
            });
            writeln!(out, "{line}")?;
        } else if !to_stdout {
            let file = self.file.display();
            let size = octets(done.into());
            writeln!(out, "{size} from {} to {file} in {}", self.target, time(took))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The sectors that are asked for.
    fn range<'d>(&self, disk: &'d Disk) -> Range<'d> {
        let rest = Sectors(disk.size().0.saturating_sub(self.offset));
        let count = self.sectors.map_or(rest, Sectors);
        Range { disk, lba: Lba(self.offset), count, depth: self.depth }
    }

    fn to_file(
        &self,
        client: &mut Client,
        range: &Range<'_>,
    ) -> anyhow::Result<Result<u64, ClientError>> {
        let failed = |doing: &str| format!("cannot {doing} {}", self.file.display());
        let file = File::create(&self.file).with_context(|| failed("create"))?;
        let regular = file.metadata().with_context(|| failed("examine"))?.is_file();
        anyhow::ensure!(
            regular || !self.sparse,
            "{} is no regular file; --sparse would leave its old content in the holes",
            self.file.display()
        );
        if self.sparse {
            let mut sink = SparseWriter::new(file);
            let result = copy(client, range, &mut sink);
            let file = sink.finish().with_context(|| failed("write to"))?;
            file.sync_all().with_context(|| failed("sync"))?;
            return Ok(result);
        }
        let mut sink = BufWriter::with_capacity(BUFFER, file);
        let result = copy(client, range, &mut sink);
        let file = sink
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .with_context(|| failed("write to"))?;
        if regular {
            file.sync_all().with_context(|| failed("sync"))?;
        }
        Ok(result)
    }
}

fn copy(client: &mut Client, range: &Range<'_>, sink: &mut dyn Write) -> Result<u64, ClientError> {
    let bar = progress("reading", range.count.bytes());
    let mut all = 0;
    let result = client.read(range, sink, &mut |done| {
        all = done;
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result.map(|()| all)
}
