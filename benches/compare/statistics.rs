//! Medians, and latencies by how often they occurred.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The value below which the fraction `of` of `values` lies, interpolated; NaN without any.
pub(crate) fn quantile(values: &[f64], of: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = of * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Median and quartiles.
pub(crate) fn summary(values: &[f64]) -> Value {
    json!({
        "median": median(values),
        "lower_quartile": quantile(values, 0.25),
        "upper_quartile": quantile(values, 0.75),
    })
}

/// Latencies in nanoseconds, and how often each occurred.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies(BTreeMap<u64, u64>);

impl Latencies {
    pub(crate) fn add(&mut self, nanos: u64, count: u64) {
        *self.0.entry(nanos).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (nanos, count) in &other.0 {
            self.add(*nanos, *count);
        }
    }

    /// Adds what `aoe-server bench --json` tells of one kind of requests; nothing when there were
    /// none.
    pub(crate) fn add_json(&mut self, latency: &Value) {
        for step in latency["histogram_us"].as_array().into_iter().flatten() {
            if let (Some(micros), Some(count)) = (step[0].as_f64(), step[1].as_u64()) {
                self.add((micros * 1e3).round() as u64, count);
            }
        }
    }

    /// The latency, in microseconds, that the fraction `of` of all does not exceed; NaN when there
    /// are none.
    pub(crate) fn percentile_us(&self, of: f64) -> f64 {
        let total: u64 = self.0.values().sum();
        let wanted = (of * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (nanos, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return *nanos as f64 / 1e3;
            }
        }
        f64::NAN
    }

    /// Pairs of a latency in microseconds and how often it occurred.
    pub(crate) fn to_json(&self) -> Value {
        self.0.iter().map(|(nanos, count)| json!([*nanos as f64 / 1e3, count])).collect()
    }
}
