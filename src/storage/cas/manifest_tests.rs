//! Tests of manifests and lists of packs.

use hex_literal::hex;
use proptest::prelude::*;

use super::*;

const STORE: StoreId = StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
/// Two volumes and a snapshot of the first.
const MANIFEST: [u8; 411] = hex!(
    "41 6f 45 6d 61 6e 69 66"  // AoEmanif
    "01 00 01 01"              // version 1, packed, there is one before
    "00 40 00 00"              // blocks of 16 KiB
    "00 01 02 03 04 05 06 07"  // the store
    "08 09 0a 0b 0c 0d 0e 0f"
    "09 00 00 00 00 00 00 00"  // commit 9
    "00 00 00 00 00 00 00 00"  // no features
    "00 00 00 00 00 00 00 00"
    "00 00 00 00 00 00 00 00"
    "55 55 55 55 55 55 55 55 55 55 55 55 55 55 55 55" // the manifest before
    "55 55 55 55 55 55 55 55 55 55 55 55 55 55 55 55"
    "03 00 00 00 0c 00 00 00"  // the next volume is number 3, the next pack 12
    "02 00 00 00 01 00 00 00"  // two volumes, a snapshot
    "01 00 00 00 00 00 00 00"  // a list of packs; reserved
    //
    "01 00 00 00"              // volume 1
    "03 01 00 04"              // three levels, a node, reserved, a name of four
    "00 00 00 01 00 00 00 00"  // 8 GiB
    "07 00 00 00 00 00 00 00"  // with seven writes
    "00 b9 55 69 00 00 00 00"  // made when 2026 began
    "11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11" // its tree
    "11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11"
    "65 31 2e 30"              // e1.0
    //
    "02 00 00 00"              // volume 2
    "01 00 00 09"              // one level, no node, reserved, a name of nine
    "08 00 00 00 00 00 00 00"  // 4 KiB
    "00 00 00 00 00 00 00 00"  // nothing was written to it
    "01 b9 55 69 00 00 00 00"  // made a second later
    "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00" // all zeros
    "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
    "73 63 72 61 74 63 68 5f 32" // scratch_2
    //
    "01 00 00 00"              // of volume 1
    "03 01 00 0e"              // three levels, a node, reserved, a name of 14
    "00 00 00 01 00 00 00 00"  // 8 GiB
    "05 00 00 00 00 00 00 00"  // with five writes
    "02 b9 55 69 00 00 00 00"
    "22 22 22 22 22 22 22 22 22 22 22 22 22 22 22 22"
    "22 22 22 22 22 22 22 22 22 22 22 22 22 22 22 22"
    "62 65 66 6f 72 65 2d 75 70 67 72 61 64 65" // before-upgrade
    //
    "33 33 33 33 33 33 33 33 33 33 33 33 33 33 33 33" // the pack of the list
    "33 33 33 33 33 33 33 33 33 33 33 33 33 33 33 33"
    "24 00 00 00 00 01 00 00"  // at 36, 256 octets
    "44 44 44 44 44 44 44 44 44 44 44 44 44 44 44 44" // the list
    "44 44 44 44 44 44 44 44 44 44 44 44 44 44 44 44"
);
const LIST: [u8; 104] = hex!(
    "41 6f 45 70 6c 69 73 74"  // AoEplist
    "01 00 00 00 02 00 00 00"  // version 1, reserved, two packs
    "03 00 00 00 00 00 00 01"  // number 3, 16 MiB
    "01 00 00 00"              // of blocks, reserved
    "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 66"
    "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 66"
    "05 00 00 00 00 10 00 00"  // number 5, 4 KiB
    "02 00 00 00"              // of nodes, reserved
    "77 77 77 77 77 77 77 77 77 77 77 77 77 77 77 77"
    "77 77 77 77 77 77 77 77 77 77 77 77 77 77 77 77"
);

fn tree(depth: u8, octet: u8) -> TreeRoot {
    TreeRoot { node: (octet != 0).then_some(ContentId([octet; 32])), depth }
}

