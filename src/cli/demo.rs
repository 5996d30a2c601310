//! `demo`: a server and an initiator on two ends of one virtual cable.

#[cfg(feature = "cas")]
mod archive;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::link::{fastest, open_link};
use crate::client::{Client, Disk, Kind, Load, LoadReport, Order, Range, Recorder};
use crate::clock::now;
use crate::config::{Config, ServerConfig, StorageConfig, TargetConfig};
use crate::engine::ConfigString;
use crate::link::{Link as _, LinkKind};
use crate::protocol::Address;
use crate::server::{LiveLink, Server, Status};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// The target that is shown.
const ADDRESS: Address = Address::new(1, 0);
/// Its size: large enough for a steady rate, small enough for a second.
const SIZE: Sectors = Sectors(32 << 11);
/// Requests in flight.
const DEPTH: usize = 16;
/// How long each random load runs.
const LOAD_TIME: Duration = Duration::from_secs(1);

/// Show a server and an initiator at work on the two ends of a veth pair
///
/// Makes an image in a temporary directory, serves it on one interface, finds it through the other,
/// writes it, reads it back, compares, and prints what was done with latencies; then two disks in an
/// archive, which keeps what they have in common once, a snapshot, and the way back. Then it goes on
/// serving until Ctrl-C, with a status line; not so when standard input is not a terminal. Exits
/// with 1 when anything is not as it should be. `make run` prepares the interfaces.
#[derive(Debug, clap::Args)]
pub(super) struct DemoCmd {
    /// The interface to serve on
    #[arg(long, value_name = "NAME")]
    server_interface: String,
    /// The interface to use it from, at the other end of the cable
    #[arg(long, value_name = "NAME")]
    client_interface: String,
    /// How to move frames
    #[arg(long, value_enum, default_value_t = fastest())]
    link: LinkKind,
}

impl DemoCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
        let link = open_link(&self.client_interface, self.link)?;
        let directory = TemporaryDirectory::new()?;
        let mut server = self.start(&directory.0)?;
        let mut errors = Vec::new();
        match self.show(&mut server, link, &directory.0, out) {
            Ok(()) => {
                out.flush()?;
                if io::stdin().is_terminal() {
                    follow(&server, &mut signals);
                }
            }
            // What was shown is not as it should be, unless nobody looks any more.
            Err(error) if super::is_broken_pipe(&error) => return Err(error),
            Err(error) => errors.push(error),
        }
        errors.extend(server.stop().into_iter().map(anyhow::Error::from));
        errors.iter().for_each(super::complain);
        Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(super::NO) })
    }

    fn start(&self, directory: &Path) -> anyhow::Result<Server> {
        let mut config = ServerConfig::new(vec![self.server_interface.clone()]);
        config.link = self.link;
        config.state_dir = directory.join("state");
        let storage = StorageConfig::File {
            path: directory.join("disk.img"),
            size: Some(SIZE),
            window: crate::config::Window::default(),
        };
        let mut targets = vec![TargetConfig::new(ADDRESS, storage)];
        #[cfg(feature = "cas")]
        targets.extend(archive::targets(directory));
        Server::start(Config::new(config, targets)).map_err(|errors| {
            let errors =
                errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error)));
            anyhow::Error::msg(errors.collect::<Vec<_>>().join("\n"))
        })
    }

    fn show(
        &self,
        #[cfg_attr(not(feature = "cas"), expect(unused_variables, reason = "there is no archive"))]
        server: &mut Server,
        link: LiveLink,
        directory: &Path,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let mtu = link.info().mtu;
        let mut client = Client::new(link);
        writeln!(
            out,
            "serving {ADDRESS}, an image of {} MiB, on {} by {}; asking through {}, MTU {mtu}\n",
            SIZE.0 >> 11,
            self.server_interface,
            self.link,
            self.client_interface,
        )?;
        writeln!(out, "{:<34} {:>10} {:>10} {:>9} {:>9}", "", "per second", "MB/s", "p50", "p99")?;

        let begin = now();
        let found = client.discover(Address::EVERYONE, Duration::from_millis(300), true)?;
        ensure!(!found.is_empty(), "no target was found");
        let disk = client.open(ADDRESS)?;
        ensure!(disk.size() == SIZE, "the target says it has {} sectors", disk.size());
        let sectors = disk.sectors_per_frame;
        line(out, &format!("found {ADDRESS}, {sectors} sectors a frame"), begin)?;

        let begin = now();
        let label = ConfigString::from_octets(b"demonstration").context("a short string")?;
        client.set_config_string(ADDRESS, label.as_slice(), false)?;
        ensure!(client.config_string(ADDRESS)? == label, "the config string was not kept");
        line(out, "set and read the config string", begin)?;

        copy(&mut client, &disk, directory, out)?;
        for (kind, sectors) in [(Kind::Write, 8), (Kind::Read, 8), (Kind::Read, 2)] {
            random(&mut client, &disk, kind, sectors.min(disk.sectors_per_frame), out)?;
        }
        refuse(&mut client, &disk, out)?;
        #[cfg(feature = "cas")]
        archive::show(server, &mut client, out)?;
        writeln!(out, "\neverything is as it should be")?;
        Ok(())
    }
}

