//! The writer against a disk that is watched.

use std::string::ToString;
use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

/// What a disk was asked, and what it is to answer.
#[derive(Debug, Default)]
struct Script {
    image: Vec<u8>,
    writes: Vec<(u64, usize)>,
    syncs: usize,
    fail_writes_at: Option<(u64, i32)>,
    fail_syncs: bool,
}

/// A disk in memory. Its syncs wait for a permit when there is a gate.
struct Watched {
    script: Arc<Mutex<Script>>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Disk for Watched {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.script.lock().unwrap().image.len() as u64)
    }

    fn write(&mut self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut script = self.script.lock().unwrap();
        let mut at = usize::try_from(offset).unwrap();
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if let Some((bad, errno)) = script.fail_writes_at
            && (offset..offset + len as u64).contains(&bad)
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        script.writes.push((offset, parts.len()));
        for part in parts {
            script.image[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        let mut script = self.script.lock().unwrap();
        script.syncs += 1;
        if script.fail_syncs { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let end = start + usize::try_from(len).unwrap();
        self.script.lock().unwrap().image[start..end].fill(0);
        Ok(())
    }
}

fn options(policy: SyncPolicy) -> WriterOptions {
    WriterOptions { name: "watched".to_string(), policy, priority: None, waker: None }
}

fn start(policy: SyncPolicy, gated: bool) -> (Writer, Arc<Mutex<Script>>, mpsc::Sender<()>) {
    let script = Script { image: vec![0xa5; 1 << 20], ..Script::default() };
    let script = Arc::new(Mutex::new(script));
    let (permits, gate) = mpsc::channel();
    let disk = Watched { script: Arc::clone(&script), gate: gated.then_some(gate) };
    let writer = Writer::start(disk, options(policy)).unwrap();
    (writer, script, permits)
}

fn taken(accepted: Result<Accepted, Fault>) -> Ticket {
    match accepted {
        Ok(Accepted::Done(ticket)) => ticket,
        other => panic!("not taken: {other:?}"),
    }
}

fn wait(what: impl Fn() -> bool) {
    let start = clock::now();
    while !what() {
        assert!(clock::now().since(start) < Duration::from_secs(10), "it takes too long");
        thread::yield_now();
    }
}

#[test]
fn writes_during_a_sync_share_the_next_and_are_merged() {
    let (mut writer, script, permits) = start(SyncPolicy::EveryGroup, true);
    let first = taken(writer.write(0, &[1; 512]));
    wait(|| writer.applied() >= first);
    let tickets: Vec<_> = (1..9).map(|n| taken(writer.write(n * 512, &[2; 512]))).collect();
    assert!(tickets.is_sorted_by(|a, b| a < b));
    assert_eq!(writer.durable(), Ticket::NONE);
    // The first group may have caught some of the later writes; never more than two syncs then.
    permits.send(()).unwrap();
    permits.send(()).unwrap();
    wait(|| writer.durable() == tickets[7]);
    drop(permits);
    writer.close().unwrap();
    let script = script.lock().unwrap();
    assert!(script.syncs <= 2, "{} syncs", script.syncs);
    assert!(script.writes.len() < 9, "{:?}", script.writes);
    assert_eq!(script.image[..512], [1; 512]);
    assert_eq!(script.image[512..9 * 512], [2; 8 * 512]);
}

#[test]
fn a_failed_sync_stops_all_writing_for_good() {
    let (mut writer, script, _permits) = start(SyncPolicy::EveryGroup, false);
    let good = taken(writer.write(0, &[1; 512]));
    wait(|| writer.durable() >= good);
    assert_eq!(writer.outcome(good), Ok(()));
    assert_eq!(writer.outcome(Ticket::NONE), Ok(()));
    script.lock().unwrap().fail_syncs = true;
    let bad = taken(writer.write(512, &[2; 512]));
    wait(|| writer.durable() >= bad);
    assert_eq!(writer.outcome(bad), Err(Fault::Media));
    // The disk is well again, but what it has forgotten meanwhile cannot be known.
    script.lock().unwrap().fail_syncs = false;
    let syncs = script.lock().unwrap().syncs;
    assert_eq!(writer.write(1024, &[3; 512]), Err(Fault::Media));
    assert_eq!(writer.flush(), Err(Fault::Media));
    assert_eq!(writer.close(), Err(Fault::Media));
    assert_eq!(script.lock().unwrap().syncs, syncs, "no second sync claims success");
    assert_eq!(writer.outcome(good), Ok(()));
}

#[test]
fn what_was_queued_behind_a_failed_sync_fails_unwritten() {
    let (mut writer, script, permits) = start(SyncPolicy::EveryGroup, true);
    let first = taken(writer.write(0, &[1; 512]));
    wait(|| writer.applied() >= first);
    // A far one, so that it cannot have been merged into the group that is being synced.
    script.lock().unwrap().fail_syncs = true;
    thread::yield_now();
    let second = taken(writer.write(4096, &[2; 512]));
    permits.send(()).unwrap();
    permits.send(()).unwrap();
    wait(|| writer.durable() >= second);
    assert_eq!(writer.outcome(first), Err(Fault::Media));
    assert_eq!(writer.outcome(second), Err(Fault::Media));
}

#[test]
fn a_full_disk_fails_one_write_and_not_its_neighbours() {
    let (mut writer, script, permits) = start(SyncPolicy::EveryGroup, true);
    script.lock().unwrap().fail_writes_at = Some((1024, libc::ENOSPC));
    // Held up at a first sync, so that the three lie in one run.
    let plug = taken(writer.write(65536, &[9; 512]));
    wait(|| writer.applied() >= plug);
    let tickets: Vec<_> =
        [512, 1024, 1536].map(|offset| taken(writer.write(offset, &[4; 512]))).into();
    drop(permits);
    wait(|| writer.durable() == tickets[2]);
    assert_eq!(writer.outcome(tickets[0]), Ok(()));
    assert_eq!(writer.outcome(tickets[1]), Err(Fault::NoSpace));
    assert_eq!(writer.outcome(tickets[2]), Ok(()));
    script.lock().unwrap().fail_writes_at = None;
    let again = taken(writer.write(1024, &[5; 512]));
    wait(|| writer.durable() == again);
    assert_eq!(writer.outcome(again), Ok(()));
    assert_eq!(script.lock().unwrap().image[1024..1536], [5; 512]);
}

#[test]
fn an_error_is_a_medium_error_and_a_short_disk_is_not_made_longer() {
    let (mut writer, script, _permits) = start(SyncPolicy::EveryGroup, false);
    script.lock().unwrap().fail_writes_at = Some((0, libc::EIO));
    let bad = taken(writer.write(0, &[1; 512]));
    let behind = taken(writer.write(1 << 20, &[1; 512]));
    let punched = taken(writer.discard((1 << 20) - 512, 1024));
    wait(|| writer.durable() == punched);
    for ticket in [bad, behind, punched] {
        assert_eq!(writer.outcome(ticket), Err(Fault::Media));
    }
    assert_eq!(script.lock().unwrap().image.len(), 1 << 20);
}

#[test]
fn long_writes_are_whole_and_full_rings_wait() {
    let (mut writer, script, permits) = start(SyncPolicy::EveryGroup, true);
    let first = taken(writer.write(0, &[1; 512]));
    wait(|| writer.applied() >= first);
    // The writer may take a few of these before it stops at the gate.
    let mut count = 0;
    let mut last = first;
    let later = loop {
        match writer.write(512, &[7; 512]).unwrap() {
            Accepted::Done(ticket) => last = ticket,
            Accepted::Later => break true,
        }
        count += 1;
        assert!(count < 4 * SLOTS, "the ring never fills");
    };
    assert!(later);
    assert!(count >= SLOTS, "{count} writes fit");
    drop(permits);
    wait(|| writer.durable() == last);
    assert!(writer.progress(), "there is room again");
    assert!(!writer.progress());
    let long: Vec<u8> = (0..40 * SLOT_BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let ticket = taken(writer.write(512, &long));
    assert_eq!(ticket.0, last.0 + 1);
    wait(|| writer.durable() == ticket);
    assert_eq!(script.lock().unwrap().image[512..512 + long.len()], long[..]);
    assert_eq!(writer.write(0, &vec![0; (SLOTS + 1) * SLOT_BYTES]), Err(Fault::Aborted));
}

#[test]
fn a_volatile_disk_syncs_on_flush_and_on_close() {
    let (mut writer, script, _permits) = start(SyncPolicy::OnFlush, false);
    let write = taken(writer.write(0, &[1; 512]));
    wait(|| writer.applied() == write);
    assert_eq!(writer.durable(), Ticket::NONE);
    assert_eq!(script.lock().unwrap().syncs, 0);
    let flush = taken(writer.flush());
    wait(|| writer.durable() == flush);
    assert_eq!(script.lock().unwrap().syncs, 1);
    let clean = taken(writer.flush());
    wait(|| writer.durable() == clean);
    assert_eq!(script.lock().unwrap().syncs, 1, "nothing to sync");
    let last = taken(writer.write(0, &[2; 512]));
    writer.close().unwrap();
    assert_eq!(writer.durable(), last);
    assert_eq!(script.lock().unwrap().syncs, 2);
    assert_eq!(script.lock().unwrap().image[..512], [2; 512]);
}

#[test]
fn failures_that_nobody_asks_for_are_never_taken_for_success() {
    let failures = Failures::new();
    let early = Ticket(7);
    failures.record(early, Fault::NoSpace);
    failures.record(Ticket(7 + FAILURES as u64), Fault::Media);
    assert_eq!(failures.take(early), Err(Fault::Media));
    assert_eq!(failures.take(Ticket(8)), Ok(()));
    assert_eq!(failures.take(Ticket(7 + FAILURES as u64)), Err(Fault::Media));
    assert_eq!(failures.take(Ticket(7 + FAILURES as u64)), Ok(()));
}

#[test]
fn short_writes_are_continued() {
    let mut written = Vec::new();
    let (a, b) = ([1_u8; 700], [2_u8; 300]);
    let mut parts = [IoSlice::new(&a), IoSlice::new(&b)];
    let mut interrupted = false;
    write_all_at(100, &mut parts, |at, parts| {
        if !std::mem::replace(&mut interrupted, true) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        assert_eq!(at, 100 + written.len() as u64);
        let first = &parts[0];
        let some = first.len().min(256);
        written.extend_from_slice(&first[..some]);
        Ok(some)
    })
    .unwrap();
    assert_eq!(written, [&a[..], &b[..]].concat());
    let stuck = write_all_at(0, &mut [IoSlice::new(&a)], |_, _| Ok(0));
    assert_eq!(stuck.unwrap_err().kind(), io::ErrorKind::WriteZero);
}
