//! The wrapper that fails: it fails as it was told to, and not otherwise.

use aoe_server::blob::fault::{BlobFaultRates, BlobOp};

use super::*;

fn faulty(seed: u64) -> FaultBlobStore<MemBlobStore> {
    FaultBlobStore::new(MemBlobStore::new(), seed)
}

fn is_io<T: std::fmt::Debug>(result: &Result<T, BlobError>) -> bool {
    matches!(result, Err(BlobError::Io { .. }))
}

#[test]
fn calls_fail_on_demand() {
    let store = faulty(1);
    put(&store, b"abc");
    let id = BlobId::of(b"abc");
    let ops = [BlobOp::Get, BlobOp::GetRange, BlobOp::Info, BlobOp::List];
    for failing in ops {
        store.fail(failing, 1);
        for turn in 0..3 {
            let results = [
                store.get(id).map(drop),
                store.get_range(id, 0, &mut [0; 3]),
                store.info(id).map(drop),
                store.list(&BlobPrefix::ALL, &mut |_| ControlFlow::Continue(())),
            ];
            for (op, result) in ops.into_iter().zip(results) {
                assert_eq!(
                    is_io(&result),
                    op == failing && turn == 1,
                    "{op:?}, {turn}: {result:?}"
                );
            }
        }
    }
}

