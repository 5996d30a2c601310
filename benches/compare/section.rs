//! What was measured: series of cells over one axis, and how they compare.

use serde_json::{Value, json};

use crate::generator::Measurement;
use crate::statistics::{Latencies, median, summary};

/// One server in one situation, measured once a round.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) series: String,
    /// Where it stands on the section's axis.
    pub(crate) at: u16,
    /// What its rates are compared with: another series.
    pub(crate) base: Option<String>,
    pub(crate) measured: Vec<Measurement>,
    /// What else is to be told.
    pub(crate) note: String,
}

impl Cell {
    pub(crate) fn new(series: &str, at: u16, base: Option<&str>) -> Self {
        let (series, base) = (series.to_string(), base.map(str::to_string));
        Self { series, at, base, measured: Vec::new(), note: String::new() }
    }

    /// Of each round, what `of` takes from it.
    pub(crate) fn each(&self, of: impl Fn(&Measurement) -> f64) -> Vec<f64> {
        self.measured.iter().map(of).collect()
    }

    pub(crate) fn rate(&self) -> f64 {
        median(&self.each(|measured| measured.rate))
    }

    /// The median over the rounds of the latency that the fraction `of` does not exceed.
    pub(crate) fn latency_us(&self, of: f64) -> f64 {
        median(&self.each(|measured| measured.percentile_us(of)))
    }

    pub(crate) fn sum(&self, of: impl Fn(&Measurement) -> u64) -> u64 {
        self.measured.iter().map(of).sum()
    }

    fn to_json(&self) -> Value {
        let mut all = Latencies::default();
        for measured in &self.measured {
            all.merge(&measured.latencies);
        }
        let of_latency = |of| summary(&self.each(|measured| measured.percentile_us(of)));
        json!({
            "series": self.series,
            "at": self.at,
            "compared_with": self.base,
            "note": self.note,
            "acknowledgements_per_second": summary(&self.each(|measured| measured.rate)),
            "p50_us": of_latency(0.5),
            "p99_us": of_latency(0.99),
            "p999_us": of_latency(0.999),
            "rounds": self.measured.iter().map(Measurement::to_json).collect::<Vec<_>>(),
            "histogram_us": all.to_json(),
        })
    }
}

/// A part of the comparison.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    /// What files are called after it.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    /// What was done, in sentences.
    pub(crate) about: String,
    /// What the cells are spread over.
    pub(crate) axis: &'static str,
    pub(crate) cells: Vec<Cell>,
}

impl Section {
    pub(crate) fn cell(&self, series: &str, at: u16) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.series == series && cell.at == at)
    }

    /// The names of the series, in order.
    pub(crate) fn series(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.series.as_str()) {
                names.push(&cell.series);
            }
        }
        names
    }

    /// Where cells are on the axis, in order.
    pub(crate) fn places(&self) -> Vec<u16> {
        let mut places: Vec<u16> = self.cells.iter().map(|cell| cell.at).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The median over the rounds of how `of` of a cell compares with that of the series `base` in
    /// the same round.
    pub(crate) fn ratio(
        &self,
        cell: &Cell,
        base: &str,
        of: impl Fn(&Measurement) -> f64,
    ) -> Option<f64> {
        let base = self.cell(base, cell.at)?;
        let pairs = cell.measured.iter().zip(&base.measured);
        let ratios: Vec<f64> = pairs.map(|(one, other)| of(one) / of(other)).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "title": self.title,
            "about": self.about,
            "axis": self.axis,
            "cells": self.cells.iter().map(Cell::to_json).collect::<Vec<_>>(),
        })
    }
}
