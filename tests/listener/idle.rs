//! A loop on a thread of its own: it wakes for what comes, and sleeps when nothing does.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aoe_server::link::memory::{MemoryLink, MemoryOptions};
use aoe_server::link::{FramePool, Link as _, LinkError};
use aoe_server::server::{Control, Idle};

use crate::harness::{Disk, Loop, TARGET, ValveState, read, within};

/// Things that a loop may do in [`WATCHED`] when there is nothing to do: it looks around every tenth
/// of a second, twice each time, and a wire that is full is tried every millisecond.
const FEW: u64 = 400;
const WATCHED: Duration = Duration::from_millis(300);

/// A loop that runs on another thread.
struct Running {
    control: Control,
    wire: MemoryLink,
    valve: Arc<Mutex<ValveState>>,
    disk: Disk,
    thread: JoinHandle<()>,
}

impl Running {
    fn new(disk: &Disk, idle: Idle) -> Self {
        let options = MemoryOptions { descriptors: true, ..MemoryOptions::default() };
        let mut server = Loop::with(1, &options, |_| None);
        // From here on the loop goes by the real clock.
        server.now = aoe_server::clock::now();
        server.serve(TARGET, disk);
        let Loop { mut listener, control, mut wires, mut valves, .. } = server;
        let thread = thread::spawn(move || listener.run(idle));
        Self { control, wire: wires.remove(0), valve: valves.remove(0), disk: disk.clone(), thread }
    }

    fn send(&mut self, frame: &[u8]) {
        let mut pool = FramePool::new(1);
        assert!(pool.batch().push(frame));
        assert_eq!(self.wire.send(&pool.batch(), 0), Ok(1));
    }

    fn receive(&mut self, count: usize) {
        let mut pool = FramePool::new(32);
        let mut received = 0;
        assert!(
            within(|| {
                let mut batch = pool.batch();
                batch.clear();
                received += self.wire.receive(&mut batch).unwrap();
                received >= count
            }),
            "{received} of {count} replies"
        );
        assert_eq!(received, count);
    }

    /// How often the loop asked its link for frames or to take some, or its disk for news, so far.
    fn done(&self) -> u64 {
        let valve = self.valve.lock().unwrap();
        valve.receives + valve.sends + self.disk.script().looks
    }

    /// How often it does while nothing is done to it.
    #[allow(clippy::disallowed_methods, reason = "what must not happen is waited for in real time")]
    fn turns(&self) -> u64 {
        let before = self.done();
        thread::sleep(WATCHED);
        self.done() - before
    }

    fn stop(self) {
        self.control.stop().unwrap();
        self.thread.join().unwrap();
    }
}

#[test]
fn a_loop_that_blocks_sleeps_and_wakes_for_every_frame() {
    for idle in [Idle::Block, Idle::Adaptive(Duration::from_micros(50))] {
        let mut server = Running::new(&Disk::new(), idle);
        for tag in 0..300 {
            server.send(&read(TARGET, 0, tag));
            server.receive(1);
        }
        let turns = server.turns();
        assert!(turns < FEW, "{turns} turns with nothing to do");
        server.stop();
    }
}

#[test]
fn a_loop_sleeps_while_storage_makes_its_requests_wait_and_the_burst_behind_them() {
    let disk = Disk::new();
    disk.script().hold_reads = true;
    let mut server = Running::new(&disk, Idle::Block);
    // More than can be parked: the rest stays in the burst and on the wire, which stays readable.
    for tag in 0..1_100 {
        server.send(&read(TARGET, 0, tag));
    }
    assert!(within(|| disk.script().reads >= 1_024));
    server.valve.lock().unwrap().loud = true;
    let turns = server.turns();
    assert!(turns < FEW, "{turns} turns with nothing to do");
    server.valve.lock().unwrap().loud = false;
    disk.script().release();
    server.control.waker().wake();
    // Where this took more than a second, some were dropped rather than wait any longer.
    let (mut received, mut pool) = (0, FramePool::new(32));
    assert!(within(|| {
        let mut batch = pool.batch();
        batch.clear();
        received += server.wire.receive(&mut batch).unwrap();
        let status = server.control.status();
        received as u64 + status.targets.iter().map(|target| target.dropped).sum::<u64>() == 1_100
    }));
    server.stop();
}

#[test]
fn a_loop_sleeps_between_tries_while_the_wire_is_full_and_goes_on_by_itself() {
    let disk = Disk::new();
    let mut server = Running::new(&disk, Idle::Block);
    server.valve.lock().unwrap().takes = Some(0);
    for tag in 0..200 {
        server.send(&read(TARGET, 0, tag));
    }
    assert!(within(|| disk.script().reads >= 64));
    let turns = server.turns();
    assert!(turns < 4 * FEW, "{turns} turns with nothing to do");
    server.valve.lock().unwrap().takes = None;
    server.receive(200);
    server.stop();
}

#[test]
fn a_link_that_cannot_be_received_from_does_not_keep_the_loop_busy() {
    let mut server = Running::new(&Disk::new(), Idle::Block);
    server.valve.lock().unwrap().receive_error = Some(LinkError::Os { errno: 12 });
    // Its descriptor is readable all the time.
    server.send(&read(TARGET, 0, 1));
    server.send(&read(TARGET, 0, 2));
    let turns = server.turns();
    assert!(turns < 4 * FEW, "{turns} turns with nothing to do");
    server.valve.lock().unwrap().receive_error = None;
    server.receive(2);
    server.stop();
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how soon a sleeper wakes is a matter of real time")]
fn wakes_from_another_thread_are_not_lost() {
    let disk = Disk::new();
    let mut server = Running::new(&disk, Idle::Block);
    let start = std::time::Instant::now();
    for tag in 0..200 {
        disk.script().hold_reads = true;
        let before = disk.script().reads;
        server.send(&read(TARGET, 0, tag));
        assert!(within(|| disk.script().reads > before));
        disk.script().release();
        server.control.waker().wake();
        server.receive(1);
    }
    // One that was lost would be made up for after a tenth of a second, when the loop looks around.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    server.stop();
}
