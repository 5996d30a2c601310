//! A hot target beside one whose sectors have to be fetched from the disk.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::generator::Measurement;
use crate::pair::{self, PairAsk};
use crate::section::{Cell, Section};
use crate::server::{AF_PACKET, Server, Spec, VBLADE};
use crate::workbench::{IMAGE_LEN, Workbench, forget, lay_cable, output, say, take_cable_away};

/// Octets of the image that is cold, too many to be read in a second.
const COLD_LEN: usize = 2 << 30;
/// Requests in flight for the hot target.
pub(crate) const HOT_DEPTH: u16 = 4;
/// Requests in flight for the target beside it.
const BESIDE_DEPTH: usize = 16;
/// What the others are compared with: nothing beside it.
pub(crate) const ALONE: &str = "alone";

/// What the target beside the hot one is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Sectors that are in memory: what the second load costs by itself.
    Hot,
    ColdInOrder,
    ColdAtRandom,
}

const SITUATIONS: [(Beside, &str); 4] = [
    (Beside::Nothing, ALONE),
    (Beside::Hot, "beside hot reads"),
    (Beside::ColdInOrder, "beside cold reads in order"),
    (Beside::ColdAtRandom, "beside cold reads at random"),
];

/// The name of a series: of one server in one situation.
pub(crate) fn series(server: &str, situation: &str) -> String {
    format!("{server}, {situation}")
}

/// Latencies of the hot target in each situation.
pub(crate) fn run(workbench: &Workbench) -> anyhow::Result<Section> {
    let mut cells = Vec::new();
    let specs = [AF_PACKET, VBLADE];
    for spec in specs {
        for (beside, situation) in SITUATIONS {
            let alone = series(spec.name, ALONE);
            let base = (beside != Beside::Nothing).then_some(alone.as_str());
            cells.push(Cell::new(&series(spec.name, situation), HOT_DEPTH, base));
        }
    }
    for round in 0..workbench.rounds {
        say(&format!("hot beside cold: round {} of {}", round + 1, workbench.rounds));
        for (row, (beside, _)) in SITUATIONS.into_iter().enumerate() {
            for (number, spec) in (0..).zip(specs) {
                let cell = &mut cells[number * SITUATIONS.len() + row];
                let (measured, note) = measure(workbench, spec, number + 1, beside)?;
                cell.measured.push(measured);
                cell.note = note;
            }
        }
    }
    Ok(Section {
        name: "cold",
        title: "A hot target beside a cold one".into(),
        about: "Reads of 2 sectors, MTU 1500, 4 in flight, from a target of 128 MiB in the page \
            cache: alone, beside 16 in flight for a second target that is in memory, and beside \
            as many for one that has to be fetched from the disk, of 2 GiB and dropped from the \
            page cache before. One thread generates the load for both targets and measures the \
            first. Both targets of ours are in one process; of vblade each has a process of its \
            own, so that there the kernel's scheduler has to keep them apart. All that servers \
            do is done on CPU 0, the fetching of pages, too."
            .into(),
        axis: "in flight",
        cells,
    })
}

/// Starts a server, so that no map of it keeps the cold image in memory, and measures once.
fn measure(
    workbench: &Workbench,
    spec: Spec,
    number: usize,
    beside: Beside,
) -> anyhow::Result<(Measurement, String)> {
    workbench.go_on()?;
    let hot = workbench.image(&format!("{number}.img"), IMAGE_LEN)?;
    let second = match beside {
        Beside::Nothing | Beside::Hot => workbench.image("beside.img", IMAGE_LEN)?,
        Beside::ColdInOrder | Beside::ColdAtRandom => {
            let cold = workbench.image("cold.img", COLD_LEN)?;
            forget(&cold)?;
            cold
        }
    };
    let before = in_memory(&second);
    lay_cable(number, 1500)?;
    let server = Server::start(workbench, spec, number, vec![hot, second.clone()])?;
    let targets = server.targets();
    server.warm_up(workbench, &targets[..1])?;
    if beside == Beside::Hot {
        server.warm_up(workbench, &targets[1..])?;
    }
    let ask = PairAsk {
        depth: HOT_DEPTH.into(),
        beside: if beside == Beside::Nothing { 0 } else { BESIDE_DEPTH },
        in_order: beside == Beside::ColdInOrder,
        seconds: workbench.seconds,
    };
    let output = pair::command(&server.interface(), &targets, &ask)?.output()?;
    let measured = pair::measurement(&output).context(spec.name);
    let after = in_memory(&second);
    drop(server);
    take_cable_away(number)?;
    let (measured, rate) = measured?;
    let note = if beside == Beside::Nothing {
        String::new()
    } else {
        format!("beside: {rate:.0} reads/s; in memory {before} MiB before, {after} after")
    };
    Ok((measured, note))
}

/// How many MiB of a file are in the page cache.
fn in_memory(path: &Path) -> u64 {
    let mut fincore = Command::new("fincore");
    fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(path);
    output(&mut fincore).parse().unwrap_or(0) >> 20
}
