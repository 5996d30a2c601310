//! Replies that wait until what they acknowledge has come true.

use aoe_server::engine::Durability;
use aoe_server::protocol::ata::{error, status};
use aoe_server::storage::Fault;

use crate::harness::{Disk, INITIATOR, Loop, TARGET, assert_once, flush_from, read, sector, write};

#[test]
fn a_write_is_answered_when_it_is_durable_and_not_before() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_tickets = true;
    for tag in 1..=3 {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    server.turns(20);
    assert_eq!(disk.script().taken, [1, 2, 3]);
    disk.script().applied = 3;
    server.turns(20);
    assert_once(&server.replies(), []);
    disk.script().set_durable(2);
    server.turns(2);
    let replies = server.replies();
    assert_once(&replies, [1, 2]);
    assert!(replies.iter().all(super::harness::Got::is_good));
    assert_eq!(replies[0].0.len(), 60);
    disk.script().set_durable(3);
    server.turns(2);
    assert_once(&server.replies(), [3]);
}

#[test]
fn reads_overtake_writes_that_wait_and_see_what_was_applied() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_tickets = true;
    server.send(&write(TARGET, 9, 1));
    server.send(&read(TARGET, 9, 2));
    server.turns(2);
    let replies = server.replies();
    assert_once(&replies, [2]);
    assert_eq!(replies[0].data()[..512], sector(1));
}

#[test]
fn a_volatile_target_answers_writes_when_applied_and_flushes_when_durable() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve_as(TARGET, &disk, Durability::Volatile);
    disk.script().hold_tickets = true;
    server.send(&write(TARGET, 0, 1));
    server.send(&flush_from(INITIATOR, TARGET, 2));
    server.send(&write(TARGET, 1, 3));
    server.turns(5);
    assert_once(&server.replies(), []);
    disk.script().applied = 3;
    server.turns(2);
    assert_once(&server.replies(), [1, 3]);
    server.turns(5);
    assert_once(&server.replies(), []);
    disk.script().set_durable(2);
    server.turns(2);
    assert_once(&server.replies(), [2]);
}

#[test]
fn a_write_that_fails_after_it_was_taken_is_an_ata_error() {
    let (mut server, disk) = (Loop::new(), Disk::new());
    server.serve(TARGET, &disk);
    disk.script().hold_tickets = true;
    for tag in 1..=4 {
        server.send(&write(TARGET, u64::from(tag), tag));
    }
    server.turns(3);
    {
        let mut script = disk.script();
        script.faults.insert(2, Fault::Media);
        script.faults.insert(3, Fault::OutOfRange);
        script.set_durable(4);
    }
    server.turns(2);
    let mut replies = server.replies();
    replies.sort_by_key(super::harness::Got::tag);
    assert_once(&replies, 1..=4);
    let failed = status::DRDY | status::ERR;
    assert_eq!(replies[0].ata(), (status::DRDY, 0));
    assert_eq!(replies[1].ata(), (failed | status::DF, error::ABRT));
    assert_eq!(replies[2].ata(), (failed, error::IDNF));
    assert_eq!(replies[3].ata(), (status::DRDY, 0));
}
