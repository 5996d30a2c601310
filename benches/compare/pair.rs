//! A load generator for two targets at once: a thread that keeps so many reads in flight at each, and
//! takes note of how long those of the first took.
//!
//! Two processes would not do: where they share a CPU, each waits for the other's time to pass, and
//! that is what the latencies would tell of.

use std::process::{self, Output};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aoe_server::client::{Client, Disk};
use aoe_server::clock::{self, Instant};
use aoe_server::engine::initiator::{Answers, Ask, Initiator, Reply, RequestId, Timing};
use aoe_server::link::{BATCH_FRAMES, FramePool, Link, LinkKind};
use aoe_server::protocol::ata::status;
use aoe_server::protocol::{Address, AtaArg, AtaFields, AtaFlags, Command, FrameWriter, Opcode};
use aoe_server::server::{LiveOptions, open_link};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::generator::Measurement;
use crate::statistics::Latencies;
use crate::workbench::{GENERATOR_CPU, on_cpu};
use aoe_server::units::SECTOR_SIZE;

/// Sectors of each read.
const SECTORS: u8 = 2;
/// Reads that can be in flight.
const IN_FLIGHT: usize = 256;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to ask for.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct PairAsk {
    /// Reads in flight at the first target
    #[arg(long)]
    pub(crate) depth: usize,
    /// Reads in flight at the second target
    #[arg(long)]
    pub(crate) beside: usize,
    /// Read the second from first to last
    #[arg(long)]
    pub(crate) in_order: bool,
    /// For how long
    #[arg(long)]
    pub(crate) seconds: f64,
}

/// The command line of the generator.
#[derive(Debug, clap::Parser)]
pub(crate) struct PairCommand {
    #[command(flatten)]
    pub(crate) ask: PairAsk,
    pub(crate) interface: String,
    pub(crate) first: Address,
    pub(crate) second: Address,
}

/// Reads from one target.
struct Stream {
    disk: Disk,
    depth: usize,
    in_order: bool,
    /// Where the next read is, or what chance has come to.
    next: u64,
    in_flight: usize,
    nanos: Histogram<u64>,
}

impl Stream {
    fn new(disk: Disk, depth: usize, in_order: bool) -> anyhow::Result<Self> {
        let nanos = Histogram::new_with_max(60_000_000_000, 3)?;
        Ok(Self { disk, depth, in_order, next: 1, in_flight: 0, nanos })
    }

    fn ask(&self) -> Ask {
        Ask {
            destination: self.disk.mac,
            address: self.disk.address,
            command: Command::ATA,
            answers: Answers::One,
            patience: PATIENCE,
            transmissions: 8,
        }
    }

    fn draw(&mut self) -> AtaFields {
        let units = self.disk.size().0 / u64::from(SECTORS);
        let unit = if self.in_order {
            self.next += 1;
            self.next % units
        } else {
            // Marsaglia's xorshift.
            self.next ^= self.next << 13;
            self.next ^= self.next >> 7;
            self.next ^= self.next << 17;
            self.next % units
        };
        let mut lba = [0; 6];
        lba.copy_from_slice(&(unit * u64::from(SECTORS)).to_le_bytes()[..6]);
        let (flags, command) = (AtaFlags::EXTENDED, Opcode::READ_EXT.0);
        AtaFields { flags, feature: 0, sector_count: SECTORS, command, lba }
    }
}

/// The generator.
struct Pair {
    link: Box<dyn Link + Send>,
    initiator: Initiator<IN_FLIGHT>,
    streams: [Stream; 2],
    /// By a read's place: the stream it is of, and what it asks.
    reads: [(usize, AtaFields); IN_FLIGHT],
    failed: u64,
}

/// Generates the load, and prints what came of it.
///
/// # Errors
/// When the interface cannot be used, or a target is not there.
pub(crate) fn run(command: &PairCommand) -> anyhow::Result<()> {
    let PairCommand { ask, interface, first, second } = command;
    let open = || open_link(LinkKind::AfPacket, interface, &LiveOptions::default());
    let mut client = Client::new(open()?);
    let streams = [
        Stream::new(client.open(*first)?, ask.depth, false)?,
        Stream::new(client.open(*second)?, ask.beside, ask.in_order)?,
    ];
    drop(client);
    ensure!(ask.depth + ask.beside <= IN_FLIGHT, "that is too much at once");
    let none = AtaFields {
        flags: AtaFlags::default(),
        feature: 0,
        sector_count: 0,
        command: 0,
        lba: [0; 6],
    };
    let mut initiator = Initiator::new(process::id(), Timing::default());
    initiator.set_window(IN_FLIGHT);
    let (reads, failed) = ([(0, none); IN_FLIGHT], 0);
    let mut pair = Pair { link: open()?, initiator, streams, reads, failed };
    let seconds = pair.generate(Duration::try_from_secs_f64(ask.seconds)?)?;
    println!("{}", pair.report(seconds));
    Ok(())
}

