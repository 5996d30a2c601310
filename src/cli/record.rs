//! `record`: what goes by on an interface, into a capture.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::NO;
use super::live::Watcher;
use crate::clock::unix_micros;
use crate::link::savefile::{Resolution, Writer};

/// Record the AoE frames that an interface receives and sends into a capture file
///
/// Frames to other stations are recorded too. Ends after the given time or number of frames, or
/// with Ctrl-C. Exits with 1 when no frame was seen. The file is in the classic pcap format, for
/// `replay`, `dump`, tcpdump and Wireshark.
///
/// What an af-packet link of this machine sends takes a way past all recorders: record at the other
/// end of the wire, or use a pcap link.
#[derive(Debug, clap::Args)]
pub(super) struct RecordCmd {
    /// Interface to listen on, for example eth1
    interface: String,
    /// The capture to write; an existing file is replaced
    file: PathBuf,
    /// End after this many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// End after this many frames
    #[arg(long, value_name = "N")]
    frames: Option<u64>,
}

impl RecordCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut watcher = Watcher::open(&self.interface, self.seconds.map(Duration::from_secs))?;
        let cannot = || format!("cannot write {}", self.file.display());
        let file = File::create(&self.file).with_context(cannot)?;
        let mut capture =
            Writer::new(BufWriter::new(file), Resolution::Micros).with_context(cannot)?;
        let most = self.frames.unwrap_or(u64::MAX);
        let mut count = 0;
        while count < most {
            let Some(frames) = watcher.next()? else { break };
            let moment = unix_micros() * 1_000;
            for frame in frames.frames() {
                if count < most {
                    capture.write(moment, frame).with_context(cannot)?;
                    count += 1;
                }
            }
        }
        capture.flush().with_context(cannot)?;
        let file = capture.into_inner().into_inner().map_err(std::io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).with_context(cannot)?;
        let dropped = watcher.dropped();
        if std::io::stderr().is_terminal() || dropped > 0 {
            writeln!(out, "{count} frames recorded, {dropped} missed")?;
        }
        Ok(if count == 0 { ExitCode::from(NO) } else { ExitCode::SUCCESS })
    }
}