fn manifest() -> Manifest {
    let volume = |number, name: &str, size, root, through, age| VolumeEntry {
        number: VolumeNumber(number),
        name: name.to_owned(),
        size: Sectors(size),
        root,
        through,
        created_unix_seconds: 1_767_225_600_u64 + age,
    };
    Manifest {
        store: STORE,
        block_bytes: 16384,
        layout: Layout::Packed,
        commit: 9,
        parent: Some(ContentId([0x55; 32])),
        next_volume: 3,
        next_pack: 12,
        features: Features::default(),
        volumes: vec![
            volume(1, "e1.0", 1 << 24, tree(3, 0x11), 7, 0),
            volume(2, "scratch_2", 8, tree(1, 0), 0, 1),
        ],
        snapshots: vec![SnapshotEntry {
            name: "before-upgrade".to_owned(),
            volume: VolumeNumber(1),
            size: Sectors(1 << 24),
            root: tree(3, 0x22),
            through: 5,
            created_unix_seconds: 1_767_225_602,
        }],
        pack_lists: vec![FrameRef {
            pack: BlobId([0x33; 32]),
            place: FramePlace { offset: 36, len: 256 },
            id: ContentId([0x44; 32]),
        }],
    }
}

fn packs() -> Vec<PackEntry> {
    let pack =
        |number, octet, bytes, kind| PackEntry { number, id: BlobId([octet; 32]), bytes, kind };
    vec![pack(3, 0x66, 16 << 20, PackKind::Data), pack(5, 0x77, 4096, PackKind::Meta)]
}

fn is_wrong<T>(parsed: Result<T, ManifestError>) -> &'static str {
    match parsed.err() {
        Some(ManifestError::Wrong { wrong, .. }) => wrong,
        other => panic!("not that something is wrong, but {other:?}"),
    }
}

#[test]
fn a_known_manifest() {
    assert_eq!(manifest().emit(), MANIFEST);
    assert_eq!(Manifest::parse(&MANIFEST), Ok(manifest()));
    let empty = Manifest {
        parent: None,
        volumes: Vec::new(),
        snapshots: Vec::new(),
        pack_lists: Vec::new(),
        layout: Layout::Loose,
        ..manifest()
    };
    let octets = empty.emit();
    assert_eq!(octets.len(), 120);
    assert_eq!(Manifest::parse(&octets), Ok(empty));
}

#[test]
fn a_known_list() {
    assert_eq!(emit_pack_list(&packs()), LIST);
    assert_eq!(parse_pack_list(&LIST), Ok(packs()));
    assert_eq!(parse_pack_list(&emit_pack_list(&[])), Ok(Vec::new()));
}

#[test]
fn refuses_every_other_length() {
    for len in 0..MANIFEST.len() {
        assert!(Manifest::parse(&MANIFEST[..len]).is_err(), "{len} octets");
    }
    let longer = Manifest::parse(&[&MANIFEST[..], &[0]].concat());
    assert_eq!(longer, Err(cut_short(MANIFEST_NAME)));
    for len in 0..LIST.len() {
        assert!(parse_pack_list(&LIST[..len]).is_err(), "{len} octets");
    }
    let longer = parse_pack_list(&[&LIST[..], &[0]].concat());
    assert_eq!(longer, Err(cut_short(LIST_NAME)));
}

#[test]
fn counts_are_claims() {
    for at in [104, 108, 112] {
        for count in [3, 1 << 20, u32::MAX] {
            let mut octets = MANIFEST;
            octets[at..at + 4].copy_from_slice(&u32::to_le_bytes(count));
            assert!(Manifest::parse(&octets).is_err(), "{count} at {at}");
        }
    }
    for count in [0, 1, 3, u32::MAX] {
        let mut octets = LIST;
        octets[12..16].copy_from_slice(&u32::to_le_bytes(count));
        assert_eq!(parse_pack_list(&octets), Err(cut_short(LIST_NAME)), "{count} packs");
    }
}

