//! Blobs: one suite over every store, a model to hold them against, and then what is particular to
//! each.
#![cfg(feature = "cas")]
#![allow(clippy::unwrap_used, reason = "a test helper has nobody to report to")]

mod fault;
mod file;
mod processes;
mod syncs;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aoe_server::blob::fault::FaultBlobStore;
use aoe_server::blob::file::FileBlobStore;
use aoe_server::blob::mem::MemBlobStore;
use aoe_server::blob::{
    BLOB_MAX, Blob, BlobError, BlobId, BlobInfo, BlobPrefix, BlobStore, InvalidBlobId, Put,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// The names of nothing, and of `abc`, as `b3sum` prints them.
const NOTHING: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
const ABC: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

/// A directory on a disk, which the one for temporary files may not be on.
fn temp() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Octets that follow no pattern, always the same for a seed.
fn octets(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn put(store: &dyn BlobStore, octets: &[u8]) -> Put {
    store.put(&Blob::new(octets)).unwrap()
}

fn list(store: &dyn BlobStore, prefix: &str) -> Vec<BlobInfo> {
    let mut listed = Vec::new();
    let prefix: BlobPrefix = prefix.parse().unwrap();
    let each = &mut |info| {
        listed.push(info);
        ControlFlow::Continue(())
    };
    store.list(&prefix, each).unwrap();
    listed
}

fn names(store: &dyn BlobStore, prefix: &str) -> Vec<BlobId> {
    list(store, prefix).into_iter().map(|info| info.id).collect()
}

fn assert_missing<T: std::fmt::Debug>(result: Result<T, BlobError>, wanted: BlobId) {
    match result {
        Err(BlobError::NotFound { id }) => assert_eq!(id, wanted),
        other => panic!("{other:?}"),
    }
}

/// What every store does.
fn suite(store: &dyn BlobStore) {
    absent_blobs_are_absent(store);
    what_is_put_is_had(store);
    parts_are_had(store);
    many_are_put_at_once(store);
    what_is_deleted_is_gone(store);
}

fn absent_blobs_are_absent(store: &dyn BlobStore) {
    let id = BlobId::of(b"never put");
    assert_missing(store.get(id), id);
    assert_missing(store.get_range(id, 0, &mut []), id);
    assert_missing(store.get_tail(id, &mut []), id);
    assert_missing(store.info(id), id);
    assert_missing(store.delete(id), id);
    assert!(!store.contains(id).unwrap());
    assert_eq!(names(store, ""), []);
    assert_eq!(names(store, &id.to_string()), []);
}

fn what_is_put_is_had(store: &dyn BlobStore) {
    for (seed, len) in [(1, 0), (2, 1), (3, 4_096), (4, 1_000_003)] {
        let octets = octets(seed, len);
        let id = BlobId::of(&octets);
        assert_eq!(put(store, &octets), Put::Written);
        assert_eq!(put(store, &octets), Put::Present);
        assert_eq!(store.get(id).unwrap(), octets);
        assert!(store.contains(id).unwrap());
        let info = store.info(id).unwrap();
        assert_eq!((info.id, info.len), (id, len as u64));
        assert_eq!(list(store, &id.to_string()), [info]);
        assert_eq!(names(store, &id.to_string()[..1]).len(), 1);
    }
    assert_eq!(names(store, "").len(), 4);
    let mut first = None;
    let each = &mut |info: BlobInfo| {
        assert_eq!(first.replace(info.id), None, "it goes on after a break");
        ControlFlow::Break(())
    };
    store.list(&BlobPrefix::ALL, each).unwrap();
    assert_eq!(first, Some(names(store, "")[0]));

    let long = vec![0; BLOB_MAX + 1];
    match store.put(&Blob::new(&long)) {
        Err(BlobError::TooLong { len, .. }) => assert_eq!(len, BLOB_MAX as u64 + 1),
        other => panic!("{other:?}"),
    }
}

fn parts_are_had(store: &dyn BlobStore) {
    let octets = octets(5, 1_000);
    let id = BlobId::of(&octets);
    put(store, &octets);
    for (offset, len) in [(0, 1_000), (0, 0), (1_000, 0), (1, 998), (999, 1)] {
        let mut into = vec![0xa5; len];
        store.get_range(id, offset as u64, &mut into).unwrap();
        assert_eq!(into, octets[offset..offset + len]);
        assert_eq!(store.get_tail(id, &mut into).unwrap(), 1_000);
        assert_eq!(into, octets[1_000 - len..]);
    }
    for (at, len) in [(0, 1_001), (1, 1_000), (1_000, 1), (1_001, 0), (u64::MAX, 1), (u64::MAX, 0)]
    {
        match store.get_range(id, at, &mut vec![0; len]) {
            Err(BlobError::Range { id: of, offset, wanted, len: has }) => {
                assert_eq!((of, offset, wanted, has), (id, at, len as u64, 1_000));
            }
            other => panic!("{other:?}"),
        }
    }
    let error = store.get_tail(id, &mut [0; 1_001]).unwrap_err();
    assert!(matches!(error, BlobError::Range { wanted: 1_001, len: 1_000, .. }), "{error}");
}

fn many_are_put_at_once(store: &dyn BlobStore) {
    assert_eq!(store.put_many(&[]).unwrap(), []);
    let some: Vec<_> = (100..400).map(|seed| octets(seed, 64)).collect();
    put(store, &some[7]);
    let mut blobs: Vec<_> = some.iter().map(|octets| Blob::new(octets)).collect();
    blobs.push(blobs[0]);
    blobs.push(blobs[299]);
    let puts = store.put_many(&blobs).unwrap();
    for (place, (blob, put)) in blobs.iter().zip(puts).enumerate() {
        let present = [7, 300, 301].contains(&place);
        assert_eq!(put, if present { Put::Present } else { Put::Written }, "{place}");
        assert_eq!(store.get(blob.id()).unwrap(), blob.octets());
    }
}

fn what_is_deleted_is_gone(store: &dyn BlobStore) {
    let all = names(store, "");
    assert!(all.is_sorted() && all.len() > 300);
    for prefix in ["0", "a", "3f", "c8"] {
        let some: Vec<_> =
            all.iter().filter(|id| id.to_string().starts_with(prefix)).copied().collect();
        assert_eq!(names(store, prefix), some);
    }
    for id in all {
        store.delete(id).unwrap();
        assert_missing(store.delete(id), id);
        assert_missing(store.get(id), id);
    }
    assert_eq!(names(store, ""), []);
    assert_eq!(put(store, b"again"), Put::Written);
    store.delete(BlobId::of(b"again")).unwrap();
}

#[test]
fn every_store_passes_the_suite() {
    let temp = temp();
    suite(&FileBlobStore::open(temp.path().join("a/b/blobs")).unwrap());
    suite(&MemBlobStore::new());
    suite(&FaultBlobStore::new(MemBlobStore::new(), 1));
    suite(&FaultBlobStore::new(FileBlobStore::open(temp.path().join("c")).unwrap(), 1));
    let boxed: Box<dyn BlobStore> = Box::new(MemBlobStore::new());
    suite(&*boxed);
}

#[test]
fn stores_tell_when_blobs_were_stored() {
    let store = MemBlobStore::new();
    put(&store, b"early");
    store.set_time(1_000);
    put(&store, b"late");
    put(&store, b"early");
    let time = |octets| store.info(BlobId::of(octets)).unwrap().stored_unix_seconds;
    assert_eq!((time(b"early"), time(b"late")), (0, 1_000));

    let temp = temp();
    let store = FileBlobStore::open(temp.path()).unwrap();
    put(&store, b"now");
    let stored = store.info(BlobId::of(b"now")).unwrap().stored_unix_seconds;
    let now = aoe_server::clock::unix_micros() / 1_000_000;
    assert!(now - 1_000 < stored && stored < now + 1_000, "{stored} is not about {now}");
}

#[test]
fn names_are_those_of_b3sum() {
    assert_eq!(BlobId::of(b"").to_string(), NOTHING);
    assert_eq!(BlobId::of(b"abc").to_string(), ABC);
    assert_eq!(ABC.parse(), Ok(BlobId::of(b"abc")));
    assert_eq!(format!("{:?}", BlobId::of(b"abc")), format!("BlobId({ABC})"));
}

#[test]
fn names_have_one_form() {
    let parse = |text: &str| text.parse::<BlobId>().unwrap_err();
    assert_eq!(parse(""), InvalidBlobId::TooShort { digits: 0 });
    assert_eq!(parse(&ABC[..63]), InvalidBlobId::TooShort { digits: 63 });
    assert_eq!(parse(&format!("{ABC}0")), InvalidBlobId::TooLong);
    let upper = ABC.replace("b3", "B3");
    assert_eq!(parse(&upper), InvalidBlobId::NotADigit { char: 'B', place: 4 });
    assert_eq!(parse(" "), InvalidBlobId::NotADigit { char: ' ', place: 0 });
    assert!("0g".parse::<BlobPrefix>().is_err());
}

proptest! {
    #[test]
    fn names_and_prefixes_come_back_from_text(
        id in any::<[u8; 32]>(),
        other in any::<[u8; 32]>(),
        digits in 0_usize..=64,
    ) {
        let id = BlobId(id);
        let text = id.to_string();
        prop_assert_eq!(text.parse(), Ok(id));
        let prefix: BlobPrefix = text[..digits].parse().unwrap();
        prop_assert_eq!(prefix.to_string(), &text[..digits]);
        prop_assert!(prefix.matches(id) && BlobPrefix::from(id).matches(id));
        let other = BlobId(other);
        let starts = other.to_string().starts_with(&text[..digits]);
        prop_assert_eq!(prefix.matches(other), starts);
    }
}

/// Something done to a store, with blobs of [`content`].
#[derive(Debug, Clone)]
enum Op {
    Put(u64),
    PutMany(Vec<u64>),
    Get(u64),
    Range(u64, u64, usize),
    List(String),
    Delete(u64),
    Reopen,
}

/// Few enough blobs that they meet again, of any length.
const CONTENTS: u64 = 24;

fn content(number: u64) -> Vec<u8> {
    octets(number + 10_000, usize::try_from(number * number * 7).unwrap())
}

fn op() -> impl Strategy<Value = Op> {
    let number = 0..CONTENTS;
    prop_oneof![
        4 => number.clone().prop_map(Op::Put),
        1 => proptest::collection::vec(number.clone(), 0..8).prop_map(Op::PutMany),
        3 => number.clone().prop_map(Op::Get),
        3 => (number.clone(), 0..4_000_u64, 0..4_000_usize)
            .prop_map(|(number, offset, len)| Op::Range(number, offset, len)),
        1 => "[0-9a-f]{0,2}".prop_map(Op::List),
        2 => number.prop_map(Op::Delete),
        1 => Just(Op::Reopen),
    ]
}

type Model = BTreeMap<BlobId, Vec<u8>>;

/// A put of `number` into the model, and what it comes to.
fn put_model(model: &mut Model, number: u64) -> Put {
    let octets = content(number);
    match model.insert(BlobId::of(&octets), octets) {
        None => Put::Written,
        Some(_) => Put::Present,
    }
}

/// Does `op` to `store` and `model`, which have to agree.
fn step(store: &dyn BlobStore, model: &mut Model, op: &Op) {
    let id = |number: &u64| BlobId::of(&content(*number));
    match op {
        Op::Put(number) => {
            assert_eq!(put(store, &content(*number)), put_model(model, *number));
        }
        Op::PutMany(numbers) => {
            let contents: Vec<_> = numbers.iter().map(|number| content(*number)).collect();
            let blobs: Vec<_> = contents.iter().map(|octets| Blob::new(octets)).collect();
            let wanted: Vec<_> = numbers.iter().map(|number| put_model(model, *number)).collect();
            assert_eq!(store.put_many(&blobs).unwrap(), wanted);
        }
        Op::Get(number) => match model.get(&id(number)) {
            Some(octets) => assert_eq!(&store.get(id(number)).unwrap(), octets),
            None => assert_missing(store.get(id(number)), id(number)),
        },
        Op::Range(number, offset, len) => {
            let mut into = vec![0xa5; *len];
            let result = store.get_range(id(number), *offset, &mut into);
            let Some(octets) = model.get(&id(number)) else {
                return assert_missing(result, id(number));
            };
            let start = usize::try_from(*offset).unwrap();
            match octets.get(start..start + len) {
                Some(part) => assert_eq!(result.map(|()| &into[..]).unwrap(), part),
                None => assert!(matches!(result, Err(BlobError::Range { .. })), "{result:?}"),
            }
        }
        Op::List(prefix) => {
            let wanted = model.keys().filter(|id| id.to_string().starts_with(prefix));
            assert_eq!(names(store, prefix), wanted.copied().collect::<Vec<_>>());
        }
        Op::Delete(number) => match model.remove(&id(number)) {
            Some(_) => store.delete(id(number)).unwrap(),
            None => assert_missing(store.delete(id(number)), id(number)),
        },
        Op::Reopen => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_directory_does_as_the_model(ops in proptest::collection::vec(op(), 0..60)) {
        let temp = temp();
        let mut store = FileBlobStore::open(temp.path()).unwrap();
        let mut model = Model::new();
        for op in ops {
            if matches!(op, Op::Reopen) {
                drop(store);
                store = FileBlobStore::open(temp.path()).unwrap();
            }
            step(&store, &mut model, &op);
        }
        drop(store);
        step(&FileBlobStore::open_read_only(temp.path()).unwrap(), &mut model, &Op::List(String::new()));
    }
}

proptest! {
    #[test]
    fn memory_does_as_the_model(ops in proptest::collection::vec(op(), 0..60)) {
        let (plain, wrapped) = (MemBlobStore::new(), FaultBlobStore::new(MemBlobStore::new(), 1));
        let (mut model, mut other) = (Model::new(), Model::new());
        for op in ops {
            step(&plain, &mut model, &op);
            step(&wrapped, &mut other, &op);
        }
    }
}

/// Threads that put the same blobs and others, while others read, leave every blob there once.
fn many_threads(store: &dyn BlobStore, blobs: u64) {
    const WRITERS: u64 = 4;
    let written = AtomicUsize::new(0);
    let contents: Vec<_> = (0..blobs).map(|seed| octets(seed, 3_000)).collect();
    thread::scope(|scope| {
        let (contents, written) = (&contents, &written);
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for turn in 0..blobs {
                    // Two go up and two down, so that they meet.
                    let turn = if writer % 2 == 0 { turn } else { blobs - 1 - turn };
                    let put = put(store, &contents[usize::try_from(turn).unwrap()]);
                    assert_ne!(put, Put::Repaired);
                    written.fetch_add(usize::from(put == Put::Written), Ordering::Relaxed);
                }
            });
        }
        scope.spawn(move || {
            let mut seen = 0;
            for _ in 0..20 {
                let listed = names(store, "");
                assert!(listed.len() >= seen, "a blob has gone");
                seen = listed.len();
                for id in listed.into_iter().take(50) {
                    assert_eq!(store.get(id).unwrap().len(), 3_000);
                }
            }
        });
    });
    assert_eq!(written.into_inner(), contents.len());
    let mut wanted: Vec<_> = contents.iter().map(|octets| BlobId::of(octets)).collect();
    wanted.sort_unstable();
    assert_eq!(names(store, ""), wanted);
}

#[test]
fn threads_may_put_the_same_blobs() {
    let temp = temp();
    many_threads(&FileBlobStore::open(temp.path()).unwrap(), 60);
    many_threads(&MemBlobStore::new(), 500);
    many_threads(&FaultBlobStore::new(MemBlobStore::new(), 1), 500);
}