#[test]
fn a_put_or_delete_that_fails_may_have_been_done() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..32 {
        let store = faulty(seed);
        let id = BlobId::of(b"abc");
        store.fail(BlobOp::Put, 0);
        assert!(is_io(&store.put(&Blob::new(b"abc"))));
        let there = store.contains(id).unwrap();
        put(&store, b"abc");
        store.fail(BlobOp::Delete, 0);
        assert!(is_io(&store.delete(id)));
        seen.insert((there, store.contains(id).unwrap()));
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn chance_repeats_itself() {
    let run = |seed| {
        let store = faulty(seed);
        let rates = BlobFaultRates {
            put: 200,
            get: 200,
            get_range: 200,
            info: 200,
            list: 200,
            delete: 200,
            damage: 50,
            delay: 300,
        };
        store.set_rates(rates);
        let mut told = Vec::new();
        for turn in 0..300_u64 {
            let blob = content(turn % 10);
            let blob = Blob::new(&blob);
            told.push(format!("{:?}", store.put(&blob)));
            told.push(format!("{:?}", store.get(blob.id())));
            told.push(format!("{:?}", store.info(blob.id())));
            if turn % 7 == 0 {
                told.push(format!("{:?}", store.delete(blob.id())));
            }
        }
        let delays = store.delays();
        assert!((100..500).contains(&delays), "{delays} of about 950 calls");
        store.heal();
        for number in 0..10 {
            put(&store, &content(number));
            store.get(BlobId::of(&content(number))).unwrap();
        }
        assert_eq!(store.delays(), delays);
        told
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn damage_shows_in_the_whole_hides_in_parts_and_is_repaired_by_a_put() {
    let store = faulty(1);
    let good = octets(1, 500);
    let id = BlobId::of(&good);
    put(&store, &good);
    store.damage(id);
    let mut bad = [0; 500];
    store.get_range(id, 0, &mut bad).unwrap();
    let differ = good.iter().zip(&bad).filter(|(good, bad)| good != bad).count();
    assert_eq!(differ, 1);
    match store.get(id) {
        Err(BlobError::Damaged { wanted, found }) => {
            assert_eq!((wanted, found), (id, BlobId::of(&bad)));
        }
        other => panic!("{other:?}"),
    }
    for (place, wanted) in bad.iter().enumerate() {
        let mut octet = [0];
        store.get_range(id, place as u64, &mut octet).unwrap();
        assert_eq!(octet[0], *wanted);
    }
    assert_eq!(put(&store, &good), Put::Repaired);
    assert_eq!(store.get(id).unwrap(), good);
}

#[test]
fn room_is_used_up_and_given_back() {
    let store = faulty(1);
    store.limit_room(Some(1_000));
    let (long, short) = (octets(1, 900), octets(2, 200));
    put(&store, &long);
    for _ in 0..2 {
        let error = store.put(&Blob::new(&short)).unwrap_err();
        assert!(matches!(error, BlobError::NoSpace { .. }), "{error}");
        assert_eq!(put(&store, &long), Put::Present, "which takes none");
    }
    store.delete(BlobId::of(&long)).unwrap();
    put(&store, &short);
    store.limit_room(None);
    put(&store, &long);
}

/// Puts and deletes until the power goes, and holds what is there afterwards against what was
/// promised. Tells whether a promise was broken, and whether something was in doubt.
fn power_cut(store: &FaultBlobStore<MemBlobStore>, calls: u64) -> (bool, [usize; 4]) {
    let (mut there, mut deleted, mut doubtful) = (Model::new(), Model::new(), Model::new());
    store.cut_power_after(calls);
    for turn in 0.. {
        let deletes = turn % 7 == 6;
        let octets = content(if deletes { turn - 3 } else { turn } % CONTENTS);
        let blob = Blob::new(&octets);
        let done = if deletes {
            let result = store.delete(blob.id());
            there.remove(&blob.id());
            deleted.insert(blob.id(), octets.clone());
            result.is_ok() || matches!(result, Err(BlobError::NotFound { .. }))
        } else {
            store.put(&blob).is_ok()
        };
        if !done {
            there.remove(&blob.id());
            doubtful.insert(blob.id(), octets);
            break;
        }
        if !deletes {
            deleted.remove(&blob.id());
            there.insert(blob.id(), octets);
        }
    }
    assert!(store.is_powerless());
    assert!(is_io(&store.get(BlobId::of(b""))) && is_io(&store.info(BlobId::of(b""))));
    store.restore_power().unwrap();
    let found = names(store, "");
    let lost = there.iter().any(|(id, octets)| store.get(*id).ok().as_ref() != Some(octets));
    let made_up = found.iter().any(|id| {
        !there.contains_key(id) && !deleted.contains_key(id) && !doubtful.contains_key(id)
    });
    assert!(!made_up);
    let count =
        |of: &Model, there: bool| of.keys().filter(|id| found.contains(id) == there).count();
    let doubts = [
        count(&doubtful, true),
        count(&doubtful, false),
        count(&deleted, true),
        count(&deleted, false),
    ];
    (lost, doubts)
}

#[test]
fn a_power_cut_takes_nothing_that_was_promised() {
    let mut seen = [0; 4];
    for seed in 0..400 {
        let (lost, doubts) = power_cut(&faulty(seed), seed % 40);
        assert!(!lost, "seed {seed}");
        for (seen, doubt) in seen.iter_mut().zip(doubts) {
            *seen += doubt;
        }
    }
    assert!(seen.iter().all(|seen| *seen > 10), "some fates never happened: {seen:?}");
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let broken = |settle: bool| {
        let breaks = |seed: &u64| {
            let store = FaultBlobStore::with_lost_puts(MemBlobStore::new(), *seed);
            if !settle {
                return power_cut(&store, 30).0;
            }
            for number in 0..CONTENTS {
                put(&store, &content(number));
            }
            store.settle();
            store.restore_power().unwrap();
            names(&store, "").len() < usize::try_from(CONTENTS).unwrap()
        };
        (0..50_u64).filter(breaks).count()
    };
    assert_eq!(broken(true), 0);
    assert!(broken(false) > 40);
}

#[test]
fn a_cut_in_the_middle_of_many_leaves_any_of_them() {
    for seed in 0..50 {
        let store = faulty(seed);
        let contents: Vec<_> = (0..CONTENTS).map(content).collect();
        let blobs: Vec<_> = contents.iter().map(|octets| Blob::new(octets)).collect();
        store.cut_power_after(seed % CONTENTS);
        assert!(is_io(&store.put_many(&blobs)));
        store.restore_power().unwrap();
        let left = names(&store, "").len() as u64;
        assert!(left == seed % CONTENTS || left == seed % CONTENTS + 1, "{left}");
        store.put_many(&blobs).unwrap();
    }
}
