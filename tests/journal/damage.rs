//! Journals that are damaged: what is lost is told, with the command that does without it, and what
//! is left is brought in when that is asked for.

use std::fs;

use super::common::server::{ServerProcess, ended};
use super::images::Crashed;
use super::{FIRST_RECORD, PAGE, as_told, flip, records, recover};

#[test]
fn damage_in_the_middle_is_told_and_the_rest_can_be_had() {
    let Some(crashed) = Crashed::new() else { return };
    let records = records(&crashed.journal);
    assert!(records.len() > 8, "{records:?}");
    // What both images start with, and some writes in the middle.
    for victim in [records[3], records[records.len() / 2]] {
        crashed.again();
        flip(&crashed.journal, &[victim + 100]);
        let told = crashed.both_refuse(1, "acknowledged writes with the sequence numbers");
        assert_eq!([crashed.has(0), crashed.has(1)].concat(), [false; 8]);
        let dry = crashed.dry_run(1);
        let [first, last] = [0, 1].map(|n| dry["lost"][0][n].as_u64().unwrap());
        let range = format!("sequence numbers {first} to {last} are lost");
        assert!(told.contains(&range) && first <= last, "{told}");
        let (stdout, _) = ended(&as_told(&told), 0);
        assert!(stdout.contains(&format!("numbers {first} to {last} is lost")), "{stdout}");
        let has = [crashed.has(0), crashed.has(1)].concat();
        let lost = has.iter().filter(|has| !**has).count();
        assert!((1..=2).contains(&lost), "one record is missing: {has:?}");
        let mut server = ServerProcess::start_in(&crashed.home, &crashed.config);
        assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    }
}

/// Without an image's own entry nobody knows which file its writes are for.
#[test]
fn writes_for_an_image_whose_name_is_damaged_are_lost_with_it() {
    let Some(crashed) = Crashed::new() else { return };
    // Images are entered one by one when the server opens them.
    flip(&crashed.journal, &[FIRST_RECORD + 40]);
    let told = crashed.both_refuse(1, "acknowledged writes with the sequence numbers");
    let dry = crashed.dry_run(1);
    assert_eq!(dry["images"].as_array().unwrap().len(), 2, "{dry}");
    let state = |n: usize| dry["images"][n]["state"].as_str().unwrap();
    assert_eq!([state(0), state(1)], ["nameless", "good"]);
    let (stdout, _) = ended(&as_told(&told), 0);
    assert!(stdout.contains("lost with the image's name"), "{stdout}");
    assert_eq!((crashed.has(0), crashed.has(1)), (vec![false; 4], vec![true; 4]));
}

/// Nobody was told of the last record before it was durable: a bad one is a torn write.
#[test]
fn a_torn_record_at_the_end_is_no_damage() {
    let Some(crashed) = Crashed::new() else { return };
    let last = *records(&crashed.journal).last().unwrap();
    flip(&crashed.journal, &[last + 90]);
    assert_eq!(crashed.dry_run(0)["lost"].as_array().unwrap().len(), 0);
    let mut server = ServerProcess::start_in(&crashed.home, &crashed.config);
    server.wait_for_log("the last server did not come to its end");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    let has = [crashed.has(0), crashed.has(1)].concat();
    assert_eq!(has.iter().filter(|has| !**has).count(), 1, "only what was in it: {has:?}");
}

/// There are two copies of the head. When the newest one is damaged the one before it, which may
/// say that the journal was closed, is not believed without a look at the records.
#[test]
fn one_damaged_head_loses_nothing_and_two_are_refused() {
    let Some(crashed) = Crashed::new() else { return };
    let heads = [20, PAGE as u64 + 20];
    for head in heads {
        crashed.again();
        flip(&crashed.journal, &[head]);
        assert_eq!(crashed.dry_run(0)["images"].as_array().unwrap().len(), 2);
        ended(&recover([&crashed.journal]), 0);
        crashed.assert_whole();
        crashed.again();
        flip(&crashed.journal, &[head]);
        let mut server = ServerProcess::start_in(&crashed.home, &crashed.config);
        assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
        crashed.assert_whole();
    }
    crashed.again();
    flip(&crashed.journal, &heads);
    crashed.both_refuse(2, "it is not a journal, or both copies of its head are damaged");
}

#[test]
fn a_journal_cut_short_of_another_version_or_none_at_all_is_refused() {
    let Some(crashed) = Crashed::new() else { return };
    let file = fs::OpenOptions::new().write(true).open(&crashed.journal).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes - 4096).unwrap();
    let cut = format!("it has {} bytes instead of {bytes}: it was cut short", bytes - 4096);
    crashed.both_refuse(2, &cut);
    // Nothing was in what is gone now.
    file.set_len(bytes).unwrap();
    ended(&recover([&crashed.journal]), 0);
    crashed.assert_whole();

    crashed.again();
    flip(&crashed.journal, &[8]);
    crashed.both_refuse(2, "it has format 17, and this program knows format 1 only");
    fs::write(&crashed.journal, "not a journal").unwrap();
    crashed.both_refuse(2, "it is not a journal");
    assert_eq!(fs::read(&crashed.journal).unwrap(), b"not a journal", "it is left alone");
    fs::remove_file(&crashed.journal).unwrap();
    fs::create_dir(&crashed.journal).unwrap();
    crashed.both_refuse(2, "is not a regular file");
    fs::remove_dir(&crashed.journal).unwrap();
    let (_, told) = ended(&recover([&crashed.journal]), 2);
    assert!(told.contains("does not exist"), "{told}");
    assert_eq!([crashed.has(0), crashed.has(1)].concat(), [false; 8]);
}
