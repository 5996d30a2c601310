//! Compares this server with vblade, and with the limit of wire, kernel and load generator together.
//!
//! Servers have CPU 0, the load generator (`aoe-server bench`) has CPU 1; each server has a virtual
//! cable and an image of its own, in a network namespace where nothing else is. Each round measures
//! every server once at every depth, one right after the other and each time another one first, so
//! that whatever else the machine does hits all alike. All servers but the one that is measured are
//! stopped: one that polls would take the CPU from the others.
//!
//! What it leaves out: real network cards, and machines with more than one initiator.
//!
//! It runs for many minutes, and so only when it is told to: `make compare`, or `scripts/compare`,
//! which builds what it needs.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program, and reports")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "what is measured is approximate and not negative; sizes are small"
)]

mod answerer;
mod canned;
mod ceiling;
mod cold;
mod figures;
mod generator;
mod options;
mod pair;
mod plot;
mod report;
mod section;
mod server;
mod statistics;
mod sweep;
mod targets;
mod workbench;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use serde_json::json;

use self::options::{Options, Part};
use self::pair::PairCommand;
use self::section::Section;
use self::workbench::{Workbench, say};

const USAGE: &str = "compare: this takes many minutes and wants the machine to itself, so it runs \
    only when asked to: make compare, or scripts/compare --help";

fn main() -> anyhow::Result<()> {
    // cargo adds --bench to whatever it runs.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["answerer", interface, target] => {
            let target = target.parse().context("this is no target's name")?;
            answerer::run(interface, target)
        }
        ["pair", ..] => pair::run(&PairCommand::parse_from(words)),
        ["run", ..] => compare(&Options::parse_from(words).settled()),
        _ => {
            println!("{USAGE}");
            Ok(())
        }
    }
}

fn compare(options: &Options) -> anyhow::Result<()> {
    if !options.seconds.is_finite() || options.seconds <= 0.0 {
        bail!("--seconds takes a time");
    }
    let workbench = Workbench::new(options)?;
    let mut conditions = workbench.conditions();
    let mut sections = Vec::new();
    // What was measured is reported even if the rest fails.
    let result = measure(&workbench, options, &mut sections);
    conditions["load_average_at_the_end"] = workbench.conditions()["load_average"].take();
    let figures = figures::of(&sections);
    print!("{}", report::page(&conditions, &sections, &figures, false)?);
    let all = json!({
        "conditions": conditions,
        "sections": sections.iter().map(Section::to_json).collect::<Vec<_>>(),
        "figures": figures.iter().map(figures::Figure::to_json).collect::<Vec<_>>(),
    });
    write(&options.json, &all.to_string())?;
    say(&format!("everything, also as JSON, is in {}", options.json.display()));
    if let Some(directory) = &options.plots {
        for section in &sections {
            write(&directory.join(format!("{}.svg", section.name)), &plot::draw(section)?)?;
        }
        let page = report::page(&conditions, &sections, &figures, true)?;
        write(&directory.join("README.md"), &page)?;
        say(&format!("plots are in {}", directory.display()));
    }
    result
}

/// A section that is no sweep.
type Measure = fn(&Workbench) -> anyhow::Result<Section>;

fn measure(
    workbench: &Workbench,
    options: &Options,
    sections: &mut Vec<Section>,
) -> anyhow::Result<()> {
    for sweep in sweep::wanted(options) {
        sections.push(sweep.measure(workbench)?);
    }
    let others: [(Part, Measure); 3] =
        [(Part::Targets, targets::run), (Part::Cold, cold::run), (Part::Ceiling, ceiling::run)];
    for (part, run) in others {
        if options.wants(part) {
            sections.push(run(workbench)?);
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
