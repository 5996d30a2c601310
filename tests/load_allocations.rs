//! The load generator allocates nothing for a request.
#![allow(clippy::print_stdout, reason = "the rate is worth seeing")]

use std::time::Duration;

use aoe_server::client::{Client, Disk, DiskFacts, Kind, Load, LoadReport, Order, Recorder};
use aoe_server::link::{Batch, FramePool, Link, LinkCounters, LinkError, LinkInfo};
use aoe_server::protocol::ata::{AtaText, status};
use aoe_server::protocol::{ATA_DATA_OFFSET, Address, MacAddr};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};

#[path = "common/allocations.rs"]
mod allocations;

use allocations::{allocations, check_that_they_are_counted};

/// A link that turns every request round into a successful answer, with data where it reads.
struct Mirror {
    answers: FramePool,
}

const TARGET: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);

impl Link for Mirror {
    fn info(&self) -> LinkInfo {
        LinkInfo { mac: MacAddr([0x52, 0x54, 0, 0, 0, 1]), mtu: 1500, up: true }
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let mut answers = self.answers.batch();
        let count = answers.len();
        for frame in answers.frames() {
            assert!(batch.push(frame));
        }
        answers.clear();
        Ok(count)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let mut answers = self.answers.batch();
        let taken = answers.room().min(batch.len() - first);
        for index in first..first + taken {
            let request = batch.frame(index);
            let answer = answers.next_buffer().expect("there is room");
            answer[..request.len()].copy_from_slice(request);
            answer.copy_within(6..12, 0);
            answer[6..12].copy_from_slice(&TARGET.0);
            answer[14] = 0x18;
            let (write, sectors) = (answer[24] & 1 != 0, usize::from(answer[26]));
            (answer[26], answer[27]) = (0, status::DRDY);
            let data = if write { 0 } else { sectors * SECTOR_SIZE };
            answers.commit(ATA_DATA_OFFSET + data);
        }
        Ok(taken)
    }

    fn counters(&mut self) -> LinkCounters {
        LinkCounters::default()
    }
}

struct Ignore;

impl Recorder for Ignore {
    fn completed(&mut self, _: Kind, _: Duration) {}
}

/// Does so many requests; tells how many allocations that took.
fn load(client: &mut Client, disk: &Disk, requests: u64) -> (LoadReport, u64) {
    let load = Load {
        disk,
        depth: 64,
        sectors: 2,
        write_percent: 30,
        order: Order::Random,
        lba: Lba(0),
        count: disk.size(),
        duration: Duration::from_mins(10),
        requests,
        seed: 1,
        verify: false,
    };
    let before = allocations();
    let report = client.load(&load, &mut Ignore).expect("a mirror does not fail");
    (report, allocations() - before)
}

#[test]
fn a_million_requests_take_no_more_allocations_than_one() {
    check_that_they_are_counted();
    let mut client = Client::new(Box::new(Mirror { answers: FramePool::new(32) }));
    let facts = DiskFacts {
        serial: AtaText::new("mirror"),
        firmware: AtaText::new("1"),
        model: AtaText::new("mirror"),
        size: Sectors(1 << 20),
        lba48: true,
        write_cache: false,
        trim: false,
        checksum_holds: true,
    };
    let disk = Disk {
        address: Address::new(7, 3),
        mac: TARGET,
        stations: vec![TARGET],
        buffer_count: 64,
        sectors_per_frame: 2,
        facts,
    };
    let (_, one) = load(&mut client, &disk, 1);
    let (report, million) = load(&mut client, &disk, 1_000_000);
    assert_eq!(report.reads + report.writes, 1_000_000);
    assert_eq!((report.errors, report.unanswered), (0, 0));
    assert_eq!(million, one);
    println!("{:.0} requests a second", report.per_second());
}
