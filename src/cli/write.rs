//! `write`: a file or standard input to sectors of a target.

use std::format;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::client_output::{octets, progress, time};
use super::target_args::{LinkArgs, one_disk_only, parse_target};
use crate::client::{Client, ClientError, Disk, Range};
use crate::clock;
use crate::protocol::Address;
use crate::units::{Lba, Sectors};

/// Copy a file or standard input to a target
///
/// A last incomplete sector keeps what it held behind the end of the data.
#[derive(Debug, clap::Args)]
pub(super) struct WriteCmd {
    #[command(flatten)]
    link: LinkArgs,
    /// The target, for example e7.3
    #[arg(value_parser = parse_target)]
    target: Address,
    /// The file to read; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The first sector to write
    #[arg(long, value_name = "LBA", default_value_t = 0)]
    offset: u64,
    /// The most requests in flight; never more than the target can hold
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    depth: usize,
    /// Read everything back and compare checksums
    #[arg(long)]
    verify: bool,
    /// Print one JSON object about what was done
    #[arg(long)]
    json: bool,
}

impl WriteCmd {
    /// Runs the command: 0 when all was acknowledged and, with `--verify`, is there; 1 when the
    /// target cannot take it or holds something else.
    ///
    /// # Errors
    /// When the interface cannot be used, the file not read, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let (mut source, len) = self.open_source()?;
        let mut client = self.link.client(Duration::from_secs(5))?;
        let disk = match client.open(self.target) {
            Ok(disk) => disk,
            Err(error) => return self.link.conclude(Err(error)),
        };
        one_disk_only(&mut client, &disk)?;
        let room = Sectors(disk.size().0.saturating_sub(self.offset));
        // What is known not to fit is refused before anything is written.
        if let (Some(len), Some(room)) = (len, room.bytes())
            && len > room
        {
            let error = format!(
                "{} has {}, but there is room for {} from sector {} to the end of {}",
                self.file.display(),
                octets(len.into()),
                octets(room.into()),
                self.offset,
                self.target
            );
            writeln!(std::io::stderr(), "{error}")?;
            return Ok(ExitCode::from(1));
        }
        let range = Range { disk: &disk, lba: Lba(self.offset), count: room, depth: self.depth };
        let started = clock::now();
        let result = self.copy(&mut client, &range, &mut *source, len);
        let done = match result {
            Ok(done) => done,
            Err(error) => return self.link.conclude(Err(error)),
        };
        self.report(&client, &disk, done, clock::now().since(started), out)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What to read, and how long it is if that can be known.
    fn open_source(&self) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
        if self.file.as_os_str() == "-" {
            return Ok((Box::new(std::io::stdin().lock()), None));
        }
        let failed = || format!("cannot read {}", self.file.display());
        let mut file = File::open(&self.file).with_context(failed)?;
        let meta = file.metadata().with_context(failed)?;
        anyhow::ensure!(!meta.is_dir(), "{} is a directory", self.file.display());
        // A block device tells its size to whoever seeks its end; a pipe does not.
        let len = file.seek(SeekFrom::End(0)).ok();
        if len.is_some() {
            file.rewind().with_context(failed)?;
        }
        Ok((Box::new(BufReader::with_capacity(1 << 20, file)), len))
    }

    fn copy(
        &self,
        client: &mut Client,
        range: &Range<'_>,
        source: &mut dyn Read,
        len: Option<u64>,
    ) -> Result<u64, ClientError> {
        let bar = progress("writing", len);
        let written = client.write(range, source, &mut |done| bar.set_position(done));
        bar.finish_and_clear();
        let written = written?;
        if self.verify {
            let bar = progress("verifying", Some(written.octets));
            let verified = client.verify(range, &written, &mut |done| bar.set_position(done));
            bar.finish_and_clear();
            verified?;
        }
        Ok(written.octets)
    }

    fn report(
        &self,
        client: &Client,
        disk: &Disk,
        done: u64,
        took: Duration,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        if self.json {
            let line = json!({
                "target": format!("{}", self.target),
                "octets": done,
                "seconds": took.as_secs_f64(),
                "verified": self.verify,
                "durable": !disk.facts.write_cache,
                "retransmissions": client.counters().retransmissions,
            });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        let (size, file) = (octets(done.into()), self.file.display());
        let verified = if self.verify { ", verified" } else { "" };
        writeln!(out, "{size} from {file} to {} in {}{verified}", self.target, time(took))?;
        Ok(())
    }
}
