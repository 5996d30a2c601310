//! The index as a whole.

use super::*;

/// A key; those with numbers next to each other are next to each other.
pub(super) fn id(number: u8) -> ContentId {
    let mut octets = [0xa5; 32];
    octets[0] = number;
    ContentId(octets)
}

pub(super) fn location(number: u8, pack: u32) -> Location {
    Location { pack, place: FramePlace { offset: u32::from(number) * 1000, len: pack + 40 } }
}

pub(super) fn entry(number: u8, pack: u32) -> Entry {
    Entry { id: id(number), location: location(number, pack) }
}

fn key(number: u64) -> ContentId {
    ContentId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

#[test]
fn smoke() {
    let runs = MemRuns::new();
    let store = StoreId([7; 16]);
    let index = Index::create(runs.clone(), store).unwrap();
    for pack in 0..100_u32 {
        let some = (0..300).map(|n| (key(u64::from(pack) * 300 + n), location(1, pack)));
        index.insert_many(some);
        index.flush(pack).unwrap();
        assert!(index.runs().len() <= 12);
    }
    println!("{:?} {:?}", index.runs(), runs.names());
    drop(index);
    let Opened { index, unusable } = Index::open(runs, store).unwrap();
    assert!(unusable.is_empty());
    assert_eq!(index.covered(), Some(99));
    for n in 0..30_000 {
        let pack = u32::try_from(n / 300).unwrap();
        assert_eq!(index.get(key(n)).unwrap(), Some(location(1, pack)), "{n}");
    }
    for n in 30_000..60_000 {
        assert_eq!(index.get(key(n)).unwrap(), None);
    }
    assert!(index.verify().is_empty());
}
