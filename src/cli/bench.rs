//! `bench`: how much a target can do.

use std::collections::BTreeSet;
use std::format;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::json;

use super::client_output::{micros, octets, size, time};
use super::target_args::{LinkArgs, interrupted, one_disk_only, parse_target};
use crate::client::{Disk, Kind, Load, LoadReport, Order, Recorder};
use crate::protocol::Address;
use crate::units::{Lba, Sectors};

/// The longest latency that is told exactly.
const LONGEST: Duration = Duration::from_mins(1);
/// The percentiles that are told.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];
/// Characters of the longest bar of a histogram.
const BAR: u64 = 40;

/// Measure a target's throughput and latency
///
/// Writes destroy what the sectors held, and must be allowed with --destroy.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct BenchCmd {
    #[command(flatten)]
    link: LinkArgs,
    /// The target, for example e7.3; or several, which share the load
    #[arg(required = true, value_parser = parse_target)]
    target: Vec<Address>,
    /// Requests in flight in all; never more than each target can hold
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    depth: usize,
    /// Sectors of each request; a full frame when missing
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..))]
    sectors: Option<u8>,
    /// How many of a hundred requests write
    #[arg(
        long, value_name = "PERCENT", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(..=100)
    )]
    write_percent: u8,
    /// Allow writes to destroy what the sectors hold
    #[arg(long)]
    destroy: bool,
    /// Go through the sectors from first to last
    #[arg(long, conflicts_with = "random")]
    sequential: bool,
    /// Go through the sectors at random; this is what happens anyway
    #[arg(long)]
    random: bool,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Stop after so many requests
    #[arg(long, value_name = "REQUESTS")]
    count: Option<u64>,
    /// The first sector to use
    #[arg(long, value_name = "LBA", default_value_t = 0)]
    offset: u64,
    /// How many sectors to use; all to the end when missing
    #[arg(long, value_name = "SECTORS")]
    length: Option<u64>,
    /// What chance starts from: the same seed asks the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Check what is read against what was written before in this run
    #[arg(long)]
    verify: bool,
    /// Look for answers for so many microseconds before sleeping
    #[arg(long, value_name = "US", default_value_t = 50)]
    spin_us: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Latencies in nanoseconds, by kind.
struct Latencies {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    stop: Arc<AtomicBool>,
}

impl Recorder for Latencies {
    fn completed(&mut self, kind: Kind, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        match kind {
            Kind::Read => self.reads.saturating_record(nanos),
            Kind::Write => self.writes.saturating_record(nanos),
        }
    }

    fn stop(&mut self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl BenchCmd {
    /// Runs the command: 0 when every request succeeded, 1 when one failed or did not find what was
    /// written.
    ///
    /// # Errors
    /// When the interface cannot be used, writes are not allowed, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(
            self.write_percent == 0 || self.destroy,
            "writes would destroy what is on {}; add --destroy if that is meant",
            self.names()
        );
        let different: BTreeSet<_> = self.target.iter().map(|at| (at.shelf, at.slot)).collect();
        anyhow::ensure!(different.len() == self.target.len(), "a target stands there twice");
        let mut client = self.link.client(Duration::from_secs(5))?;
        client.set_spin(Duration::from_micros(self.spin_us));
        let disks: Result<Vec<_>, _> =
            self.target.iter().map(|target| client.open(*target)).collect();
        let disks = match disks {
            Ok(disks) => disks,
            Err(error) => return self.link.conclude(Err(error)),
        };
        if self.write_percent > 0 {
            for disk in &disks {
                one_disk_only(&mut client, disk)?;
            }
        }
        let load = self.load(&disks)?;
        let others = disks.get(1..).unwrap_or_default();
        let mut latencies = Latencies::new(interrupted()?)?;
        let dropped = client.link_counters().dropped;
        let report = match client.load_over(&load, others, &mut latencies) {
            Ok(report) => report,
            Err(error) => return self.link.conclude(Err(error)),
        };
        let dropped = client.link_counters().dropped.saturating_sub(dropped);
        if self.json {
            writeln!(out, "{}", self.json(&load, &report, &latencies, dropped))?;
        } else {
            self.text(&load, &report, &latencies, dropped, out)?;
        }
        let clean = report.errors + report.unanswered + report.mismatches == 0;
        Ok(ExitCode::from(u8::from(!clean)))
    }

