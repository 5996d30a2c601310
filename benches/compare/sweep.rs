//! The sections that measure servers at one depth after the other.

use crate::generator::Ask;
use crate::options::{Options, Part};
use crate::section::{Cell, Section};
use crate::server::{
    AF_PACKET, ANSWERER, JOURNAL, JOURNAL_ON_ONE, Kind, OURS, Ours, PCAP, Server, Spec, VBLADE,
    VBLADE_SYNC, VOLATILE,
};
use crate::workbench::{IMAGE_LEN, Workbench, lay_cable, say, take_cable_away};

/// Requests in flight.
pub(crate) const DEPTHS: &[u16] = &[1, 2, 4, 8, 16, 32, 64];

/// What was promised for a write by whom.
const WRITES: &str = "A durable write is acknowledged when it would survive power loss: by ours as \
    it is configured without further words, by vblade only with `-s`, which opens the image with \
    `O_SYNC`. The two that are volatile, vblade without `-s` and ours with `durability = \
    \"volatile\"`, acknowledge what is in the page cache; they are compared with each other only. With a journal \
    only the loop is bound to CPU 0, and the scheduler may put the threads that journal and write on \
    that of the generator, too; where all are on one CPU, that is said. \
    After each measurement the image is synced, off the clock.";
/// Where the answerer is told of.
const READS: &str = "Every image is in the page cache. The answerer sends canned octets back and \
    checks nothing: it is the limit of wire, kernel and generator together.";

/// A section of this kind.
pub(crate) struct Sweep {
    name: &'static str,
    title: String,
    about: String,
    mtu: usize,
    sectors: u8,
    write_percent: u8,
    depths: &'static [u16],
    specs: Vec<Spec>,
}

/// All that are wanted.
pub(crate) fn wanted(options: &Options) -> Vec<Sweep> {
    let mut sweeps = Vec::new();
    let sizes = [(1500, 2, "2 sectors, MTU 1500"), (9000, 16, "16 sectors, MTU 9000")];
    for (mtu, sectors, size) in sizes {
        let large = mtu == 9000;
        if options.wants(Part::Reads) {
            sweeps.push(Sweep {
                name: if large { "read-16" } else { "read-2" },
                title: format!("Reads of {size}"),
                about: READS.into(),
                mtu,
                sectors,
                write_percent: 0,
                depths: DEPTHS,
                specs: vec![VBLADE, PCAP, AF_PACKET, ANSWERER],
            });
        }
        if options.wants(Part::Writes) {
            let name = if large { "write-16" } else { "write-2" };
            sweeps.push(writing(name, format!("Writes of {size}"), mtu, sectors, 100));
        }
        if options.wants(Part::Mix) {
            let name = if large { "mix-16" } else { "mix-2" };
            let title = format!("Seven reads to three writes of {size}");
            sweeps.push(writing(name, title, mtu, sectors, 30));
        }
    }
    if options.wants(Part::Durable) {
        let title = "Durable writes of 4 KiB, MTU 9000, 64 in flight".to_string();
        let mut sweep = writing("durable", title, 9000, 8, 100);
        sweep.specs.retain(|spec| spec.vblade == VBLADE_SYNC.name);
        sweep.specs.push(JOURNAL_ON_ONE);
        sweep.depths = &[64];
        sweeps.push(sweep);
    }
    if options.wants(Part::Idle) {
        sweeps.push(idle());
    }
    sweeps
}

fn writing(name: &'static str, title: String, mtu: usize, sectors: u8, write_percent: u8) -> Sweep {
    let (about, depths) = (WRITES.into(), DEPTHS);
    let (pcap, af_packet) = (PCAP.durable(), AF_PACKET.durable());
    let specs = vec![VBLADE_SYNC, pcap, af_packet, JOURNAL, VBLADE, VOLATILE];
    Sweep { name, title, about, mtu, sectors, write_percent, depths, specs }
}

fn idle() -> Sweep {
    let polling = |name, poll| {
        let kind = Kind::Ours(Ours { poll, ..OURS });
        Spec { name, kind, vblade: "" }
    };
    Sweep {
        name: "idle",
        title: "With nothing to do: spin, adaptive, block".into(),
        about: "Reads of 2 sectors, MTU 1500, over `af-packet`, by what `poll` says.".into(),
        mtu: 1500,
        sectors: 2,
        write_percent: 0,
        depths: &[1, 4, 16, 64],
        specs: vec![
            polling("spin", "spin"),
            polling("adaptive", "adaptive"),
            polling("block", "block"),
        ],
    }
}

impl Sweep {
    /// Starts all servers, and measures each of them at each depth once a round.
    pub(crate) fn measure(&self, workbench: &Workbench) -> anyhow::Result<Section> {
        let mut servers = Vec::new();
        for (number, spec) in (1..).zip(&self.specs) {
            lay_cable(number, self.mtu)?;
            let images = match spec.kind {
                Kind::Answerer => Vec::new(),
                _ => vec![workbench.image(&format!("{number}.img"), IMAGE_LEN)?],
            };
            let server = Server::start(workbench, *spec, number, images)?;
            server.warm_up(workbench, &server.targets())?;
            server.pause()?;
            servers.push(server);
        }
        let mut cells = Vec::new();
        for depth in self.depths {
            for spec in &self.specs {
                let base = Some(spec.vblade).filter(|base| *base != spec.name);
                cells.push(Cell::new(spec.name, *depth, base));
            }
        }
        for round in 0..workbench.rounds {
            say(&format!("{}: round {} of {}", self.title, round + 1, workbench.rounds));
            self.round(workbench, &servers, round.into(), &mut cells)?;
        }
        for server in servers {
            let number = server.number;
            drop(server);
            take_cable_away(number)?;
        }
        let (name, title, about) = (self.name, self.title.clone(), self.about.clone());
        Ok(Section { name, title, about, axis: "in flight", cells })
    }

    /// Each round starts with another server.
    fn round(
        &self,
        workbench: &Workbench,
        servers: &[Server],
        round: usize,
        cells: &mut [Cell],
    ) -> anyhow::Result<()> {
        for (row, depth) in self.depths.iter().enumerate() {
            let (sectors, write_percent) = (self.sectors, self.write_percent);
            let ask = Ask { depth: *depth, sectors, write_percent, ..Ask::default() };
            for turn in 0..servers.len() {
                let column = (turn + round) % servers.len();
                let server = &servers[column];
                let measured = server.measure(workbench, &server.targets(), &ask)?;
                cells[row * servers.len() + column].measured.push(measured);
            }
        }
        Ok(())
    }
}
