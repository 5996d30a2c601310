//! `replay`: the requests of a capture, put to a configuration on the capture's own clock.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::NO;
use crate::clock::{Instant, now};
use crate::config::Config;
use crate::link::replay::{ReplayLink, ReplayOptions, infer_mac};
use crate::link::savefile::Reader;
use crate::protocol::MacAddr;
use crate::protocol::print::FrameLine;
use crate::server::{Admission, Control, Listener, PortSet, StorageMeans, Stores, open_target};

/// How long storage may take for one frame, in real time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Put the requests of a capture to the targets of a configuration
///
/// Time is the capture's: the same capture gives the same replies, however long they take. Replies
/// and announcements can be written to another capture, and compared with an earlier one; with
/// --expect, the exit code is 1 when they differ, and the first difference is printed.
///
/// Replayed writes are real: use copies of images, or targets with backend = "mem". Settings that
/// initiators change (config strings, masks, reservations) are not kept.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayCmd {
    /// The capture with the requests, in the classic pcap format; replies in it are skipped
    capture: PathBuf,
    /// The configuration with the targets; of its [server] table nothing is used
    #[arg(short, long, value_name = "FILE", env = "AOE_SERVER_CONFIG")]
    config: PathBuf,
    /// Write the replies to this capture
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Compare the replies with this capture
    #[arg(short, long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The address of the server; the one that most requests of the capture went to when left out
    #[arg(long)]
    mac: Option<MacAddr>,
    /// The MTU of the link
    #[arg(long, default_value_t = 9000)]
    mtu: usize,
}

type Link = ReplayLink<BufReader<File>, BufWriter<File>>;

impl ReplayCmd {
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let temporary;
        let replies = if let Some(path) = &self.write {
            path.as_path()
        } else {
            temporary = Temporary::new()?;
            &temporary.0
        };
        let stores = Stores::new();
        let mut listener = self.prepare(replies, &stores)?;
        let replayed = replay(&mut listener)?;
        let sent = finish(listener, replies, &stores)?;
        writeln!(out, "{replayed} requests replayed, {sent} frames sent")?;
        let Some(expect) = &self.expect else { return Ok(ExitCode::SUCCESS) };
        match compare(expect, replies)? {
            None => {
                writeln!(out, "as expected")?;
                Ok(ExitCode::SUCCESS)
            }
            Some(difference) => {
                writeln!(out, "{difference}")?;
                Ok(ExitCode::from(NO))
            }
        }
    }

    /// A loop that serves the targets on the capture.
    fn prepare(&self, replies: &Path, stores: &Stores) -> anyhow::Result<Listener<Link>> {
        let config = Config::load(&self.config)?;
        let mac = match self.mac {
            Some(mac) => mac,
            None => infer_mac(&mut self.capture()?)?.with_context(|| {
                format!("{}: no request to one station; say --mac", self.capture.display())
            })?,
        };
        let replies = BufWriter::new(
            File::create(replies).with_context(|| format!("cannot write {}", replies.display()))?,
        );
        let options = ReplayOptions { mac, mtu: self.mtu, ..ReplayOptions::default() };
        let link = ReplayLink::with_replies(self.capture()?, replies, options)
            .context("cannot write the replies")?;
        let name = self.capture.display().to_string();
        let (mut listener, control) =
            Listener::new([(name, link)], |_| None).context("cannot make a wake-up descriptor")?;
        admit(&mut listener, &control, &config, stores)?;
        Ok(listener)
    }

    fn capture(&self) -> anyhow::Result<Reader<BufReader<File>>> {
        open(&self.capture)
    }
}

fn open(path: &Path) -> anyhow::Result<Reader<BufReader<File>>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    Reader::new(BufReader::new(file)).with_context(cannot)
}

