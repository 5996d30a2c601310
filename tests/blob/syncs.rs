//! Disks that cannot sync, which a filter of system calls stands for.

#![allow(unsafe_code, reason = "filters of system calls exist only in libc")]

use std::fs;
use std::path::Path;

use super::*;

/// Lets `call` fail with EIO in this thread, for good.
#[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "they are small")]
fn refuse(call: libc::c_long) {
    let code = |code: u32| u16::try_from(code).unwrap();
    let step = |of: u32, jf, k| libc::sock_filter { code: code(of), jt: 0, jf, k };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EIO as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program =
        libc::sock_fprog { len: filter.len().try_into().unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: no pointer is passed.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program points to that many instructions, which live until the call returns.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Does `work` in a thread where `call` fails.
fn without(call: libc::c_long, work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(move || {
            refuse(call);
            work();
        });
    });
}

fn assert_sync_failed<T: std::fmt::Debug>(result: Result<T, BlobError>, at: &Path) {
    match result {
        Err(BlobError::Io { op: "sync", path, .. }) => {
            assert!(path.starts_with(at), "{}", path.display());
        }
        other => panic!("{other:?}"),
    }
}

fn assert_stopped(store: &FileBlobStore) {
    for result in [
        store.put(&Blob::new(b"abc")).map(drop),
        store.put_many(&[Blob::new(b"abc")]).map(drop),
        store.delete(BlobId::of(b"abc")),
    ] {
        assert!(matches!(result, Err(BlobError::Stopped { .. })), "{result:?}");
    }
    assert_eq!(store.get(BlobId::of(b"abc")).unwrap(), b"abc", "what is there can be had");
}

#[test]
fn a_file_that_cannot_be_synced_is_thrown_away() {
    let temp = temp();
    let store = FileBlobStore::open(temp.path()).unwrap();
    put(&store, b"abc");
    // In the same shard, which exists, so that its file is the first to be synced.
    let mut other = (0..).map(u32::to_le_bytes).filter(|octets| BlobId::of(octets).0[0] == 0x64);
    let other = other.next().unwrap();
    let shard = temp.path().join("64");
    without(libc::SYS_fsync, || {
        assert_sync_failed(store.put(&Blob::new(&other)), &shard);
        assert_eq!(put(&store, b"abc"), Put::Present, "its name is known to be durable");
    });
    assert_eq!(fs::read_dir(&shard).unwrap().count(), 1);
    assert_eq!(put(&store, &other), Put::Written);
}

#[test]
fn a_directory_that_cannot_be_synced_stops_the_store() {
    let temp = temp();
    put(&FileBlobStore::open(temp.path()).unwrap(), b"abc");
    let store = FileBlobStore::open(temp.path()).unwrap();
    // It is there, and whoever put it may not have synced its name.
    without(libc::SYS_fsync, || {
        assert_sync_failed(store.put(&Blob::new(b"abc")), &temp.path().join("64"));
    });
    assert_stopped(&store);
    drop(store);
    let store = FileBlobStore::open(temp.path()).unwrap();
    assert_eq!(put(&store, b"abc"), Put::Present);
    // A shard that is made has to be durable before anything in it is.
    without(libc::SYS_fsync, || {
        assert_sync_failed(store.put(&Blob::new(b"")), temp.path());
    });
    assert_stopped(&store);
    drop(store);
    assert_eq!(put(&FileBlobStore::open(temp.path()).unwrap(), b""), Put::Written);
}

#[test]
fn a_file_system_that_cannot_be_synced_stops_the_store() {
    let temp = temp();
    let store = FileBlobStore::open(temp.path()).unwrap();
    put(&store, b"abc");
    let contents: Vec<_> = (0..64_u32).map(u32::to_le_bytes).collect();
    let blobs: Vec<_> = contents.iter().map(|octets| Blob::new(octets)).collect();
    let mut whole = false;
    without(libc::SYS_syncfs, || match store.put_many(&blobs) {
        // On a file system that is not known to do what is asked of it, each file is synced.
        Ok(_) => {}
        Err(error) => {
            assert_sync_failed::<()>(Err(error), temp.path());
            whole = true;
        }
    });
    if whole {
        assert_stopped(&store);
        assert_eq!(names(&store, "").len(), 1, "nothing was renamed");
    }
    drop(store);
    let store = FileBlobStore::open(temp.path()).unwrap();
    store.put_many(&blobs).unwrap();
    assert_eq!(names(&store, "").len(), 65);
    let all_present = store.put_many(&blobs).unwrap();
    assert!(all_present.iter().all(|put| *put == Put::Present));
}
