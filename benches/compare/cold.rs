//! A hot target beside one whose sectors have to be fetched from the disk.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::generator::{Ask, Measurement, command};
use crate::section::{Cell, Section};
use crate::server::{AF_PACKET, Server, Spec, VBLADE};
use crate::workbench::{
    GENERATOR_CPU, IMAGE_LEN, Workbench, forget, lay_cable, output, say, take_cable_away,
};

/// Octets of the image that is cold, too many to be read in a second.
const COLD_LEN: usize = 2 << 30;
/// Requests in flight for the hot target.
pub(crate) const HOT_DEPTH: u16 = 4;
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
            cache: alone, beside another load generator (16 in flight) that reads from memory, and \
            beside one that reads from the disk, from a target of 2 GiB that was dropped from the \
            page cache before. Both targets of ours are in one process; of vblade each has a \
            process of its own, so that there the kernel's scheduler has to keep them apart. With \
            two CPUs both generators share one, and the reads beside that hit memory tell what \
            that costs."
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
    // From before the measurement to behind its end.
    let ask = Ask { depth: 16, sectors: 2, more_seconds: 0.1, ..Ask::default() };
    let ask = Ask { sequential: beside == Beside::ColdInOrder, ..ask };
    let cpus = std::thread::available_parallelism()?.get();
    let cpu = GENERATOR_CPU + usize::from(cpus > 2);
    let other = (beside != Beside::Nothing).then(|| {
        let mut other = command(workbench, cpu, &server.interface(), &targets[1..], &ask);
        // It has to share the CPU, so it sleeps when it waits.
        other.args(["--spin-us", "0"]).stdout(std::process::Stdio::piped()).spawn()
    });
    let ask = Ask { depth: HOT_DEPTH, sectors: 2, ..Ask::default() };
    let measured = server.load(workbench, &targets[..1], &ask);
    let mut note = String::new();
    if let Some(other) = other {
        let other = Measurement::of(&other?.wait_with_output()?).context("the reads beside it")?;
        let (rate, after) = (other.rate, in_memory(&second));
        note = format!(
            "beside: {rate:.0} reads/s, {} sent again; in memory {before} MiB before, {after} after",
            other.again
        );
    }
    drop(server);
    take_cable_away(number)?;
    Ok((measured?, note))
}

/// How many MiB of a file are in the page cache.
fn in_memory(path: &Path) -> u64 {
    let mut fincore = Command::new("fincore");
    fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(path);
    output(&mut fincore).parse().unwrap_or(0) >> 20
}
