//! A wire that does to frames what wires must not: a thread that carries them between two interfaces,
//! with faults by chance from a seed.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aoe_server::link::af_packet::{AfPacketLink, AfPacketOptions};
use aoe_server::link::fault::{FaultCounters, FaultLink, FaultOptions, Faults};
use aoe_server::link::{BATCH_FRAMES, FramePool, Link, LinkError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::common::net::{Switch, send_all};

/// How long the relay sleeps at most: what is held back goes on after some turns.
const TURN: Duration = Duration::from_millis(1);

/// What happens to frames on their way to the server, and on their way from it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wire {
    /// To the server.
    pub(crate) requests: Faults,
    /// From it.
    pub(crate) replies: Faults,
}

impl Wire {
    /// The same in both directions.
    pub(crate) fn both(faults: Faults) -> Self {
        Self { requests: faults, replies: faults }
    }
}

/// A relay that carries frames until it is ended.
pub(crate) struct Relay {
    wires: Sender<Wire>,
    thread: JoinHandle<[FaultCounters; 2]>,
}

impl Relay {
    /// Cuts the server's cable, and carries frames over the gap; without faults at first.
    pub(crate) fn start(switch: &Switch, mtu: usize, seed: u64) -> Self {
        let (server, stations) = switch.cut(mtu);
        let open = |name| {
            let options = AfPacketOptions {
                promiscuous: true,
                receive_buffer_bytes: 16 << 20,
                ..AfPacketOptions::default()
            };
            AfPacketLink::open(name, &options).expect("packet sockets are permitted here")
        };
        let options = FaultOptions { seed, ..FaultOptions::default() };
        let server = FaultLink::new(open(server), &options);
        let stations = open(stations);
        let (wires, changes) = channel();
        let thread = std::thread::spawn(move || carry(server, stations, &changes));
        Self { wires, thread }
    }

    /// Has other things happen from now on.
    pub(crate) fn change(&self, wire: Wire) {
        self.wires.send(wire).expect("the relay runs");
    }

    /// Ends the relay; tells what has happened to requests, and what to replies.
    pub(crate) fn end(self) -> [FaultCounters; 2] {
        drop(self.wires);
        self.thread.join().expect("the relay does not panic")
    }
}

/// What a link has to say that is not an error that passes.
fn received(result: Result<usize, LinkError>) -> usize {
    match result {
        Ok(count) => count,
        Err(LinkError::Down) => 0,
        Err(error) => panic!("the relay cannot receive: {error}"),
    }
}

fn carry(
    mut server: FaultLink<AfPacketLink>,
    mut stations: AfPacketLink,
    changes: &Receiver<Wire>,
) -> [FaultCounters; 2] {
    let mut pool = FramePool::new(BATCH_FRAMES);
    loop {
        match changes.try_recv() {
            Ok(wire) => server.set_faults(wire.replies, wire.requests),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return [server.send_faults(), server.receive_faults()];
            }
        }
        let mut batch = pool.batch();
        batch.clear();
        let replies = received(server.receive(&mut batch));
        send_all(&mut stations, &batch);
        batch.clear();
        let requests = received(stations.receive(&mut batch));
        send_all(&mut server, &batch);
        if replies + requests == 0 {
            let links: [&dyn Link; 2] = [server.link(), &stations];
            let mut polled = links.map(|link| {
                PollFd::from_borrowed_fd(link.descriptor().expect("it has one"), PollFlags::IN)
            });
            // Interrupted or not, what counts is whether there are frames.
            let _ = poll(&mut polled, Some(&Timespec::try_from(TURN).expect("a short time")));
        }
    }
}
