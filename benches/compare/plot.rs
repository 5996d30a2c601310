//! Plots as SVG: throughput, median and 99th percentile of latency, beside each other.

use anyhow::Context as _;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::section::{Cell, Section};

type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;

const PANEL: (u32, u32) = (470, 380);
const TITLE: u32 = 40;
const LEGEND_ROW: u32 = 24;
/// Names of series in a row of the legend.
const LEGEND_COLUMNS: usize = 4;
/// Beyond this ratio between largest and smallest an axis is logarithmic.
const WIDE: f64 = 30.0;
/// Colours that people with most kinds of colour blindness tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(0, 0, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(120, 120, 120),
];

/// Those that appear in several sections have the same colour in each.
const OF_SERVERS: [(&str, usize); 7] = [
    ("vblade", 0),
    ("pcap", 1),
    ("af-packet", 2),
    ("answerer", 3),
    ("af-packet + journal", 4),
    ("vblade -s", 5),
    ("af-packet volatile", 6),
];

/// One of the three pictures.
struct Panel {
    title: &'static str,
    y_title: &'static str,
    of: fn(&Cell) -> f64,
    logarithmic: bool,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "throughput",
        y_title: "thousand requests per second",
        of: |cell| cell.rate() / 1e3,
        logarithmic: false,
    },
    Panel {
        title: "median latency",
        y_title: "microseconds",
        of: |cell| cell.latency_us(0.5),
        logarithmic: true,
    },
    Panel {
        title: "99th percentile of latency",
        y_title: "microseconds",
        of: |cell| cell.latency_us(0.99),
        logarithmic: true,
    },
];

/// The plot of a section.
pub(crate) fn draw(section: &Section) -> anyhow::Result<String> {
    let series = section.series();
    let rows = series.len().div_ceil(LEGEND_COLUMNS) as u32;
    let size = (3 * PANEL.0, TITLE + PANEL.1 + rows * LEGEND_ROW + 10);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, rest) = root.split_vertically(TITLE);
        head.draw(&Text::new(section.title.clone(), (20, 14), ("sans-serif", 20)))?;
        let (body, foot) = rest.split_vertically(PANEL.1);
        for (panel, area) in PANELS.iter().zip(body.split_evenly((1, 3))) {
            draw_panel(section, panel, &area)
                .with_context(|| format!("cannot draw {}", section.name))?;
        }
        legend(&series, &foot)?;
        root.present()?;
    }
    // Some viewers insist on the newline.
    svg.push('\n');
    Ok(svg)
}

fn legend(series: &[&str], area: &Area<'_>) -> anyhow::Result<()> {
    for (index, name) in series.iter().enumerate() {
        let column = (index % LEGEND_COLUMNS) as i32;
        let x = 70 + column * (3 * PANEL.0 as i32 - 70) / LEGEND_COLUMNS as i32;
        let y = 8 + (index / LEGEND_COLUMNS) as i32 * LEGEND_ROW as i32;
        let colour = colour(index, name);
        area.draw(&PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3)))?;
        area.draw(&Circle::new((x + 12, y), 4, colour.filled()))?;
        area.draw(&Text::new((*name).to_string(), (x + 32, y - 7), ("sans-serif", 15)))?;
    }
    Ok(())
}

/// The colour of the series called `name`, which has this `index` in its section.
fn colour(index: usize, name: &str) -> RGBColor {
    let known = OF_SERVERS.iter().find(|(server, _)| *server == name);
    COLOURS[known.map_or(index, |(_, colour)| *colour) % COLOURS.len()]
}

/// Draws lines over the axis of the section; bars where that has one place only.
fn draw_panel(section: &Section, panel: &Panel, area: &Area<'_>) -> anyhow::Result<()> {
    let values = section.cells.iter().map(panel.of).filter(|value| value.is_finite());
    let (low, high) =
        values.fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    let low = low.min(high).max(1e-3);
    let (places, bars) = (section.places(), section.places().len() == 1);
    let x_end = if bars { section.series().len() as f64 - 0.4 } else { places.len() as f64 - 0.7 };
    let x_range = if bars { -0.6..x_end } else { -0.3..x_end };
    let mut builder = ChartBuilder::on(area);
    builder.caption(panel.title, ("sans-serif", 16)).margin(10);
    builder.x_label_area_size(if bars { 10 } else { 42 }).y_label_area_size(62);
    let x_label = |x: &f64| {
        let near = (x - x.round()).abs() < 0.01 && *x > -0.1 && !bars;
        let place = near.then(|| places.get(x.round() as usize)).flatten();
        place.map_or_else(String::new, u16::to_string)
    };
    let labels = if bars { 0 } else { places.len() };
    // The same twice: the two kinds of axis are two types.
    macro_rules! draw_on {
        ($y_range:expr, $floor:expr) => {{
            let mut chart = builder.build_cartesian_2d(x_range, $y_range)?;
            let mut mesh = chart.configure_mesh();
            mesh.x_labels(labels).x_label_formatter(&x_label).y_label_formatter(&y_label);
            mesh.x_desc(if bars { "" } else { axis(section.axis) }).y_desc(panel.y_title);
            mesh.axis_desc_style(("sans-serif", 15)).label_style(("sans-serif", 13));
            mesh.light_line_style(WHITE).bold_line_style(BLACK.mix(0.12)).draw()?;
            for (index, name) in section.series().into_iter().enumerate() {
                let points = points(section, panel, name, &places);
                let colour = colour(index, name);
                if bars {
                    let x = index as f64;
                    let bar = points.first().map(|(_, y)| [(x - 0.35, $floor), (x + 0.35, *y)]);
                    let bar = bar.map(|corners| Rectangle::new(corners, colour.filled()));
                    chart.draw_series(bar)?;
                    continue;
                }
                let marks = points.iter().map(|point| Circle::new(*point, 4, colour.filled()));
                chart.draw_series(marks)?;
                chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            }
        }};
    }
    if panel.logarithmic || (!bars && high / low > WIDE) {
        // Bars that stand on a floor of its own each could not be compared.
        let floor = if bars { low.min(1.0) } else { low / 1.5 };
        let ceiling = high * 1.5;
        draw_on!((floor..ceiling).log_scale(), floor);
    } else {
        draw_on!(0.0..high * 1.1, 0.0);
    }
    Ok(())
}

/// Where the cells of a series are.
fn points(section: &Section, panel: &Panel, name: &str, places: &[u16]) -> Vec<(f64, f64)> {
    let cell = |(x, place): (usize, &u16)| {
        let y = section.cell(name, *place).map(panel.of)?;
        y.is_finite().then_some((x as f64, y))
    };
    places.iter().enumerate().filter_map(cell).collect()
}

/// What an axis counts.
fn axis(axis: &str) -> &str {
    if axis == "in flight" { "requests in flight" } else { axis }
}

/// A number without digits that tell nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "so the plotter calls it")]
fn y_label(value: &f64) -> String {
    if *value >= 10.0 || *value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
