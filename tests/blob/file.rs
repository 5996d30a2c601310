//! What is particular to blobs as files of a directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;

fn open(temp: &TempDir) -> FileBlobStore {
    FileBlobStore::open(temp.path()).unwrap()
}

fn file_of(root: &Path, id: BlobId) -> PathBuf {
    let name = id.to_string();
    root.join(&name[..2]).join(name)
}

/// Takes the place of a blob, which nobody may write to.
fn overwrite(path: &Path, octets: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, octets).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Everything in a store, from its root.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn blobs_are_where_the_layout_says() {
    let temp = temp();
    let root = temp.path().join("data/aoe/blobs");
    let store = FileBlobStore::open(&root).unwrap();
    assert_eq!(store.path(), root);
    assert_eq!(put(&store, b"abc"), Put::Written);
    assert_eq!(put(&store, b""), Put::Written);
    assert_eq!(tree(&root), [format!("64/{ABC}"), format!("af/{NOTHING}"), "aoe-blobs".into()]);
    assert_eq!(fs::read(root.join("64").join(ABC)).unwrap(), b"abc");
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&root.join("64")), 0o700);
    assert_eq!(mode(&root.join("64").join(ABC)), 0o400);
    assert_eq!(mode(&root.join("aoe-blobs")), 0o600);
    drop(store);
    let store = FileBlobStore::open(&root).unwrap();
    assert_eq!(store.get(BlobId::of(b"abc")).unwrap(), b"abc");
    assert_eq!(put(&store, b"abc"), Put::Present, "also after it was opened again");
}

#[test]
fn a_flipped_bit_is_found_named_and_repaired() {
    let temp = temp();
    let store = open(&temp);
    let good = octets(1, 100);
    let id = BlobId::of(&good);
    put(&store, &good);
    let path = file_of(temp.path(), id);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        overwrite(&path, &bad);
        match store.get(id) {
            Err(BlobError::Damaged { wanted, found }) => {
                assert_eq!((wanted, found), (id, BlobId::of(&bad)));
            }
            other => panic!("{other:?}"),
        }
        let mut part = [0; 100];
        store.get_range(id, 0, &mut part).unwrap();
        assert_eq!(part, bad[..], "a part is not checked");
    }
    assert_eq!(put(&store, &good), Put::Repaired);
    assert_eq!(store.get(id).unwrap(), good);
    assert_eq!(put(&store, &good), Put::Present);
}

#[test]
fn a_blob_of_another_length_is_found_and_repaired() {
    let temp = temp();
    let store = open(&temp);
    let good = octets(1, 100);
    let id = BlobId::of(&good);
    put(&store, &good);
    let path = file_of(temp.path(), id);
    let longer = [&good[..], &[0]].concat();
    for bad in (0..100).map(|len| &good[..len]).chain([&longer[..]]) {
        overwrite(&path, bad);
        let error = store.get(id).unwrap_err();
        assert!(matches!(error, BlobError::Damaged { found, .. } if found == BlobId::of(bad)));
        assert_eq!(store.info(id).unwrap().len, bad.len() as u64);
        let error = store.get_range(id, 0, &mut [0; 102]).unwrap_err();
        let len = bad.len() as u64;
        assert!(matches!(error, BlobError::Range { len: has, .. } if has == len), "{error}");
    }
    assert_eq!(store.put_many(&[Blob::new(&good)]).unwrap(), [Put::Repaired]);
    assert_eq!(store.get(id).unwrap(), good);
}

#[test]
fn a_blob_under_the_name_of_another_is_found() {
    let temp = temp();
    let store = open(&temp);
    let [mine, other] = [b"mine", b"othr"].map(|octets| {
        put(&store, octets);
        BlobId::of(octets)
    });
    fs::copy(file_of(temp.path(), other), temp.path().join("moved")).unwrap();
    fs::rename(temp.path().join("moved"), file_of(temp.path(), mine)).unwrap();
    match store.get(mine) {
        Err(BlobError::Damaged { wanted, found }) => assert_eq!((wanted, found), (mine, other)),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.get(other).unwrap(), b"othr");
}

#[test]
fn a_blob_that_has_grown_out_of_all_bounds_is_not_read() {
    let temp = temp();
    let store = open(&temp);
    put(&store, b"abc");
    let path = file_of(temp.path(), BlobId::of(b"abc"));
    overwrite(&path, b"abc");
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let error = store.get(BlobId::of(b"abc")).unwrap_err();
    assert!(matches!(error, BlobError::Overlong { len, .. } if len == 1 << 40), "{error}");
    assert_eq!(put(&store, b"abc"), Put::Repaired);
}