#[test]
fn versions_and_features_are_refused_by_their_numbers() {
    let changed = |at: usize, octet| {
        let mut octets = MANIFEST;
        octets[at] = octet;
        Manifest::parse(&octets)
    };
    let version = ManifestError::Version { what: MANIFEST_NAME, found: 2 };
    assert_eq!(changed(8, 2), Err(version));
    assert_eq!(changed(40, 6), Err(ManifestError::Features { unknown: 6 }));
    assert_eq!(changed(0, 0), Err(ManifestError::Magic { what: MANIFEST_NAME }));
    // Others keep only from what they are for.
    assert_eq!(changed(48, 5).unwrap().features.unknown_to_write(), 5);
    assert_eq!(changed(56, 9).unwrap().features.unknown_to_gc(), 9);
    assert_eq!(manifest().features.unknown_to_write(), 0);
    assert_eq!(manifest().features.unknown_to_gc(), 0);
    let mut octets = LIST;
    octets[9] = 1;
    let version = ManifestError::Version { what: LIST_NAME, found: 257 };
    assert_eq!(parse_pack_list(&octets), Err(version));
}

#[test]
fn names() {
    let longest = "a".repeat(64);
    for name in ["a", "e1.0", "A-b_c.9", "_", "0", &longest] {
        assert!(is_name(name), "{name}");
    }
    let too_long = "a".repeat(65);
    for name in ["", ".", "..", ".a", "-a", "a b", "a/b", "a@b", "\u{e4}", "a\0", "a\n", &too_long]
    {
        assert!(!is_name(name), "{name:?}");
    }
}

type Change = fn(&mut Manifest);

#[test]
fn what_cannot_be_is_neither_written_nor_read() {
    let changes: [(Change, &str); 17] = [
        (|m| m.block_bytes = 2048, "the size of a block"),
        (|m| m.block_bytes = 131_072, "the size of a block"),
        (|m| m.block_bytes = 12_288, "the size of a block"),
        (|m| m.next_volume = 2, "the number of a volume"),
        (|m| m.volumes[1].name = "a/b".to_owned(), "a name"),
        (|m| m.volumes[1].name = "e1.0".to_owned(), "the order of volumes"),
        (|m| m.volumes[1].number = VolumeNumber(1), "two volumes of one number"),
        (|m| m.volumes.swap(0, 1), "the order of volumes"),
        (|m| m.volumes[0].size = Sectors(0), "the size of a volume"),
        (|m| m.volumes[0].size = Sectors((1 << 48) + 1), "the size of a volume"),
        (|m| m.volumes[0].root.depth = 2, "the depth of a tree"),
        (|m| m.volumes[0].root.depth = 10, "the depth of a tree"),
        (|m| m.volumes[1].root.depth = 0, "the depth of a tree"),
        (|m| m.snapshots[0].name = ".a".to_owned(), "a name"),
        (|m| m.snapshots[0].root.depth = 2, "the depth of a tree"),
        (|m| m.snapshots.push(m.snapshots[0].clone()), "the order of snapshots"),
        (
            |m| {
                m.volumes.remove(0);
            },
            "a snapshot of no volume",
        ),
    ];
    for (change, wrong) in changes {
        let mut manifest = manifest();
        change(&mut manifest);
        assert_eq!(is_wrong(manifest.check()), wrong);
        assert_eq!(is_wrong(Manifest::parse(&manifest.emit_unchecked())), wrong);
    }
}

#[test]
fn the_deepest_tree_and_the_largest_volume() {
    let mut manifest = manifest();
    manifest.block_bytes = 4096;
    manifest.volumes[0].size = Sectors(1 << 48);
    for (depth, is_enough) in [(6, false), (7, true), (9, true)] {
        manifest.volumes[0].root.depth = depth;
        assert_eq!(manifest.check().is_ok(), is_enough, "{depth} levels");
    }
    // 128 blocks of 4 KiB fill one level.
    manifest.volumes[1].size = Sectors(1024);
    assert_eq!(manifest.check(), Ok(()));
    manifest.volumes[1].size = Sectors(1025);
    assert_eq!(is_wrong(manifest.check()), "the depth of a tree");
}

#[test]
#[should_panic(expected = "the order of volumes")]
fn what_nobody_could_read_is_not_written() {
    let mut manifest = manifest();
    manifest.volumes.swap(0, 1);
    manifest.emit();
}

