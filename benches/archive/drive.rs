//! A disk, driven as the poll loop drives it: requests in flight, a look after each that comes in, and
//! what the loop does when there is nothing to do, which is to yield for a while and then to sleep.

use std::collections::VecDeque;
use std::time::Duration;

use aoe_server::clock::{Instant, now};
use aoe_server::scheduling::Yielder;
use aoe_server::storage::{Accepted, BlockStorage, Ready, Ticket};
use aoe_server::units::Lba;
use aoe_server::wake::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Requests in flight.
pub(crate) const DEPTH: usize = 64;
pub(crate) const SECTOR: usize = 512;
/// How long a loop looks again at once, as configured by default.
const SPIN: Duration = Duration::from_micros(50);

/// A disk and who drives it.
pub(crate) struct Driven<S> {
    pub(crate) disk: S,
    waker: Waker,
    busy: Instant,
    yielder: Yielder,
}

/// When requests come in.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// One for each that is answered, so that there are always as many as can be.
    Full,
    /// One each time that this has passed.
    Every(Duration),
}

/// Requests that wait until they are durable, and when those came in that are not taken yet.
struct Flight {
    waiting: VecDeque<(Ticket, Instant)>,
    arrived: VecDeque<Instant>,
    took: Vec<Duration>,
}

impl<S: BlockStorage> Driven<S> {
    pub(crate) fn new(open: impl FnOnce(Waker) -> S) -> Self {
        let waker = Waker::new().unwrap();
        Self { disk: open(waker.clone()), waker, busy: now(), yielder: Yielder::default() }
    }

    /// Lets time pass until there may be news. `since` is what was durable when last looked.
    fn pause(&mut self, since: Ticket, at_most: Duration) {
        let moment = now();
        if self.disk.progress() || self.disk.durable() > since {
            self.busy = moment;
        } else if moment.since(self.busy) < SPIN && !self.yielder.is_crowded(moment) {
            self.yielder.yield_now();
        } else {
            self.waker.fall_asleep();
            if !self.disk.progress() && self.disk.durable() == since {
                let mut ready = [PollFd::from_borrowed_fd(self.waker.descriptor(), PollFlags::IN)];
                let nanos = i64::from(at_most.subsec_nanos());
                if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: nanos })).unwrap() > 0 {
                    self.waker.clear();
                }
            }
            self.waker.awake();
            self.busy = now();
        }
    }

    /// Lets time pass.
    pub(crate) fn rest(&mut self, at_most: Duration) {
        self.pause(self.disk.durable(), at_most);
    }

    /// Writes requests of `data`, each to the place that `place` says, and waits until all are durable.
    /// Tells how long each took, from when it came in until it was.
    pub(crate) fn write(
        &mut self,
        data: &[u8],
        request: usize,
        pace: Pace,
        mut place: impl FnMut(usize) -> u64,
    ) -> Vec<Duration> {
        let begun = now();
        let mut flight = Flight {
            waiting: VecDeque::with_capacity(DEPTH),
            arrived: VecDeque::from(vec![begun; DEPTH]),
            took: Vec::with_capacity(data.len() / request),
        };
        for (number, octets) in data.chunks_exact(request).enumerate() {
            let came = self.next_request(begun, number, pace, &mut flight);
            let lba = Lba(place(number));
            let ticket = loop {
                match self.disk.write(lba, octets).unwrap() {
                    Accepted::Done(ticket) => break ticket,
                    Accepted::Later => self.settle(&mut flight, Duration::from_millis(1)),
                }
            };
            flight.waiting.push_back((ticket, came));
        }
        while !flight.waiting.is_empty() {
            self.settle(&mut flight, Duration::from_millis(1));
        }
        flight.took
    }

    /// Waits for request `number` to come in, and for a place in flight. Tells when it came.
    fn next_request(
        &mut self,
        begun: Instant,
        number: usize,
        pace: Pace,
        flight: &mut Flight,
    ) -> Instant {
        let scheduled = match pace {
            Pace::Full => None,
            Pace::Every(gap) => Some(begun.after(gap * u32::try_from(number).unwrap())),
        };
        loop {
            self.take_durable(flight);
            let early = scheduled.map_or(Duration::ZERO, |at| at.since(now()));
            if early.is_zero()
                && let Some(came) = flight.arrived.pop_front()
            {
                return scheduled.unwrap_or(came);
            }
            let most = Duration::from_millis(1);
            self.settle(flight, if early.is_zero() { most } else { early.min(most) });
        }
    }

    fn settle(&mut self, flight: &mut Flight, at_most: Duration) {
        if !self.take_durable(flight) {
            self.pause(self.disk.durable(), at_most);
            self.take_durable(flight);
        }
    }

    /// Answers what is durable.
    fn take_durable(&mut self, flight: &mut Flight) -> bool {
        let (durable, moment, mut any) = (self.disk.durable(), now(), false);
        while let Some(&(ticket, came)) = flight.waiting.front()
            && ticket <= durable
        {
            flight.waiting.pop_front();
            self.disk.outcome(ticket).unwrap();
            flight.took.push(moment.since(came));
            flight.arrived.push_back(moment);
            (self.busy, any) = (moment, true);
        }
        any
    }

    /// Reads the first `bytes` in order, `depth` requests in flight.
    pub(crate) fn read(&mut self, bytes: usize, request: usize, depth: usize) {
        let mut into = vec![0; request];
        let mut waiting: Vec<Lba> = Vec::with_capacity(depth);
        let mut next = 0;
        while next < bytes || !waiting.is_empty() {
            while next < bytes && waiting.len() < depth {
                let lba = Lba((next / SECTOR) as u64);
                next += request;
                if self.disk.read(lba, &mut into).unwrap() == Ready::Later {
                    waiting.push(lba);
                    break;
                }
                self.busy = now();
            }
            if self.disk.progress() {
                waiting.retain(|lba| self.disk.read(*lba, &mut into).unwrap() == Ready::Later);
                self.busy = now();
            } else if waiting.len() == depth || next >= bytes {
                self.pause_for_reads(&mut waiting, &mut into);
            }
        }
    }

    fn pause_for_reads(&mut self, waiting: &mut Vec<Lba>, into: &mut [u8]) {
        let moment = now();
        if moment.since(self.busy) < SPIN && !self.yielder.is_crowded(moment) {
            self.yielder.yield_now();
            return;
        }
        self.waker.fall_asleep();
        if self.disk.progress() {
            waiting.retain(|lba| self.disk.read(*lba, into).unwrap() == Ready::Later);
        } else {
            let mut ready = [PollFd::from_borrowed_fd(self.waker.descriptor(), PollFlags::IN)];
            if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 })).unwrap() > 0 {
                self.waker.clear();
            }
        }
        self.waker.awake();
        self.busy = now();
    }
}