    /// What is asked of the first of `disks`, and of the others alike.
    fn load<'d>(&self, disks: &'d [Disk]) -> anyhow::Result<Load<'d>> {
        let disk = disks.first().context("there is no target")?;
        let most = disks.iter().map(|disk| disk.sectors_per_frame).min().unwrap_or(1);
        let sectors = self.sectors.unwrap_or(most);
        anyhow::ensure!(
            sectors <= most,
            "{} takes {most} sectors a frame at most over this interface, not {sectors}",
            self.names(),
        );
        let size = disks.iter().map(|disk| disk.size().0).min().unwrap_or(0);
        Ok(Load {
            disk,
            depth: self.depth,
            sectors,
            write_percent: self.write_percent,
            order: if self.sequential { Order::Sequential } else { Order::Random },
            lba: Lba(self.offset),
            count: self.length.map_or(Sectors(size.saturating_sub(self.offset)), Sectors),
            duration: Duration::try_from_secs_f64(self.seconds)?,
            requests: self.count.unwrap_or(u64::MAX),
            seed: self.seed,
            verify: self.verify,
        })
    }

    /// The targets, with commas between them.
    fn names(&self) -> String {
        let names: Vec<_> = self.target.iter().map(|target| format!("{target}")).collect();
        names.join(", ")
    }

    fn json(
        &self,
        load: &Load<'_>,
        report: &LoadReport,
        latencies: &Latencies,
        dropped: u64,
    ) -> serde_json::Value {
        json!({
            "target": self.names(),
            "depth": report.window,
            "sectors": load.sectors,
            "write_percent": load.write_percent,
            "order": if self.sequential { "sequential" } else { "random" },
            "seconds": report.elapsed.as_secs_f64(),
            "reads": report.reads,
            "writes": report.writes,
            "requests_per_second": report.per_second(),
            "reads_per_second": rate(report.reads, report),
            "writes_per_second": rate(report.writes, report),
            "octets_per_second": report.octets_per_second(),
            "octets_read": report.octets_read,
            "octets_written": report.octets_written,
            "errors": report.errors,
            "unanswered": report.unanswered,
            "retransmissions": report.retransmissions,
            "dropped_here": dropped,
            "verified": report.verified,
            "mismatches": report.mismatches,
            "first_error": report.first_error.as_ref().map(|error| format!("{error}")),
            "read_latency_us": json_latency(&latencies.reads),
            "write_latency_us": json_latency(&latencies.writes),
        })
    }

    fn text(
        &self,
        load: &Load<'_>,
        report: &LoadReport,
        latencies: &Latencies,
        dropped: u64,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let order = if self.sequential { "sequential" } else { "random" };
        writeln!(
            out,
            "{} at {}: {} {order}, {} sectors a request, {} in flight, {} % writes",
            self.names(),
            load.disk.mac,
            size(load.count),
            load.sectors,
            report.window,
            load.write_percent
        )?;
        let rate = report.octets_per_second() / 1e6;
        writeln!(
            out,
            "{:.0} requests/s, {rate:.1} MB/s for {}",
            report.per_second(),
            time(report.elapsed)
        )?;
        writeln!(
            out,
            "{} reads ({}), {} writes ({})",
            report.reads,
            octets(report.octets_read.into()),
            report.writes,
            octets(report.octets_written.into())
        )?;
        writeln!(
            out,
            "{} errors, {} unanswered, {} sent again, {dropped} dropped here",
            report.errors, report.unanswered, report.retransmissions
        )?;
        if self.verify {
            writeln!(out, "{} verified, {} differ", report.verified, report.mismatches)?;
        }
        if let Some(error) = &report.first_error {
            writeln!(out, "first error: {error}")?;
        }
        text_latency("read", &latencies.reads, out)?;
        text_latency("write", &latencies.writes, out)
    }
}

impl Latencies {
    fn new(stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let longest = u64::try_from(LONGEST.as_nanos())?;
        Ok(Self {
            reads: Histogram::new_with_max(longest, 3)?,
            writes: Histogram::new_with_max(longest, 3)?,
            stop,
        })
    }
}

/// How many of `count` there were in a second.
fn rate(count: u64, report: &LoadReport) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^53 requests take centuries")]
    let count = count as f64;
    count / report.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// The percentiles, and all that was recorded: pairs of the largest latency that counts as one of
/// its kind, and how many there were.
fn json_latency(latencies: &Histogram<u64>) -> serde_json::Value {
    if latencies.is_empty() {
        return serde_json::Value::Null;
    }
    let mut value = serde_json::Map::new();
    value.insert("min".into(), json!(micros(Duration::from_nanos(latencies.min()))));
    value.insert("mean".into(), json!(latencies.mean() / 1e3));
    for (name, percent) in PERCENTILES {
        let nanos = latencies.value_at_percentile(percent);
        value.insert(name.into(), json!(micros(Duration::from_nanos(nanos))));
    }
    let steps = latencies.iter_recorded().map(|step| {
        let upper = latencies.highest_equivalent(step.value_iterated_to());
        #[expect(clippy::cast_precision_loss, reason = "2^53 nanoseconds are months")]
        let upper = upper as f64 / 1e3;
        json!([upper, step.count_since_last_iteration()])
    });
    value.insert("histogram_us".into(), steps.collect());
    value.into()
}

fn text_latency(
    kind: &str,
    latencies: &Histogram<u64>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if latencies.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{kind} latency")?;
    for (name, percent) in PERCENTILES {
        let nanos = latencies.value_at_percentile(percent);
        writeln!(out, "  {name:<6}{:>12}", time(Duration::from_nanos(nanos)))?;
    }
    writeln!(out, "  up to")?;
    let steps = || latencies.iter_log(1_000, 2.0);
    let most = steps().map(|step| step.count_since_last_iteration()).max().unwrap_or(1).max(1);
    for step in steps() {
        let count = step.count_since_last_iteration();
        if count > 0 {
            let upper = time(Duration::from_nanos(step.value_iterated_to().saturating_add(1)));
            // At least one character, or a rare one would not show.
            let width = usize::try_from((count * BAR / most).max(1)).unwrap_or(1);
            writeln!(out, "  {upper:>12} {count:>12} {:#<width$}", "")?;
        }
    }
    Ok(())
}
