//! Disks that call for the loop's attention while nothing is asked of them.

use std::thread;

use aoe_server::link::memory::MemoryOptions;
use aoe_server::protocol::Address;
use aoe_server::server::Idle;

use crate::harness::{Disk, Loop, TARGET, read, within};

fn looks(disk: &Disk) -> u64 {
    disk.script().looks
}

#[test]
fn a_call_has_every_idle_disk_asked_for_news_once() {
    let (one, other, busy) = (Disk::new(), Disk::new(), Disk::new());
    let mut server = Loop::new();
    for (slot, disk) in [&one, &other, &busy].into_iter().enumerate() {
        server.serve(Address::new(7, slot as u8), disk);
    }
    // A disk that something is asked of is looked at every turn, called or not.
    busy.script().hold_reads = true;
    server.send(&read(Address::new(7, 2), 0, 1));
    server.turn();
    let before = [&one, &other, &busy].map(looks);
    server.turns(5);
    assert_eq!([&one, &other, &busy].map(looks), [before[0], before[1], before[2] + 5]);

    let waker = server.control.waker();
    waker.call();
    waker.call(); // before the loop has come to it: one look serves both
    server.turns(5);
    assert_eq!([&one, &other, &busy].map(looks), [before[0] + 1, before[1] + 1, before[2] + 10]);
    // A wake-up alone is for those that something is asked of.
    waker.wake();
    server.turns(5);
    assert_eq!([&one, &other, &busy].map(looks), [before[0] + 1, before[1] + 1, before[2] + 15]);
    waker.call();
    server.turn();
    assert_eq!([&one, &other].map(looks), [before[0] + 2, before[1] + 2]);
    busy.script().release();
    server.turns(2);
    assert_eq!(server.replies().len(), 1);
}

/// An archive's commit once waited for the loop to look around, a tenth of a second each time that
/// it needed a volume's front end.
#[test]
#[allow(clippy::disallowed_methods, reason = "how soon a sleeper is up is a matter of real time")]
fn a_call_reaches_a_loop_that_sleeps_at_once() {
    let options = MemoryOptions { descriptors: true, ..MemoryOptions::default() };
    for idle in [Idle::Block, Idle::Adaptive(std::time::Duration::from_micros(50))] {
        let disk = Disk::new();
        let mut server = Loop::with(1, &options, |_| None);
        server.now = aoe_server::clock::now();
        server.serve(TARGET, &disk);
        let Loop { mut listener, control, .. } = server;
        let running = thread::spawn(move || listener.run(idle));
        let (start, waker) = (std::time::Instant::now(), control.waker());
        for _ in 0..100 {
            let before = looks(&disk);
            waker.call();
            assert!(within(|| looks(&disk) > before));
        }
        // Ten seconds is what waiting for the loop to look around would take.
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
        control.stop().unwrap();
        running.join().unwrap();
    }
}
