//! The load: one run of `aoe-server bench`, and what it tells.

use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::statistics::Latencies;
use crate::workbench::{Workbench, on_cpu};

/// What to ask for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    pub(crate) depth: u16,
    pub(crate) sectors: u8,
    pub(crate) write_percent: u8,
    pub(crate) sequential: bool,
    /// Sectors of each target to use; all of them when missing.
    pub(crate) length: Option<u64>,
    /// How much longer than other measurements.
    pub(crate) more_seconds: f64,
}

/// What one run told.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    /// Requests that were answered with success, by the second.
    pub(crate) rate: f64,
    pub(crate) reads_per_second: f64,
    pub(crate) writes_per_second: f64,
    /// Requests that were sent again.
    pub(crate) again: u64,
    /// Requests that failed or were not answered.
    pub(crate) failed: u64,
    /// Frames that the generator's own socket lost.
    pub(crate) dropped: u64,
    pub(crate) latencies: Latencies,
}

impl Measurement {
    pub(crate) fn percentile_us(&self, of: f64) -> f64 {
        self.latencies.percentile_us(of)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "acknowledgements_per_second": self.rate,
            "reads_per_second": self.reads_per_second,
            "writes_per_second": self.writes_per_second,
            "p50_us": self.percentile_us(0.5),
            "p99_us": self.percentile_us(0.99),
            "p999_us": self.percentile_us(0.999),
            "retransmissions": self.again,
            "failed": self.failed,
            "dropped_by_generator": self.dropped,
        })
    }

    /// What `aoe-server bench --json` printed.
    pub(crate) fn of(output: &Output) -> anyhow::Result<Self> {
        let complaint = String::from_utf8_lossy(&output.stderr);
        // Requests that failed make it end with 1, and it tells of them.
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the load generator ended {}: {complaint}", output.status))?;
        let number = |key: &str| report[key].as_f64().with_context(|| format!("no {key}"));
        let count = |key: &str| report[key].as_u64().with_context(|| format!("no {key}"));
        let mut latencies = Latencies::default();
        latencies.add_json(&report["read_latency_us"]);
        latencies.add_json(&report["write_latency_us"]);
        let rate = number("requests_per_second")?;
        ensure!(rate > 0.0, "no request succeeded: {}", report["first_error"]);
        Ok(Self {
            rate,
            reads_per_second: number("reads_per_second")?,
            writes_per_second: number("writes_per_second")?,
            again: count("retransmissions")?,
            failed: count("errors")? + count("unanswered")? + count("mismatches")?,
            dropped: count("dropped_here")?,
            latencies,
        })
    }
}

/// A run of the generator over the interface called `interface`, on `cpu`.
pub(crate) fn command(
    workbench: &Workbench,
    cpu: usize,
    interface: &str,
    targets: &[String],
    ask: &Ask,
) -> Command {
    let mut command = on_cpu(cpu, &workbench.aoe_server);
    command.args(["bench", "--json", "--link", "af-packet", "--interface", interface]);
    command.args(["--depth", &ask.depth.to_string(), "--sectors", &ask.sectors.to_string()]);
    command.args(["--seconds", &(workbench.seconds + ask.more_seconds).to_string()]);
    if ask.write_percent > 0 {
        command.args(["--destroy", "--write-percent", &ask.write_percent.to_string()]);
    }
    if ask.sequential {
        command.arg("--sequential");
    }
    if let Some(length) = ask.length {
        command.args(["--length", &length.to_string()]);
    }
    command.args(targets);
    command
}
