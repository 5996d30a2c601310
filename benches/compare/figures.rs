//! The figures that this server is to reach, and whether it does.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cold::{self, HOT_DEPTH};
use crate::generator::Measurement;
use crate::section::Section;
use crate::server::{AF_PACKET, ANSWERER, JOURNAL, PCAP, VBLADE, VBLADE_SYNC};
use crate::targets;

/// A figure to reach.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) aim: Aim,
    /// `None` when it was not measured, in this run.
    pub(crate) measured: Option<f64>,
    pub(crate) unit: &'static str,
}

/// What it should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.aim {
            Aim::AtLeast(least) => measured >= least,
            Aim::AtMost(most) => measured <= most,
        })
    }

    /// The aim, with its unit.
    pub(crate) fn aim(&self) -> String {
        let unit = self.unit;
        match self.aim {
            Aim::AtLeast(least) => format!(">= {least} {unit}"),
            Aim::AtMost(most) => format!("<= {most} {unit}"),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let (aim, met) = (self.aim(), self.met());
        json!({ "what": self.what, "aim": aim, "measured": self.measured, "met": met })
    }
}

fn rate(measured: &Measurement) -> f64 {
    measured.rate
}

fn p50(measured: &Measurement) -> f64 {
    measured.percentile_us(0.5)
}

fn p99(measured: &Measurement) -> f64 {
    measured.percentile_us(0.99)
}

/// Looks up what was measured.
struct Looker<'s> {
    sections: &'s [Section],
    figures: Vec<Figure>,
}

impl Looker<'_> {
    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A figure that is a ratio between two series at one place of a section.
    fn ratio(
        &mut self,
        what: String,
        aim: Aim,
        place: (&str, u16),
        series: [&str; 2],
        of: fn(&Measurement) -> f64,
    ) {
        let ratio =
            |section: &Section| section.ratio(section.cell(series[0], place.1)?, series[1], of);
        let measured = self.section(place.0).and_then(ratio);
        self.figures.push(Figure { what, aim, measured, unit: "x" });
    }

    fn reads(&mut self) {
        use Aim::{AtLeast, AtMost};
        let small = "read-2";
        for (depth, than_vblade) in [(16, 1.35), (64, 1.6)] {
            let what = |who: &str, base: &str| {
                format!("read 2 sectors, MTU 1500, {depth} in flight: {who} / {base}")
            };
            let (ours, place) = (AF_PACKET.name, (small, depth));
            let base = ANSWERER.name;
            self.ratio(what(ours, base), AtLeast(0.9), place, [ours, base], rate);
            let base = VBLADE.name;
            self.ratio(what(ours, base), AtLeast(than_vblade), place, [ours, base], rate);
            self.ratio(what(PCAP.name, base), AtLeast(1.0), place, [PCAP.name, base], rate);
        }
        for (base, most) in [(ANSWERER.name, 1.15), (VBLADE.name, 0.42)] {
            let what = format!("read 2 sectors, 1 in flight, p50 latency: af-packet / {base}");
            self.ratio(what, AtMost(most), (small, 1), [AF_PACKET.name, base], p50);
        }
        for depth in [16, 64] {
            for (base, least) in [(ANSWERER.name, 0.9), (VBLADE.name, 1.15)] {
                let what =
                    format!("read 16 sectors, MTU 9000, {depth} in flight: af-packet / {base}");
                let series = [AF_PACKET.name, base];
                self.ratio(what, AtLeast(least), ("read-16", depth), series, rate);
            }
        }
    }

    fn durable(&mut self) {
        for (ours, least) in [(AF_PACKET.name, 5.0), (JOURNAL.name, 20.0)] {
            let what = format!("durable write, 4 KiB, 64 in flight: {ours} / vblade -s");
            let series = [ours, VBLADE_SYNC.name];
            self.ratio(what, Aim::AtLeast(least), ("durable", 64), series, rate);
        }
    }

    /// Here the two stand at different places.
    fn targets(&mut self) {
        let ratio = |section: &Section| {
            let one = section.cell(targets::ALL, 1)?.each(rate);
            let eight = section.cell(targets::ALL, 8)?.each(rate);
            let ratios: Vec<_> = eight.iter().zip(one).map(|(eight, one)| eight / one).collect();
            Some(crate::statistics::median(&ratios))
        };
        let measured = self.section("targets").and_then(ratio);
        let what = "reads from 8 targets at once: 8 targets / 1 target".to_string();
        self.figures.push(Figure { what, aim: Aim::AtLeast(0.95), measured, unit: "x" });
    }

    fn cold(&mut self) {
        let name = |situation| cold::series(AF_PACKET.name, situation);
        let alone = name(cold::ALONE);
        for situation in ["beside cold reads in order", "beside cold reads at random"] {
            let what = format!("p99 latency of a hot target: {situation} / alone");
            let series = [&*name(situation), &*alone];
            self.ratio(what, Aim::AtMost(2.0), ("cold", HOT_DEPTH), series, p99);
        }
    }
}

/// All figures, those included that were not measured.
pub(crate) fn of(sections: &[Section]) -> Vec<Figure> {
    let mut looker = Looker { sections, figures: Vec::new() };
    looker.reads();
    looker.durable();
    looker.targets();
    looker.figures.push(Figure {
        what: "engine: READ from request to reply, without the copy, as `cargo bench --bench \
            engine` last measured it"
            .into(),
        aim: Aim::AtMost(60.0),
        measured: engine_nanos(),
        unit: "ns",
    });
    looker.cold();
    looker.figures
}

/// The median that criterion has left behind.
fn engine_nanos() -> Option<f64> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let text = fs::read(target.join("criterion/engine/read_no-copy/new/estimates.json")).ok()?;
    let estimates: Value = serde_json::from_slice(&text).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}