#[test]
fn packs_are_in_order() {
    let refused = |change: fn(&mut Vec<PackEntry>)| {
        let mut packs = packs();
        change(&mut packs);
        is_wrong(check_pack_list(&packs))
    };
    assert_eq!(refused(|packs| packs.swap(0, 1)), "the order of packs");
    assert_eq!(refused(|packs| packs[1].number = 3), "the order of packs");
    assert_eq!(refused(|packs| packs[0].bytes = 0), "the length of a pack");
    assert_eq!(refused(|packs| packs[0].bytes = (64 << 20) + 1), "the length of a pack");
    for (at, octet, wrong) in [
        (10, 1, "its header"),
        (16, 5, "the order of packs"),
        (23, 5, "the length of a pack"),
        (24, 3, "the kind of a pack"),
        (25, 1, "the kind of a pack"),
    ] {
        let mut octets = LIST;
        octets[at] = octet;
        assert_eq!(is_wrong(parse_pack_list(&octets)), wrong);
    }
}

#[test]
fn every_bit_means_something() {
    for bit in 0..MANIFEST.len() * 8 {
        let mut octets = MANIFEST;
        octets[bit / 8] ^= 1 << (bit % 8);
        // The frame around it has its name; here it is enough that no octet is passed over.
        if let Ok(parsed) = Manifest::parse(&octets) {
            assert_ne!(parsed, manifest(), "bit {bit}");
            assert_eq!(parsed.emit(), octets, "bit {bit}");
        }
    }
    for bit in 0..LIST.len() * 8 {
        let mut octets = LIST;
        octets[bit / 8] ^= 1 << (bit % 8);
        if let Ok(parsed) = parse_pack_list(&octets) {
            assert_ne!(parsed, packs(), "bit {bit}");
            assert_eq!(emit_pack_list(&parsed), octets, "bit {bit}");
        }
    }
}

fn roots() -> impl Strategy<Value = TreeRoot> {
    (any::<Option<[u8; 32]>>(), 5_u8..=9)
        .prop_map(|(node, depth)| TreeRoot { node: node.map(ContentId), depth })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        names in prop::collection::btree_set("[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", 1..8),
        root in roots(),
        (size, through, created_unix_seconds) in (1_u64..1 << 38, any::<u64>(), any::<u64>()),
        parent in any::<Option<[u8; 32]>>(),
        (write, gc) in any::<(u64, u64)>(),
        lists in 0_usize..4,
    ) {
        let numbers = (0..).map(VolumeNumber);
        let volume = |(number, name): (_, &String)| VolumeEntry {
            number,
            name: name.clone(),
            size: Sectors(size),
            root,
            through,
            created_unix_seconds,
        };
        let snapshot = |name: &String| SnapshotEntry {
            name: name.clone(),
            volume: VolumeNumber(0),
            size: Sectors(size),
            root,
            through,
            created_unix_seconds,
        };
        let manifest = Manifest {
            parent: parent.map(ContentId),
            next_volume: 8,
            features: Features { read: 0, write, gc },
            volumes: numbers.zip(&names).map(volume).collect(),
            snapshots: names.iter().map(snapshot).collect(),
            pack_lists: vec![manifest().pack_lists[0]; lists],
            ..manifest()
        };
        let octets = manifest.emit();
        prop_assert_eq!(Manifest::parse(&octets), Ok(manifest));
    }

    #[test]
    fn no_input_panics(at in 0_usize..411, octets in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut changed = MANIFEST[..at].to_vec();
        changed.extend_from_slice(&octets);
        changed.extend_from_slice(MANIFEST.get(at + octets.len()..).unwrap_or_default());
        if let Ok(manifest) = Manifest::parse(&changed) {
            prop_assert_eq!(manifest.emit(), changed);
        }
    }

    #[test]
    fn lists_come_back(
        packs in prop::collection::btree_map(
            any::<u32>(), (any::<[u8; 32]>(), 1_u32..=64 << 20, any::<bool>()), 0..20,
        ),
    ) {
        let pack = |(number, (id, bytes, is_data))| PackEntry {
            number,
            id: BlobId(id),
            bytes,
            kind: if is_data { PackKind::Data } else { PackKind::Meta },
        };
        let packs: Vec<_> = packs.into_iter().map(pack).collect();
        prop_assert_eq!(parse_pack_list(&emit_pack_list(&packs)), Ok(packs));
    }
}
