//! Running a loop for real: the clock, and what to do when there is nothing to do.
//!
//! A wake-up costs 12-15 microseconds where a spinning loop answers in 5, so that the policy
//! decides the latency of a lone request; see `docs/performance.md`.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::listener::Listener;
use super::probe::{Candidate, PortSet};
use crate::clock::{Instant, now};
use crate::link::Link;

/// What a loop does when a turn had nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Look again at once, for ever. Takes a whole core. Where others take that core from the loop while
    /// it waits for a disk it sleeps all the same, since it gets the core back sooner so.
    Spin,
    /// Look again at once for this long, then sleep until a frame or another thread wakes it.
    Adaptive(Duration),
    /// Sleep at once.
    Block,
}

/// How long a stopping loop waits for storage, before it leaves replies unsent. What was taken is
/// made durable all the same, when the disks are closed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long a loop sleeps when one of its links has no descriptor to wait for.
const BLIND_SLEEP: Duration = Duration::from_millis(1);

impl<L: Link> Listener<L> {
    /// Serves until it is told to stop, or every link has ended, and nothing waits any more.
    pub fn run(&mut self, idle: Idle) {
        self.idle = idle;
        let mut last_busy = now();
        let mut stop_by = None;
        loop {
            let moment = now();
            if self.turn(moment) {
                last_busy = moment;
            }
            if self.stopping || self.has_ended() {
                let stop_by = *stop_by.get_or_insert(moment.after(STOP_PATIENCE));
                if self.is_idle() {
                    return;
                }
                if moment >= stop_by {
                    log::error!("stopped while storage still has not answered some requests");
                    return;
                }
            }
            let spins = match self.idle {
                Idle::Spin => true,
                Idle::Adaptive(spin) => moment.since(last_busy) < spin,
                Idle::Block => moment == last_busy,
            };
            // With disks at work: whoever has taken the processor would do so again.
            let crowded = !self.active.is_empty() && self.yielder.is_crowded(moment);
            if spins && !crowded {
                self.spin();
            } else if self.sleep() {
                last_busy = now();
            }
        }
    }

    /// Lets a moment pass. Where a disk's threads have something to do, and perhaps no other processor
    /// to do it on, the time is theirs: until they are done there is little to look for. Those that take
    /// long are not waited for in this way: see [`Yielder`](crate::scheduling::Yielder).
    fn spin(&mut self) {
        if self.active.is_empty() {
            std::hint::spin_loop();
        } else {
            self.yielder.yield_now();
        }
    }

    /// Sleeps until a frame arrives, another thread calls, or it is time to look around. Tells
    /// whether there was something to do.
    fn sleep(&mut self) -> bool {
        self.waker.fall_asleep();
        // What came in since the last look would not wake a sleeper.
        let moment = now();
        let busy = self.turn(moment);
        let woken = busy || self.wait(moment);
        self.waker.awake();
        woken
    }

    fn wait(&self, moment: Instant) -> bool {
        let mut descriptors = heapless::Vec::<_, { PortSet::MAX + 1 }>::new();
        // There is room for all of them: a loop has no more links than that.
        let _ = descriptors.push(PollFd::from_borrowed_fd(self.waker.descriptor(), PollFlags::IN));
        let mut longest = self.next_check.since(moment);
        for port in &self.ports {
            // No descriptor tells of room on a wire that is full.
            if port.out.waiting() > 0 {
                longest = longest.min(BLIND_SLEEP);
            }
            // A link that is down stays readable, with its error; and one that nothing is received
            // from, with its frames.
            if self.stopping || port.has_backlog() || !port.is_up() {
                continue;
            }
            match port.out.link.descriptor().filter(|_| !port.troubled) {
                Some(descriptor) => {
                    let _ = descriptors.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
                }
                None => longest = longest.min(BLIND_SLEEP),
            }
        }
        if let Some(soonest) = self.candidates.iter().map(Candidate::due).min() {
            longest = longest.min(soonest.since(moment));
        }
        let timeout = Timespec {
            tv_sec: longest.as_secs().try_into().unwrap_or(1),
            tv_nsec: longest.subsec_nanos().into(),
        };
        // An interrupted wait is a short one.
        let ready = poll(&mut descriptors, Some(&timeout)).is_ok_and(|ready| ready > 0);
        if descriptors.first().is_some_and(|woken| !woken.revents().is_empty()) {
            self.waker.clear();
        }
        ready
    }
}