/// Everything that can be done to the blob `abc` finds that `path` is none.
fn assert_no_blob(store: &FileBlobStore, path: &Path) {
    let id = BlobId::of(b"abc");
    let assert_named = |result: Result<(), BlobError>| match result {
        Err(BlobError::NotABlob { path: named }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    };
    assert_named(store.get(id).map(drop));
    assert_named(store.get_range(id, 0, &mut [0]));
    assert_named(store.get_tail(id, &mut [0]).map(drop));
    assert_named(store.info(id).map(drop));
    assert_named(store.contains(id).map(drop));
    assert_named(store.put(&Blob::new(b"abc")).map(drop));
    assert_named(store.list(&BlobPrefix::ALL, &mut |_| ControlFlow::Continue(())));
}

#[test]
fn what_is_no_file_is_no_blob() {
    let temp = temp();
    let store = open(&temp);
    put(&store, b"abc");
    let id = BlobId::of(b"abc");
    let path = file_of(temp.path(), id);
    let outside = temp.path().join("outside");
    fs::rename(&path, &outside).unwrap();

    fs::create_dir(&path).unwrap();
    assert_no_blob(&store, &path);
    let error = store.delete(id).unwrap_err();
    assert!(matches!(error, BlobError::NotABlob { .. }), "{error}");
    fs::remove_dir(&path).unwrap();

    symlink(&outside, &path).unwrap();
    assert_no_blob(&store, &path);
    store.delete(id).unwrap();
    assert!(outside.exists(), "the link is deleted, not what it leads to");

    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert_no_blob(&store, &path);
    fs::remove_file(&path).unwrap();
    assert_eq!(put(&store, b"abc"), Put::Written);
}

#[test]
fn what_is_no_blob_is_not_listed() {
    let temp = temp();
    let store = open(&temp);
    put(&store, b"abc");
    let shard = temp.path().join("64");
    for name in
        ["notes".into(), ABC.to_uppercase(), ABC[..63].into(), format!("{ABC}0"), NOTHING.into()]
    {
        fs::write(shard.join(name), b"").unwrap();
    }
    fs::write(shard.join(format!("{ABC}.0.new")), b"ab").unwrap();
    assert_eq!(names(&store, ""), [BlobId::of(b"abc")]);
    assert_eq!(names(&store, "af"), [], "it is not where it belongs");
}

#[test]
fn only_unfinished_blobs_are_swept_and_only_by_a_writer() {
    let temp = temp();
    put(&open(&temp), b"abc");
    let kept = [
        format!("64/{ABC}"),
        format!("64/{ABC}.0.new.bak"),
        format!("64/{ABC}.new"),
        format!("64/{ABC}.x.new"),
        format!("64/{NOTHING}.0.new"),
        "64/notes.0.new".into(),
        "notes.0.new".into(),
    ];
    for name in &kept[1..] {
        fs::write(temp.path().join(name), b"kept").unwrap();
    }
    let stale = [format!("64/{ABC}.0.new"), format!("64/{ABC}.17.new")];
    for name in &stale {
        fs::write(temp.path().join(name), b"ab").unwrap();
    }
    let reader = FileBlobStore::open_read_only(temp.path()).unwrap();
    assert_eq!(names(&reader, ""), [BlobId::of(b"abc")]);
    let error = FileBlobStore::open(temp.path()).unwrap_err();
    assert!(matches!(error, BlobError::InUse { .. }), "{error}");
    assert!(stale.iter().all(|name| temp.path().join(name).exists()));
    drop(reader);
    let store = open(&temp);
    let mut all = vec!["aoe-blobs".to_owned()];
    all.extend(kept);
    all.sort();
    assert_eq!(tree(temp.path()), all);
    assert_eq!(put(&store, b"abc"), Put::Present);
}

#[test]
fn a_put_that_fails_leaves_nothing() {
    let temp = temp();
    let store = open(&temp);
    let id = BlobId::of(b"abc");
    // The first one is begun before the second one is found to have no place.
    fs::create_dir(temp.path().join("64")).unwrap();
    fs::create_dir(file_of(temp.path(), id)).unwrap();
    let blobs = [Blob::new(b""), Blob::new(b"abc")];
    assert!(store.put_many(&blobs).is_err());
    assert!(tree(temp.path()).iter().all(|name| !name.contains(".new")));
    fs::remove_dir(file_of(temp.path(), id)).unwrap();
    store.put_many(&blobs).unwrap();
    assert_eq!(names(&store, "").len(), 2);
}

#[test]
fn many_blobs_are_listed_in_order() {
    let temp = temp();
    let store = open(&temp);
    let contents: Vec<_> = (0..2_000_u32).map(u32::to_le_bytes).collect();
    let blobs: Vec<_> = contents.iter().map(|octets| Blob::new(octets)).collect();
    store.put_many(&blobs).unwrap();
    let mut wanted: Vec<_> = blobs.iter().map(Blob::id).collect();
    wanted.sort_unstable();
    assert_eq!(names(&store, ""), wanted);
    let mut together = Vec::new();
    for digit in "0123456789abcdef".chars() {
        together.extend(names(&store, &digit.to_string()));
    }
    assert_eq!(together, wanted);
}

#[test]
fn one_writer_or_many_readers() {
    let temp = temp();
    let store = open(&temp);
    put(&store, b"abc");
    for result in [FileBlobStore::open(temp.path()), FileBlobStore::open_read_only(temp.path())] {
        let Err(BlobError::InUse { path, holder }) = result else { panic!("{result:?}") };
        assert_eq!(path, temp.path());
        assert_eq!(holder.unwrap().pid, std::process::id());
    }
    drop(store);
    let reader = FileBlobStore::open_read_only(temp.path()).unwrap();
    let other = FileBlobStore::open_read_only(temp.path()).unwrap();
    let id = BlobId::of(b"abc");
    assert_eq!(reader.get(id).unwrap(), other.get(id).unwrap());
    for result in [reader.put(&Blob::new(b"new")).map(drop), reader.delete(id)] {
        assert!(matches!(result, Err(BlobError::ReadOnly { .. })), "{result:?}");
    }
    drop((reader, other));
    open(&temp);
}

#[test]
fn only_a_missing_or_empty_directory_becomes_a_store() {
    let temp = temp();
    let missing = temp.path().join("missing");
    let error = FileBlobStore::open_read_only(&missing).unwrap_err();
    assert!(matches!(error, BlobError::Io { op: "open", .. }), "{error}");
    let error = FileBlobStore::open_read_only(temp.path()).unwrap_err();
    assert!(matches!(error, BlobError::NotAStore { .. }), "{error}");
    assert_eq!(tree(temp.path()), [""; 0]);

    fs::write(temp.path().join("letters"), b"").unwrap();
    let error = FileBlobStore::open(temp.path()).unwrap_err();
    assert!(matches!(error, BlobError::NotAStore { .. }), "{error}");
    assert_eq!(tree(temp.path()), ["letters"], "nothing was made");
    let error = FileBlobStore::open(temp.path().join("letters")).unwrap_err();
    assert!(matches!(error, BlobError::Io { op: "open", .. }), "{error}");

    let mounted = temp.path().join("mounted");
    fs::create_dir_all(mounted.join("lost+found")).unwrap();
    put(&FileBlobStore::open(&mounted).unwrap(), b"abc");
    drop(FileBlobStore::open_read_only(&mounted).unwrap());
}

#[test]
fn a_marker_is_completed_only_where_nothing_can_be_lost() {
    let temp = temp();
    drop(open(&temp));
    let marker = temp.path().join("aoe-blobs");
    let good = fs::read(&marker).unwrap();
    for left in [&good[..0], &good[..9], &[0; 16]] {
        fs::write(&marker, left).unwrap();
        let error = FileBlobStore::open_read_only(temp.path()).unwrap_err();
        assert!(matches!(error, BlobError::BadMarker { .. }), "{error}");
        drop(open(&temp));
        assert_eq!(fs::read(&marker).unwrap(), good);
    }
    put(&open(&temp), b"abc");
    fs::write(&marker, []).unwrap();
    match FileBlobStore::open(temp.path()) {
        Err(BlobError::BadMarker { path }) => assert_eq!(path, marker),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&marker).unwrap(), b"", "what was refused is left as it is");
    fs::write(&marker, &good).unwrap();
    assert_eq!(names(&open(&temp), ""), [BlobId::of(b"abc")]);
}

