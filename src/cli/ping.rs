//! `ping`: whether and how fast a target answers.

use std::format;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::client_output::{micros, time};
use super::target_args::{LinkArgs, interrupted, parse_target};
use crate::client::{PingKind, PingReport, Pong};
use crate::protocol::Address;

/// Measure how fast a target answers
#[derive(Debug, clap::Args)]
pub(super) struct PingCmd {
    #[command(flatten)]
    link: LinkArgs,
    /// The target, for example e7.3
    #[arg(value_parser = parse_target)]
    target: Address,
    /// How often to ask; until Ctrl-C when this is 0
    #[arg(short, long, default_value_t = 5)]
    count: u64,
    /// Milliseconds from one request to the next
    #[arg(long, value_name = "MS", default_value_t = 200)]
    interval_ms: u64,
    /// Ask for the IDENTIFY page, which the disk answers, instead of the config
    #[arg(long)]
    ata: bool,
    /// Print only the summary
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object per answer, and one for the summary
    #[arg(long)]
    json: bool,
}

impl PingCmd {
    /// Runs the command: 0 when there was an answer, 1 when there was none.
    ///
    /// # Errors
    /// When the interface cannot be used, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut client = self.link.client(Duration::from_secs(1))?;
        let stop = interrupted()?;
        let kind = if self.ata { PingKind::Identify } else { PingKind::Config };
        let count = if self.count == 0 { u64::MAX } else { self.count };
        let interval = Duration::from_millis(self.interval_ms);
        let mut written = Ok(());
        let report = client.ping(self.target, kind, count, interval, &mut |pong| {
            written = self.tell(pong, out);
            written.is_ok() && !is_set(&stop)
        });
        written?;
        let report = match report {
            Ok(report) => report,
            Err(error) => return self.link.conclude(Err(error)),
        };
        self.summary(&report, out)?;
        Ok(ExitCode::from(u8::from(report.round_trips.is_empty())))
    }

    fn tell(&self, pong: &Pong, out: &mut impl Write) -> std::io::Result<()> {
        let Self { target, .. } = self;
        let sequence = pong.sequence;
        match pong.answer {
            _ if self.quiet => return Ok(()),
            _ if self.json => {
                let line = json!({
                    "target": format!("{target}"),
                    "sequence": sequence,
                    "mac": pong.answer.map(|(mac, _)| format!("{mac}")),
                    "round_trip_us": pong.answer.map(|(_, took)| micros(took)),
                });
                writeln!(out, "{line}")?;
            }
            Some((mac, took)) => {
                writeln!(out, "{target} at {mac}: number {sequence}, {}", time(took))?;
            }
            None => writeln!(out, "{target}: number {sequence}, no answer")?,
        }
        out.flush()
    }

    fn summary(&self, report: &PingReport, out: &mut impl Write) -> anyhow::Result<()> {
        let [min, p50, p90, p99, max] =
            [0, 50, 90, 99, 100].map(|percent| report.percentile(percent));
        let mean = report.mean();
        if self.json {
            let line = json!({
                "target": format!("{}", self.target),
                "sent": report.sent,
                "received": report.round_trips.len(),
                "lost": report.lost(),
                "duplicates": report.duplicates,
                "min_us": min.map(micros),
                "mean_us": mean.map(micros),
                "p50_us": p50.map(micros),
                "p90_us": p90.map(micros),
                "p99_us": p99.map(micros),
                "max_us": max.map(micros),
            });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        writeln!(
            out,
            "{} sent, {} answered, {} lost, {} duplicates",
            report.sent,
            report.round_trips.len(),
            report.lost(),
            report.duplicates
        )?;
        if let (Some(min), Some(mean), Some(p50), Some(p90), Some(p99), Some(max)) =
            (min, mean, p50, p90, p99, max)
        {
            let [min, mean, p50, p90, p99, max] = [min, mean, p50, p90, p99, max].map(time);
            writeln!(out, "min {min}, mean {mean}, p50 {p50}, p90 {p90}, p99 {p99}, max {max}")?;
        }
        Ok(())
    }
}

fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}
