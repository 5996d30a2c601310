//! What the load generator can do by itself: over a link in memory, to a responder that does
//! nothing, and to the answerer.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use aoe_server::client::{Client, Kind, Load, Order, Recorder};
use aoe_server::link::memory::{MemoryLink, MemoryOptions};
use aoe_server::link::{BATCH_FRAMES, FRAME_CAPACITY, FramePool, Link as _};
use aoe_server::protocol::{Address, MacAddr};
use aoe_server::units::Lba;
use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::canned::{Canned, HEAD};
use crate::generator::{Ask, Measurement};
use crate::section::{Cell, Section};
use crate::server::{ANSWERER, Server};
use crate::statistics::Latencies;
use crate::sweep::DEPTHS;
use crate::workbench::{GENERATOR_CPU, SERVER_CPU, Workbench, lay_cable, say, take_cable_away};

const TARGET: Address = Address::new(1, 0);
const RESPONDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// MTU and sectors of a request.
const SIZES: [(usize, u8); 2] = [(1500, 2), (9000, 16)];

/// Over memory and to the answerer, at every depth.
pub(crate) fn run(workbench: &Workbench) -> anyhow::Result<Section> {
    let mut answerers = Vec::new();
    for (number, (mtu, _)) in (1..).zip(SIZES) {
        lay_cable(number, mtu)?;
        let server = Server::start(workbench, ANSWERER, number, Vec::new())?;
        server.pause()?;
        answerers.push(server);
    }
    let mut cells = Vec::new();
    for depth in DEPTHS {
        for (_, sectors) in SIZES {
            let memory = format!("memory, {sectors} sectors");
            cells.push(Cell::new(&memory, *depth, None));
            cells.push(Cell::new(&format!("answerer, {sectors} sectors"), *depth, Some(&memory)));
        }
    }
    for round in 0..workbench.rounds {
        say(&format!("the generator: round {} of {}", round + 1, workbench.rounds));
        let mut next = cells.iter_mut();
        for depth in DEPTHS {
            for (server, (mtu, sectors)) in answerers.iter().zip(SIZES) {
                let ask = Ask { depth: *depth, sectors, ..Ask::default() };
                let measured = over_memory(mtu, &ask, workbench.seconds)?;
                next.next().context("a cell for each")?.measured.push(measured);
                let measured = server.measure(workbench, &server.targets(), &ask)?;
                next.next().context("a cell for each")?.measured.push(measured);
            }
        }
    }
    for server in answerers {
        let number = server.number;
        drop(server);
        take_cable_away(number)?;
    }
    Ok(Section {
        name: "ceiling",
        title: "What the load generator can do".into(),
        about: "The same generator over a link in memory, which copies each frame twice but makes \
            no system call, to a responder on the other CPU that sends canned octets back; and \
            over a cable to the answerer. Where a server comes near the first, the generator \
            bounds it."
            .into(),
        axis: "in flight",
        cells,
    })
}

/// One measurement over memory.
fn over_memory(mtu: usize, ask: &Ask, seconds: f64) -> anyhow::Result<Measurement> {
    let macs = [MacAddr([2, 0, 0, 0, 0, 1]), RESPONDER];
    let options = MemoryOptions { mtu, depth: 256, macs, descriptors: false };
    let (near, far) = MemoryLink::pair(&options)?;
    let responder = thread::spawn(move || respond(far, mtu));
    let ask = ask.clone();
    let generator = thread::spawn(move || generate(near, &ask, seconds));
    let measured = generator.join().map_err(|_| anyhow!("the generator panicked"))?;
    // The link ended with the generator.
    responder.join().map_err(|_| anyhow!("the responder panicked"))??;
    measured
}

fn bind_to(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).context("cannot bind a thread to a CPU")
}

/// Answers until the other end is gone.
fn respond(mut link: MemoryLink, mtu: usize) -> anyhow::Result<()> {
    bind_to(SERVER_CPU)?;
    let canned = Canned::new(RESPONDER, TARGET, mtu);
    let (mut requests, mut replies) = (FramePool::new(BATCH_FRAMES), FramePool::new(BATCH_FRAMES));
    let mut buffers = replies.batch();
    while let Some(buffer) = buffers.next_buffer() {
        *buffer = canned.buffer();
        buffers.commit(FRAME_CAPACITY);
    }
    loop {
        let (mut received, mut answers) = (requests.batch(), replies.batch());
        received.clear();
        answers.clear();
        if link.receive(&mut received).is_err() {
            return Ok(());
        }
        for request in received.frames() {
            let Some(reply) = answers.next_buffer() else { break };
            // Nobody pads frames in memory.
            let mut head = [0; HEAD];
            let len = request.len().min(HEAD);
            head[..len].copy_from_slice(&request[..len]);
            let len = canned.turn_round(&head, reply);
            answers.commit(len);
        }
        let mut sent = 0;
        while sent < answers.len() {
            match link.send(&answers, sent) {
                Ok(count) => sent += count,
                Err(_) => return Ok(()),
            }
        }
    }
}

/// Takes note of latencies as `aoe-server bench` does.
struct Nanos(Histogram<u64>);

impl Recorder for Nanos {
    fn completed(&mut self, _: Kind, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}

fn generate(link: MemoryLink, ask: &Ask, seconds: f64) -> anyhow::Result<Measurement> {
    bind_to(GENERATOR_CPU)?;
    let mut client = Client::new(Box::new(link));
    client.set_spin(Duration::from_secs(1));
    let disk = client.open(TARGET)?;
    let load = Load {
        disk: &disk,
        depth: ask.depth.into(),
        sectors: ask.sectors,
        write_percent: ask.write_percent,
        order: Order::Random,
        lba: Lba(0),
        count: disk.size(),
        duration: Duration::try_from_secs_f64(seconds)?,
        requests: u64::MAX,
        seed: 1,
        verify: false,
    };
    let mut nanos = Nanos(Histogram::new_with_max(60_000_000_000, 3)?);
    let report = client.load(&load, &mut nanos)?;
    let mut latencies = Latencies::default();
    for step in nanos.0.iter_recorded() {
        let upper = nanos.0.highest_equivalent(step.value_iterated_to());
        latencies.add(upper, step.count_since_last_iteration());
    }
    Ok(Measurement {
        rate: report.per_second(),
        reads_per_second: report.per_second(),
        writes_per_second: 0.0,
        again: report.retransmissions,
        failed: report.errors + report.unanswered,
        dropped: client.link_counters().dropped,
        latencies,
    })
}
