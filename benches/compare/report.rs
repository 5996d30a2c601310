//! Everything as Markdown.

use std::fmt::{self, Write as _};

use serde_json::Value;

use crate::figures::Figure;
use crate::section::{Cell, Section};
use crate::server::ANSWERER;
use crate::statistics::quantile;

/// All tables; with `pictures`, each below its plot.
pub(crate) fn page(
    conditions: &Value,
    sections: &[Section],
    figures: &[Figure],
    pictures: bool,
) -> Result<String, fmt::Error> {
    let mut out = String::new();
    head(conditions, &mut out)?;
    for section in sections {
        writeln!(out, "\n## {}\n\n{}\n", section.title, section.about)?;
        if pictures {
            writeln!(out, "![{}]({}.svg)\n", section.title, section.name)?;
        }
        table(section, &mut out)?;
    }
    writeln!(out, "\n## Figures to reach\n")?;
    table_of_figures(figures, &mut out)?;
    Ok(out)
}

fn head(conditions: &Value, out: &mut String) -> fmt::Result {
    let text = |key: &str| match &conditions[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    writeln!(out, "# Comparison\n")?;
    writeln!(
        out,
        "Made by `make compare`: {} rounds of {} s each. {} CPUs ({}), Linux {}, images on {}; load \
         average at the start {}. {}; vblade {}.\n",
        text("rounds"),
        text("seconds"),
        text("cpus"),
        text("cpu"),
        text("kernel"),
        text("images_on"),
        text("load_average"),
        text("aoe_server"),
        text("vblade"),
    )?;
    writeln!(
        out,
        "Servers run on CPU 0, the load generator on CPU 1; each server has a virtual cable and an \
         image of its own, which is read once before, and all but the one that is measured are \
         stopped. Rates and latencies \
         are medians over the rounds (rates with their quartiles), ratios medians of the ratios \
         within a round. Believe ratios, not rates."
    )
}

fn table(section: &Section, out: &mut String) -> fmt::Result {
    let with_answerer = section.series().contains(&ANSWERER.name);
    let with_base = section.cells.iter().any(|cell| cell.base.is_some());
    let notes = section.cells.iter().any(|cell| !cell.note.is_empty());
    write!(out, "| {} | | requests/s | quartiles | p50 | p99 | p99.9 |", section.axis)?;
    let mut columns = 5;
    for (wanted, title) in [
        (with_base && section.name != "cold", "rate / that of"),
        (section.name == "cold", "p99 / that of"),
        (with_answerer, "rate / answerer"),
        (true, "sent again, lost, failed"),
        (notes, "last round"),
    ] {
        if wanted {
            write!(out, " {title} |")?;
            columns += 1;
        }
    }
    writeln!(out, "\n| --: | --- |{}", " --: |".repeat(columns))?;
    for place in section.places() {
        for cell in section.cells.iter().filter(|cell| cell.at == place) {
            row(section, cell, [with_base, with_answerer, notes], out)?;
        }
    }
    Ok(())
}

fn row(
    section: &Section,
    cell: &Cell,
    [with_base, with_answerer, notes]: [bool; 3],
    out: &mut String,
) -> fmt::Result {
    let rates = cell.each(|measured| measured.rate);
    write!(out, "| {} | {} | {:.0} |", cell.at, cell.series, cell.rate())?;
    write!(out, " {:.0} to {:.0} |", quantile(&rates, 0.25), quantile(&rates, 0.75))?;
    for of in [0.5, 0.99, 0.999] {
        write!(out, " {} |", micros(cell.latency_us(of)))?;
    }
    if with_base {
        let base = cell.base.as_deref().unwrap_or_default();
        let ratio = if section.name == "cold" {
            section.ratio(cell, base, |measured| measured.percentile_us(0.99))
        } else {
            section.ratio(cell, base, |measured| measured.rate)
        };
        match ratio {
            Some(ratio) => write!(out, " {ratio:.2} {base} |")?,
            None => write!(out, " |")?,
        }
    }
    if with_answerer {
        match section.ratio(cell, ANSWERER.name, |measured| measured.rate) {
            Some(ratio) => write!(out, " {ratio:.2} |")?,
            None => write!(out, " |")?,
        }
    }
    let counts = [
        cell.sum(|measured| measured.again),
        cell.sum(|measured| measured.dropped),
        cell.sum(|measured| measured.failed),
    ];
    write!(out, " {}, {}, {} |", counts[0], counts[1], counts[2])?;
    if notes {
        write!(out, " {} |", cell.note)?;
    }
    writeln!(out)
}

/// A latency in microseconds with as many digits as it is worth.
fn micros(micros: f64) -> String {
    if micros < 100.0 { format!("{micros:.1} us") } else { format!("{micros:.0} us") }
}

pub(crate) fn table_of_figures(figures: &[Figure], out: &mut String) -> fmt::Result {
    writeln!(out, "| what | aim | measured | met |")?;
    writeln!(out, "| --- | --: | --: | --- |")?;
    for figure in figures {
        let met = match figure.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let measured = figure.measured.map(|value| format!("{value:.2} {}", figure.unit));
        let measured = measured.unwrap_or_default();
        writeln!(out, "| {} | {} | {measured} | {met} |", figure.what, figure.aim())?;
    }
    Ok(())
}