/// Has the loop serve every target of the configuration, at the time zero of the capture.
fn admit(
    listener: &mut Listener<Link>,
    control: &Control,
    config: &Config,
    stores: &Stores,
) -> anyhow::Result<()> {
    let means = StorageMeans { stores: stores.clone(), ..StorageMeans::new(control.waker()) };
    for target in &config.targets {
        let address = target.address;
        let export = open_target(target, means.clone(), None)
            .with_context(|| format!("target {address}"))?;
        let answer = control.add(export, PortSet::ALL, Duration::ZERO)?;
        settle(listener, Instant::ZERO)?;
        match answer.recv_timeout(Duration::ZERO) {
            Ok((Admission::Served, _)) => {}
            Ok((admission, _)) => bail!("target {address} is not served: {admission:?}"),
            Err(_) => bail!("target {address} is not served"),
        }
    }
    Ok(())
}

/// Replays the capture to its end, one moment after the other.
fn replay(listener: &mut Listener<Link>) -> anyhow::Result<u64> {
    while let Some(moment) = listener.link_mut(0).and_then(ReplayLink::step) {
        settle(listener, moment)?;
    }
    let link = listener.link_mut(0).context("the loop has a link")?;
    let skipped = link.skipped();
    if skipped.incomplete > 0 {
        log::warn!("{} requests are not whole in the capture: skipped", skipped.incomplete);
    }
    let counters = crate::link::Link::counters(link);
    // What ends a capture before its end shows when the loop asks for more.
    let mut pool = crate::link::FramePool::new(1);
    let end = crate::link::Link::receive(link, &mut pool.batch());
    ensure!(end == Err(crate::link::LinkError::Ended), "the capture is damaged");
    Ok(counters.received)
}

/// Gives the loop turns, all at one moment of the capture, until nothing waits.
fn settle(listener: &mut Listener<Link>, moment: Instant) -> anyhow::Result<()> {
    let by = now().after(PATIENCE);
    while listener.turn(moment) || !listener.is_idle() {
        ensure!(now() < by, "storage has not answered for {} s", PATIENCE.as_secs());
        std::thread::yield_now(); // storage may need this core
    }
    Ok(())
}

/// Ends the loop, closes its disks and completes the capture of the replies.
fn finish(mut listener: Listener<Link>, replies: &Path, stores: &Stores) -> anyhow::Result<u64> {
    let link = listener.link_mut(0).context("the loop has a link")?;
    let sent = crate::link::Link::counters(link).sent;
    let (exports, links) = listener.into_parts();
    drop(exports);
    if let Some(error) = stores.close().into_iter().next() {
        return Err(error.into());
    }
    for link in links {
        link.finish().with_context(|| format!("cannot write {}", replies.display()))?;
    }
    Ok(sent)
}

/// Says where two captures differ first; times are not compared.
fn compare(expected: &Path, found: &Path) -> anyhow::Result<Option<String>> {
    let (mut expected, mut found) = (open(expected)?, open(found)?);
    for number in 1_u64.. {
        let (expected, found) = (expected.next()?, found.next()?);
        let (expected, found) = match (expected, found) {
            (None, None) => break,
            (Some(expected), None) => (expected.octets, &[][..]),
            (None, Some(found)) => (&[][..], found.octets),
            (Some(expected), Some(found)) => (expected.octets, found.octets),
        };
        if expected != found {
            return Ok(Some(describe(number, expected, found)));
        }
    }
    Ok(None)
}

fn describe(number: u64, expected: &[u8], found: &[u8]) -> String {
    let line = |frame: &[u8]| match frame {
        [] => "no frame".to_owned(),
        frame => format!("{} ({} octets)", FrameLine::new(frame), frame.len()),
    };
    let same = expected.iter().zip(found).take_while(|(expected, found)| expected == found);
    format!(
        "frame {number} differs, from octet {} on\n  expected: {}\n  found:    {}",
        same.count(),
        line(expected),
        line(found)
    )
}

/// A file for replies that nobody wants to keep.
struct Temporary(PathBuf);

impl Temporary {
    /// Makes the file. Its name can be guessed, so that one that is there already is somebody
    /// else's, or leads to what is.
    fn new() -> anyhow::Result<Self> {
        let mut attempt = 0;
        loop {
            let name = format!("aoe-server-replay-{}-{attempt}.pcap", std::process::id());
            let path = std::env::temp_dir().join(name);
            match File::options().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 100 => {
                    attempt += 1;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()));
                }
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // If it stays, it takes up some space until the directory is cleared.
        let _ = std::fs::remove_file(&self.0);
    }
}
