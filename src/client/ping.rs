//! How fast, and how surely, a target answers.

use std::time::Duration;

use super::discover::identify_command;
use super::{Client, ClientError, IN_FLIGHT, Job};
use crate::clock;
use crate::engine::initiator::{Ask, Reply, RequestId, Unanswered};
use crate::protocol::{Address, Command, ConfigFields, FrameWriter, MacAddr};

/// What a target is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PingKind {
    /// Its config: answered by the AoE layer alone.
    #[default]
    Config,
    /// Its IDENTIFY page: half a kilobyte, and answered even while others hold the target.
    Identify,
}

/// The answer to one request of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// The number of the request, from zero.
    pub sequence: u64,
    /// Who answered; `None` when nobody did in time.
    pub answer: Option<(MacAddr, Duration)>,
}

/// What came of a ping.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u64,
    /// All round trips, the shortest first. A request is sent once; one without an answer is lost.
    pub round_trips: Vec<Duration>,
    /// Answers that came twice, which tells of a second server or a loop in the network.
    pub duplicates: u64,
}

impl PingReport {
    /// Requests that were not answered.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.round_trips.len() as u64)
    }

    /// The round trip that `percent` of all do not exceed; `None` when there was none.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let last = self.round_trips.len().checked_sub(1)?;
        // The nearest rank: the smallest that at least so many do not exceed.
        let rank = (self.round_trips.len() * percent.min(100)).div_ceil(100);
        self.round_trips.get(rank.saturating_sub(1).min(last)).copied()
    }

    /// The mean round trip; `None` when there was none.
    pub fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.round_trips.len()).ok()?;
        self.round_trips.iter().sum::<Duration>().checked_div(count)
    }
}

impl Client {
    /// Sends `count` requests to a target, one every `interval`, and tells of each when it is
    /// answered or, after the client's patience, lost. When `progress` answers `false`, it ends early.
    ///
    /// The requests go to the station that is found first, but for the first kind: they are sent to
    /// everybody, so that a second server at the address shows as duplicates.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] when the target cannot be found, [`ClientError::Link`] when the
    /// interface cannot be used.
    pub fn ping(
        &mut self,
        address: Address,
        kind: PingKind,
        count: u64,
        interval: Duration,
        progress: &mut dyn FnMut(&Pong) -> bool,
    ) -> Result<PingReport, ClientError> {
        if address.is_wildcard() {
            return Err(ClientError::Wildcard { address });
        }
        let (destination, command) = match kind {
            PingKind::Config => (MacAddr::BROADCAST, Command::CONFIG),
            PingKind::Identify => {
                let found = self.locate(address)?;
                (found.first().map_or(MacAddr::BROADCAST, |found| found.mac), Command::ATA)
            }
        };
        let ask = Ask { transmissions: 1, ..self.ask(destination, address, command) };
        self.begin(IN_FLIGHT)?;
        let duplicates = self.initiator.counters().duplicates;
        let mut job = Pinger {
            address,
            kind,
            sequences: [0; IN_FLIGHT],
            report: PingReport::default(),
            progress,
            go_on: true,
        };
        let mut due = clock::now();
        while job.go_on && (job.report.sent < count || self.initiator.in_flight() > 0) {
            let more = job.report.sent < count;
            // When the window is full of lost requests, the next one is late.
            if more
                && clock::now() >= due
                && let Some(id) = self.initiator.submit(ask, clock::now())
            {
                if let Some(sequence) = job.sequences.get_mut(id.index()) {
                    *sequence = job.report.sent;
                }
                job.report.sent += 1;
                due = due.after(interval);
            }
            self.turn(&mut job, more.then_some(due))?;
        }
        let mut report = job.report;
        report.round_trips.sort_unstable();
        // One that was given up early was not lost.
        report.sent -= self.initiator.in_flight() as u64;
        self.initiator.abandon();
        report.duplicates = self.initiator.counters().duplicates - duplicates;
        Ok(report)
    }
}

struct Pinger<'p> {
    address: Address,
    kind: PingKind,
    sequences: [u64; IN_FLIGHT],
    report: PingReport,
    progress: &'p mut dyn FnMut(&Pong) -> bool,
    go_on: bool,
}

impl Pinger<'_> {
    fn tell(&mut self, id: RequestId, answer: Option<(MacAddr, Duration)>) {
        let sequence = self.sequences.get(id.index()).copied().unwrap_or_default();
        if !(self.progress)(&Pong { sequence, answer }) {
            self.go_on = false;
        }
    }
}

impl Job for Pinger<'_> {
    fn argument(&mut self, _: RequestId, writer: &mut FrameWriter<'_>) {
        match self.kind {
            PingKind::Config => writer.config(&ConfigFields::default(), &[]),
            PingKind::Identify => writer.ata(&identify_command(self.address).fields),
        };
    }

    fn reply(&mut self, reply: &Reply<'_>) {
        // A refusal, too, is an answer.
        self.report.round_trips.push(reply.waited);
        self.tell(reply.id, Some((reply.frame.source, reply.waited)));
    }

    fn unanswered(&mut self, unanswered: &Unanswered) {
        self.tell(unanswered.id, None);
    }
}
