//! Watching an interface: every AoE frame that goes by, until it is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::clock::{Instant, now};
use crate::link::{BATCH_FRAMES, Batch, FramePool, Link, LinkError};
use crate::server::LiveLink;

/// How often it is looked whether it is enough.
const PATIENCE: Duration = Duration::from_millis(100);
/// Bursts that are still taken when it is enough: what has arrived by then, but no flood without end.
const LAST_BURSTS: usize = 64;

/// An interface that is watched.
pub(super) struct Watcher {
    link: LiveLink,
    pool: FramePool,
    until: Option<Instant>,
    interrupted: Arc<AtomicBool>,
    /// Bursts that may still be taken when it is enough.
    last: usize,
}

impl Watcher {
    /// Watches an interface for some time, or until Ctrl-C.
    pub(super) fn open(interface: &str, time: Option<Duration>) -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .context("cannot catch signals")?;
        }
        let link = open_watching(interface)?;
        let until = time.map(|time| now().after(time));
        let pool = FramePool::new(BATCH_FRAMES);
        Ok(Self { link, pool, until, interrupted, last: LAST_BURSTS })
    }

    /// The next frames, at least one; `None` when it is enough.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Batch<'_>>> {
        loop {
            let enough = self.interrupted.load(Ordering::Relaxed)
                || self.until.is_some_and(|until| now() >= until);
            if enough && self.last == 0 {
                return Ok(None);
            }
            self.last -= usize::from(enough);
            let mut batch = self.pool.batch();
            batch.clear();
            match self.link.receive(&mut batch) {
                Ok(0) | Err(LinkError::Down) if enough => return Ok(None),
                Ok(0) => {}
                Ok(_) => return Ok(Some(self.pool.batch())),
                // It may come back.
                Err(LinkError::Down) => {
                    self.link.check();
                }
                Err(error) => return Err(error.into()),
            }
            self.wait();
        }
    }

    /// Frames that went by and could not be fetched in time.
    pub(super) fn dropped(&mut self) -> u64 {
        self.link.counters().dropped
    }

    /// Waits for a frame, a signal or a while.
    fn wait(&self) {
        let nanos = i64::from(PATIENCE.subsec_nanos());
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanos };
        let up = self.link.info().up;
        // A link that is down stays readable, with its error. An interrupted wait is a short one.
        let _ = match self.link.descriptor().filter(|_| up) {
            Some(descriptor) => {
                let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
                poll(&mut descriptors, Some(&timeout))
            }
            None => poll(&mut [], Some(&timeout)),
        };
    }
}

/// Opens an interface for watching: both directions, and frames to other stations.
fn open_watching(interface: &str) -> anyhow::Result<LiveLink> {
    #[cfg(feature = "pcap")]
    {
        use crate::link::pcap::{PcapLink, PcapOptions};
        let options = PcapOptions { promiscuous: true, outgoing: true, ..PcapOptions::default() };
        Ok(Box::new(PcapLink::open(interface, &options)?))
    }
    #[cfg(not(feature = "pcap"))]
    {
        log::warn!("this build has no pcap links: frames that this machine sends are not seen");
        let options = crate::server::LiveOptions { promiscuous: true, ..Default::default() };
        Ok(crate::server::open_link(crate::link::LinkKind::AfPacket, interface, &options)?)
    }
}