impl Pair {
    /// Tells how many seconds it took.
    fn generate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        let (mut received, mut sending) =
            (FramePool::new(BATCH_FRAMES), FramePool::new(BATCH_FRAMES));
        let (started, mut taken) = (clock::now(), 0);
        loop {
            let now = clock::now();
            let mut batch = received.batch();
            batch.clear();
            self.link.receive(&mut batch)?;
            let mac = self.link.info().mac;
            for frame in batch.frames() {
                if let Some(reply) = self.initiator.receive(frame, mac, now) {
                    let (of, _) = self.reads[reply.id.index()];
                    self.streams[of].in_flight -= 1;
                    self.streams[of].nanos.saturating_record(reply.waited.as_nanos() as u64);
                    self.failed += u64::from(!is_good(&reply));
                }
            }
            while let Some(lost) = self.initiator.tick(now) {
                let (of, _) = self.reads[lost.id.index()];
                self.streams[of].in_flight -= 1;
                self.failed += 1;
            }
            if now.since(started) < duration {
                self.refill(now);
            } else if self.initiator.in_flight() == 0 {
                return Ok(now.since(started).as_secs_f64());
            }
            let mut batch = sending.batch();
            if taken >= batch.len() {
                batch.clear();
                taken = 0;
            }
            let Self { initiator, reads, .. } = self;
            while let Some(buffer) = batch.next_buffer() {
                let argument = |id: RequestId, writer: &mut FrameWriter<'_>| {
                    writer.ata(&reads[id.index()].1);
                };
                let Some(len) = initiator.next_frame(now, mac, argument, buffer) else { break };
                batch.commit(len);
            }
            if !batch.is_empty() {
                taken += self.link.send(&batch, taken)?;
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        for (of, stream) in self.streams.iter_mut().enumerate() {
            while stream.in_flight < stream.depth {
                let Some(id) = self.initiator.submit(stream.ask(), now) else { return };
                self.reads[id.index()] = (of, stream.draw());
                stream.in_flight += 1;
            }
        }
    }

    fn report(&mut self, seconds: f64) -> Value {
        let [first, second] = &self.streams;
        let rate = |stream: &Stream| stream.nanos.len() as f64 / seconds;
        let latencies: Value = first
            .nanos
            .iter_recorded()
            .map(|step| {
                let upper = first.nanos.highest_equivalent(step.value_iterated_to());
                json!([upper, step.count_since_last_iteration()])
            })
            .collect();
        json!({
            "rate": rate(first),
            "rate_beside": rate(second),
            "again": self.initiator.counters().retransmissions,
            "failed": self.failed,
            "dropped": self.link.counters().dropped,
            "nanos": latencies,
        })
    }
}

/// Whether the read succeeded, and all of it is there.
fn is_good(reply: &Reply<'_>) -> bool {
    let ata = AtaArg::parse(reply.frame.header.arg());
    reply.refused.is_none()
        && ata.is_ok_and(|ata| {
            ata.status() & status::FAILURE == 0
                && ata.data().len() >= usize::from(SECTORS) * SECTOR_SIZE
        })
}

/// A run of the generator over the interface called `interface`.
pub(crate) fn command(
    interface: &str,
    targets: &[String],
    ask: &PairAsk,
) -> anyhow::Result<process::Command> {
    let mut command = on_cpu(GENERATOR_CPU, &std::env::current_exe()?);
    command.args(["pair", "--depth", &ask.depth.to_string(), "--beside", &ask.beside.to_string()]);
    command.args(["--seconds", &ask.seconds.to_string()]);
    command.args(ask.in_order.then_some("--in-order"));
    command.arg(interface).args(targets);
    Ok(command)
}

/// What the generator printed of the first target, and the rate of reads from the second.
pub(crate) fn measurement(output: &Output) -> anyhow::Result<(Measurement, f64)> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the load generator ended {}: {complaint}", output.status))?;
    let number = |key: &str| report[key].as_f64().with_context(|| format!("no {key}"));
    let count = |key: &str| report[key].as_u64().with_context(|| format!("no {key}"));
    let mut latencies = Latencies::default();
    for step in report["nanos"].as_array().into_iter().flatten() {
        if let (Some(nanos), Some(count)) = (step[0].as_u64(), step[1].as_u64()) {
            latencies.add(nanos, count);
        }
    }
    let rate = number("rate")?;
    let measured = Measurement {
        rate,
        reads_per_second: rate,
        writes_per_second: 0.0,
        again: count("again")?,
        failed: count("failed")?,
        dropped: count("dropped")?,
        latencies,
    };
    Ok((measured, number("rate_beside")?))
}
