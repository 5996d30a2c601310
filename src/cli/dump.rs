//! `dump`: frames, one line each.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::NO;
use super::live::Watcher;
use crate::clock::unix_micros;
use crate::link::savefile::Reader;
use crate::protocol::print::FrameLine;

/// Print the frames of a capture or of an interface, one line each
///
/// A capture is printed to its end; an interface until Ctrl-C or the given number of frames, in
/// both directions and frames to other stations too. Exits with 1 when there was no frame, and with
/// 2 when the capture is damaged, after printing what comes before the damage.
#[derive(Debug, clap::Args)]
pub(super) struct DumpCmd {
    /// The capture, in the classic pcap format
    #[arg(required_unless_present = "interface")]
    file: Option<PathBuf>,
    /// Print what goes by on this interface instead
    #[arg(short, long, value_name = "NAME", conflicts_with = "file")]
    interface: Option<String>,
    /// End after this many frames
    #[arg(long, value_name = "N")]
    frames: Option<u64>,
    /// Print one JSON object per frame
    #[arg(long)]
    json: bool,
}

impl DumpCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let most = self.frames.unwrap_or(u64::MAX);
        let count = match (&self.file, &self.interface) {
            (Some(file), _) => self.dump_file(file, most, out)?,
            (None, Some(interface)) => self.dump_interface(interface, most, out)?,
            (None, None) => 0,
        };
        Ok(if count == 0 { ExitCode::from(NO) } else { ExitCode::SUCCESS })
    }

    fn dump_file(&self, file: &PathBuf, most: u64, out: &mut impl Write) -> anyhow::Result<u64> {
        let cannot = || format!("cannot read {}", file.display());
        let open = File::open(file).with_context(cannot)?;
        let mut capture = Reader::new(BufReader::new(open)).with_context(cannot)?;
        let mut count = 0;
        while count < most {
            let Some(record) = capture.next().with_context(cannot)? else { break };
            count += 1;
            self.line(record.unix_nanos, record.octets, out)?;
        }
        Ok(count)
    }

    fn dump_interface(
        &self,
        interface: &str,
        most: u64,
        out: &mut impl Write,
    ) -> anyhow::Result<u64> {
        let mut watcher = Watcher::open(interface, None)?;
        let mut count = 0;
        while count < most {
            let Some(frames) = watcher.next()? else { break };
            let moment = unix_micros() * 1_000;
            for frame in frames.frames() {
                if count < most {
                    self.line(moment, frame, out)?;
                    count += 1;
                }
            }
            out.flush()?; // whoever watches wants to see it now
        }
        Ok(count)
    }

    fn line(&self, unix_nanos: u64, frame: &[u8], out: &mut impl Write) -> anyhow::Result<()> {
        let (seconds, micros) = (unix_nanos / 1_000_000_000, unix_nanos % 1_000_000_000 / 1_000);
        let line = FrameLine::new(frame);
        if self.json {
            let line = json!({
                "seconds": format!("{seconds}.{micros:06}"),
                "octets": frame.len(),
                "frame": line.to_string(),
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{seconds}.{micros:06} {line}")?;
        }
        Ok(())
    }
}