/// Writes the whole disk, reads it back, and compares it and the image with what was written.
fn copy(
    client: &mut Client,
    disk: &Disk,
    directory: &Path,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let data = noise();
    let range = Range { disk, lba: Lba(0), count: SIZE, depth: DEPTH };
    let begin = now();
    client.write(&range, &mut data.as_slice(), &mut |_| ())?;
    rate(out, "wrote all of it, durable", begin)?;
    let begin = now();
    let mut back = Vec::with_capacity(data.len());
    client.read(&range, &mut back, &mut |_| ())?;
    rate(out, "read all of it", begin)?;
    ensure!(back == data, "what was read is not what was written");
    let image = fs::read(directory.join("disk.img")).context("cannot read the image")?;
    ensure!(image == data, "the image does not hold what was acknowledged");
    Ok(())
}

/// Octets without pattern, so that a misplaced sector shows: xorshift64, any seed but zero.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = SIZE.bytes().unwrap_or(0) / 8;
    (0..words)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

/// Random requests for a second.
fn random(
    client: &mut Client,
    disk: &Disk,
    kind: Kind,
    sectors: u8,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let load = Load {
        disk,
        depth: DEPTH,
        sectors,
        write_percent: if kind == Kind::Write { 100 } else { 0 },
        order: Order::Random,
        lba: Lba(0),
        count: SIZE,
        duration: LOAD_TIME,
        requests: u64::MAX,
        seed: 1,
        verify: false,
    };
    let mut latencies =
        Latencies(Histogram::new_with_bounds(1, 60_000_000_000, 3).context("a histogram")?);
    let report = client.load(&load, &mut latencies)?;
    check_report(&report)?;
    let bytes = usize::from(sectors) * SECTOR_SIZE;
    let what = match kind {
        Kind::Read => format!("random reads of {bytes} bytes"),
        Kind::Write => format!("random durable writes of {bytes} bytes"),
    };
    let percentile = |quantile| format!("{} us", latencies.0.value_at_quantile(quantile) / 1_000);
    writeln!(
        out,
        "{what:<34} {:>10.0} {:>10.1} {:>9} {:>9}",
        report.per_second(),
        report.octets_per_second() / 1e6,
        percentile(0.5),
        percentile(0.99),
    )?;
    Ok(())
}

fn check_report(report: &LoadReport) -> anyhow::Result<()> {
    match &report.first_error {
        Some(error) => bail!("a request failed: {error}"),
        None if report.unanswered > 0 => bail!("{} requests got no answer", report.unanswered),
        None => Ok(()),
    }
}

/// Asks for what is not there: the target has to say so.
fn refuse(client: &mut Client, disk: &Disk, out: &mut impl Write) -> anyhow::Result<()> {
    let begin = now();
    let mut beyond = disk.clone();
    beyond.facts.size = Sectors(SIZE.0 + 1);
    let range = Range { disk: &beyond, lba: Lba(SIZE.0), count: Sectors(1), depth: 1 };
    match client.read(&range, &mut Vec::new(), &mut |_| ()) {
        Ok(()) => bail!("a sector past the end was read"),
        Err(crate::client::ClientError::Ata { .. }) => {
            line(out, "refused a sector past the end", begin)
        }
        Err(error) => Err(error.into()),
    }
}

fn line(out: &mut impl Write, what: &str, begin: crate::clock::Instant) -> anyhow::Result<()> {
    let took = now().since(begin);
    Ok(writeln!(out, "{what:<34} {:>42}", format!("{:.1} ms", took.as_secs_f64() * 1e3))?)
}

fn rate(out: &mut impl Write, what: &str, begin: crate::clock::Instant) -> anyhow::Result<()> {
    let seconds = now().since(begin).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate is approximate")]
    let rate = SIZE.bytes().unwrap_or(0) as f64 / 1e6 / seconds;
    Ok(writeln!(out, "{what:<34} {:>10} {rate:>10.1}", "")?)
}

/// Latencies in nanoseconds.
struct Latencies(Histogram<u64>);

impl Recorder for Latencies {
    fn completed(&mut self, _: Kind, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Serves on, and shows how much, until a signal comes.
fn follow(server: &Server, signals: &mut Signals) {
    let (over, wait) = channel();
    let handle = signals.handle();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = signals.forever().next();
            let _ = over.send(()); // who waits may have failed
        });
        let bar = indicatif::ProgressBar::new_spinner();
        while wait.recv_timeout(Duration::from_millis(250)) == Err(RecvTimeoutError::Timeout) {
            bar.set_message(status_line(&server.status()));
            bar.tick();
        }
        bar.finish_and_clear();
        handle.close();
    });
}

fn status_line(status: &Status) -> String {
    let received: u64 = status.links.iter().map(|link| link.counters.received).sum();
    let dropped: u64 = status.links.iter().map(|link| link.counters.dropped).sum();
    let read: u64 = status.targets.iter().map(|target| target.counters.sectors_read).sum();
    let written: u64 = status.targets.iter().map(|target| target.counters.sectors_written).sum();
    format!(
        "serving {ADDRESS}: {received} frames, {} MiB read, {} MiB written, {dropped} dropped; \
         Ctrl-C ends",
        read >> 11,
        written >> 11
    )
}

/// A directory that goes with its owner.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("aoe-server-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}