#[test]
fn another_version_is_refused_by_its_number() {
    let temp = temp();
    drop(open(&temp));
    let marker = temp.path().join("aoe-blobs");
    let mut newer = fs::read(&marker).unwrap();
    newer[8] = 2;
    fs::write(&marker, &newer).unwrap();
    for result in [FileBlobStore::open(temp.path()), FileBlobStore::open_read_only(temp.path())] {
        let error = result.unwrap_err();
        assert!(matches!(error, BlobError::UnknownVersion { version: 2, .. }), "{error}");
    }
    assert_eq!(fs::read(&marker).unwrap(), newer);
    fs::write(&marker, b"a marker of somebody else").unwrap();
    let error = FileBlobStore::open(temp.path()).unwrap_err();
    assert!(matches!(error, BlobError::BadMarker { .. }), "{error}");
}

#[test]
fn without_permission_it_says_so() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let temp = temp();
    let store = open(&temp);
    put(&store, b"abc");
    let shard = temp.path().join("64");
    // Of this thread only; root may otherwise do as it likes.
    let before = capabilities(None).unwrap();
    let mut fewer = before;
    fewer.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    set_capabilities(None, fewer).unwrap();
    fs::set_permissions(&shard, Permissions::from_mode(0o500)).unwrap();
    let deleted = store.delete(BlobId::of(b"abc"));
    // Enough of them that some belong there.
    let put_there = (0..=0xff_u8).map(|octet| store.put(&Blob::new(&[octet])));
    let refused: Vec<_> = put_there.filter_map(Result::err).collect();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o500)).unwrap();
    let made = (0..=0xff_u8).find_map(|octet| store.put(&Blob::new(&[octet, 1])).err());
    fs::set_permissions(temp.path(), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&shard, Permissions::from_mode(0o700)).unwrap();
    set_capabilities(None, before).unwrap();

    let told = |error: &BlobError, wanted| match error {
        BlobError::NoPermission { op, .. } => assert_eq!(*op, wanted, "{error}"),
        other => panic!("{other:?}"),
    };
    told(&deleted.unwrap_err(), "delete");
    assert!(!refused.is_empty());
    for error in &refused {
        told(error, "create");
    }
    told(&made.unwrap(), "create");
}
