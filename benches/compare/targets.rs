//! Many targets in one process.

use crate::generator::Ask;
use crate::section::{Cell, Section};
use crate::server::{AF_PACKET, Server};
use crate::workbench::{Workbench, lay_cable, say, take_cable_away};

/// How many targets a process has.
const COUNTS: [u16; 3] = [1, 8, 64];
/// Octets of each image.
const LEN: usize = 4 << 20;
/// The series that are compared.
pub(crate) const ONE: &str = "one of them";
pub(crate) const ALL: &str = "all of them";

/// Reads from one of many targets while the others have nothing to do, and from all.
pub(crate) fn run(workbench: &Workbench) -> anyhow::Result<Section> {
    let mut servers = Vec::new();
    for (number, count) in (1..).zip(COUNTS) {
        lay_cable(number, 1500)?;
        let image = |index| workbench.image(&format!("{number}-{index}.img"), LEN);
        let images = (0..count).map(image).collect::<anyhow::Result<_>>()?;
        let server = Server::start(workbench, AF_PACKET, number, images)?;
        server.warm_up(workbench, &server.targets())?;
        server.pause()?;
        servers.push(server);
    }
    let mut cells = Vec::new();
    for count in COUNTS {
        cells.push(Cell::new(ONE, count, None));
        cells.push(Cell::new(ALL, count, None));
    }
    for round in 0..workbench.rounds {
        say(&format!("many targets: round {} of {}", round + 1, workbench.rounds));
        for turn in 0..servers.len() {
            let row = (turn + usize::from(round)) % servers.len();
            let (server, count) = (&servers[row], u64::from(COUNTS[row]));
            let ask = Ask { depth: 64, sectors: 2, ..Ask::default() };
            let one = server.targets().split_off(usize::from(COUNTS[row]) - 1);
            cells[2 * row].measured.push(server.measure(workbench, &one, &ask)?);
            // As many octets in all, so that the caches have the same to hold.
            let ask = Ask { length: Some(LEN as u64 / 512 / count), ..ask };
            cells[2 * row + 1].measured.push(server.measure(workbench, &server.targets(), &ask)?);
        }
    }
    for server in servers {
        let number = server.number;
        drop(server);
        take_cable_away(number)?;
    }
    Ok(Section {
        name: "targets",
        title: "Many targets in one process".into(),
        about: "Reads of 2 sectors, MTU 1500, 64 in flight, over `af-packet`, to the last of so \
            many targets while the others have nothing to do, and to all of them at random, from \
            one load generator. Either way 4 MiB are read, in all."
            .into(),
        axis: "targets",
        cells,
    })
}
