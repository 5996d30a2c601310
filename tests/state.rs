//! Settings of targets on disk: they survive, and damage never passes for settings.
#![allow(clippy::unwrap_used, reason = "a test helper has nobody to report to")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::error::Error as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aoe_server::engine::{ConfigString, MacList, Settings};
use aoe_server::protocol::{Address, MacAddr};
use aoe_server::server::state::{
    Damage, SaveFailed, SaverBusy, SettingsSaver, StateDirectory, StateError, fuzz,
};
use aoe_server::wake::Waker;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const E7_3: Address = Address::new(7, 3);

fn settings(string: &[u8], mask: &[[u8; 6]], reservation: &[[u8; 6]]) -> Settings {
    let list = |addresses: &[[u8; 6]]| {
        let mut list = MacList::new();
        for address in addresses {
            list.add(MacAddr(*address)).unwrap();
        }
        list
    };
    Settings {
        config_string: ConfigString::from_octets(string).unwrap(),
        mask: list(mask),
        reservation: list(reservation),
    }
}

fn some_settings() -> Settings {
    settings(b"owner=host1", &[[0x52, 0x54, 0, 0, 0, 1], [2; 6]], &[[0x52, 0x54, 0, 0, 0, 1]])
}

/// A state directory with [`some_settings`] for e7.3 in it, and where that file is.
fn saved() -> (tempfile::TempDir, StateDirectory, std::path::PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(temp.path().join("state")).unwrap();
    state.save(E7_3, &some_settings()).unwrap();
    let file = state.path().join("e7.3.settings");
    (temp, state, file)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn settings_survive_the_server_and_stay_private() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("var/lib/aoe");
    let state = StateDirectory::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(state.load(E7_3).unwrap(), Settings::default(), "nothing was saved yet");
    state.save(E7_3, &some_settings()).unwrap();
    state.save(Address::new(7, 4), &settings(b"other", &[], &[])).unwrap();
    drop(state);
    let state = StateDirectory::open(&path).unwrap();
    assert_eq!(state.load(E7_3).unwrap(), some_settings());
    assert_eq!(state.load(Address::new(7, 4)).unwrap(), settings(b"other", &[], &[]));
    state.save(E7_3, &Settings::default()).unwrap();
    assert_eq!(state.load(E7_3).unwrap(), Settings::default(), "clearing is kept, too");
    assert_eq!(names(&path), ["e7.3.settings", "e7.4.settings"]);
    assert_eq!(mode(&path.join("e7.3.settings")), 0o600);
}

proptest! {
    // Every case waits for the disk several times.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_saved_is_loaded(
        string in proptest::collection::vec(any::<u8>(), 0..=1024),
        mask in proptest::collection::vec(any::<[u8; 6]>(), 0..=255),
        reservation in proptest::collection::vec(any::<[u8; 6]>(), 0..=255),
    ) {
        let wanted = settings(&string, &mask, &reservation);
        let temp = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temp.path()).unwrap();
        state.save(E7_3, &wanted).unwrap();
        prop_assert_eq!(state.load(E7_3).unwrap(), wanted);
    }
}

proptest! {
    #[test]
    fn any_octets_are_refused_or_canonical(
        octets in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        fuzz(&octets);
        let mut likely = b"AoEstate\x01\0\0\0".to_vec();
        likely.extend(&octets);
        fuzz(&likely);
    }
}

#[test]
fn every_flipped_bit_is_detected() {
    let (_temp, state, file) = saved();
    let good = fs::read(&file).unwrap();
    fuzz(&good);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &bad).unwrap();
        match state.load(E7_3) {
            Err(StateError::Damaged { path, .. } | StateError::UnknownVersion { path, .. }) => {
                assert_eq!(path, file);
            }
            other => panic!("bit {bit}: {other:?}"),
        }
        fuzz(&bad);
    }
}

#[test]
fn every_truncation_and_every_addition_is_detected() {
    let (_temp, state, file) = saved();
    let good = fs::read(&file).unwrap();
    for len in 0..good.len() {
        fs::write(&file, &good[..len]).unwrap();
        let error = state.load(E7_3).unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{len}: {error}");
    }
    for added in [1, 6, 4096, 1 << 20] {
        let mut long = good.clone();
        long.resize(good.len() + added, 0);
        fs::write(&file, &long).unwrap();
        let error = state.load(E7_3).unwrap_err();
        let length = matches!(error, StateError::Damaged { damage: Damage::Length { .. }, .. });
        assert!(length, "{added}: {error}");
    }
}

#[test]
fn damage_is_told_with_file_reason_and_remedy() {
    let (_temp, state, file) = saved();
    let mut octets = fs::read(&file).unwrap();
    let shown = file.display();
    *octets.last_mut().unwrap() ^= 0xff;
    fs::write(&file, &octets).unwrap();
    let text = state.load(E7_3).unwrap_err().to_string();
    let start = format!("the settings in {shown} are damaged: its checksum is ");
    assert!(text.starts_with(&start), "{text}");
    assert!(
        text.ends_with(
            "; restore the file, or remove it to start without config string, mask and reservation"
        ),
        "{text}"
    );

    fs::write(&file, b"").unwrap();
    let text = state.load(E7_3).unwrap_err().to_string();
    assert!(text.contains("damaged: it is cut short: 0 bytes; "), "{text}");

    fs::write(&file, b"\x7fELF and so on").unwrap();
    let text = state.load(E7_3).unwrap_err().to_string();
    assert!(text.contains("damaged: it is no file of settings; "), "{text}");

    octets[8] = 2;
    fs::write(&file, &octets).unwrap();
    assert_eq!(
        state.load(E7_3).unwrap_err().to_string(),
        format!(
            "the settings in {shown} have format version 2, but this program knows only version 1; \
             use the program that wrote them"
        )
    );
}

#[test]
fn what_is_not_a_plain_file_is_not_read() {
    let (temp, state, file) = saved();
    let elsewhere = temp.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let error = state.load(E7_3).unwrap_err();
    assert!(matches!(error, StateError::Io { operation: "open", .. }), "{error:?}");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = state.load(E7_3).unwrap_err();
    assert!(matches!(error, StateError::Io { operation: "read", .. }), "{error:?}");
    let error = state.save(E7_3, &some_settings()).unwrap_err();
    assert!(matches!(error, StateError::Io { operation: "replace", .. }), "{error:?}");
    assert_eq!(names(state.path()), ["e7.3.settings"], "the unfinished file is gone");
}

#[test]
fn what_a_crash_left_is_swept_and_never_read() {
    let (_temp, state, file) = saved();
    let path = state.path().to_path_buf();
    drop(state);
    let half = &fs::read(&file).unwrap()[..20];
    for name in ["e7.3.settings.new", "e9.0.settings.new"] {
        fs::write(path.join(name), half).unwrap();
    }
    // Not ours, whatever they are.
    let foreign = ["e07.3.settings.new", "notes.new", "x.settings.new"];
    for name in foreign {
        fs::write(path.join(name), half).unwrap();
    }
    let state = StateDirectory::open(&path).unwrap();
    assert_eq!(
        names(&path),
        ["e07.3.settings.new", "e7.3.settings", "notes.new", "x.settings.new"]
    );
    assert_eq!(state.load(E7_3).unwrap(), some_settings());
    assert_eq!(state.load(Address::new(9, 0)).unwrap(), Settings::default());
}

#[test]
fn a_reader_sees_the_old_settings_or_the_new_ones_and_nothing_between() {
    let (_temp, state, _file) = saved();
    let long = settings(&[0xa5; 1024], &[[4; 6]; 1], &[]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..50 {
                state.save(E7_3, &long).unwrap();
                state.save(E7_3, &some_settings()).unwrap();
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            let seen = state.load(E7_3).unwrap();
            assert!(seen == long || seen == some_settings(), "{seen:?}");
        }
    });
}

#[test]
fn a_second_server_is_refused_and_told_who_is_first() {
    let (_temp, state, _file) = saved();
    let error = StateDirectory::open(state.path()).unwrap_err();
    let StateError::InUse { path, holder } = &error else { panic!("{error:?}") };
    assert_eq!(path, state.path());
    let who = match holder {
        Some(holder) => {
            assert_eq!(holder.pid, std::process::id());
            let name = fs::read_to_string("/proc/self/comm").unwrap();
            format!("{} (pid {})", name.trim_end(), holder.pid)
        }
        // btrfs tells files another device than the kernel's table of locks does.
        None => "another process".into(),
    };
    let shown = path.display();
    assert_eq!(
        error.to_string(),
        format!("the state directory {shown} is in use by {who}; each server needs its own")
    );
    let path = path.clone();
    drop(state);
    StateDirectory::open(path).expect("the lock goes with its holder");
}

#[test]
fn a_directory_that_cannot_be_is_refused_by_name() {
    let (temp, _state, file) = saved();
    let error = StateDirectory::open(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot open the state directory {}; `state_dir` in [server] can name another",
            file.display()
        )
    );
    assert_eq!(error.source().unwrap().to_string(), "Not a directory (os error 20)");

    let below = file.join("state");
    let error = StateDirectory::open(&below).unwrap_err();
    assert!(matches!(error, StateError::Directory { .. }), "{error:?}");

    let dangling = temp.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    let error = StateDirectory::open(&dangling).unwrap_err();
    assert!(matches!(error, StateError::Directory { operation: "create", .. }), "{error:?}");
}

#[test]
fn a_directory_without_write_permission_is_refused_by_operation_and_file() {
    let (temp, state, _file) = saved();
    fs::set_permissions(state.path(), Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o555)).unwrap();
    let missing = temp.path().join("missing");
    let (save, open) = thread::spawn({
        let missing = missing.clone();
        move || {
            // Root may write everywhere; this thread alone gives that up.
            let _ = rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65_534));
            (state.save(E7_3, &some_settings()), StateDirectory::open(missing))
        }
    })
    .join()
    .unwrap();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
    let error = save.unwrap_err();
    let file = temp.path().join("state/e7.3.settings.new");
    assert_eq!(error.to_string(), format!("cannot create {}", file.display()));
    assert_eq!(error.source().unwrap().to_string(), "Permission denied (os error 13)");
    let error = open.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot create the state directory {}; `state_dir` in [server] can name another",
            missing.display()
        )
    );
    assert_eq!(error.source().unwrap().to_string(), "Permission denied (os error 13)");
}

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: `System` keeps the contract; counting changes nothing about it, and neither allocates nor
// fails, since the counter needs neither set-up nor destruction.
#[allow(unsafe_code, reason = "an allocator can be counted only by being one")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps what `alloc` demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory is from `alloc`, so from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Waits as the poll loop does until the saver has a result.
fn wait_for_result(saver: &mut SettingsSaver, waker: &Waker) -> (u64, Result<(), SaveFailed>) {
    loop {
        waker.fall_asleep();
        let found = saver.take_result();
        if found.is_none() {
            let descriptor = waker.descriptor();
            let mut waiting = [PollFd::new(&descriptor, PollFlags::IN)];
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            assert_eq!(poll(&mut waiting, Some(&limit)), Ok(1), "nobody woke the loop");
        }
        waker.awake();
        if let Some(found) = found {
            return found;
        }
    }
}

fn saver(path: &Path, most: usize) -> (SettingsSaver, Arc<StateDirectory>, Waker) {
    let state = Arc::new(StateDirectory::open(path).unwrap());
    let waker = Waker::new().unwrap();
    let saver = SettingsSaver::start(Arc::clone(&state), waker.clone(), most).unwrap();
    (saver, state, waker)
}

#[test]
fn the_saver_wakes_the_loop_when_the_settings_are_durable() {
    let temp = tempfile::tempdir().unwrap();
    let (mut saver, state, waker) = saver(temp.path(), 4);
    assert_eq!(saver.take_result(), None);
    for token in 0..20 {
        let wanted = settings(format!("number {token}").as_bytes(), &[], &[]);
        saver.save(token, E7_3, &wanted).unwrap();
        assert_eq!(wait_for_result(&mut saver, &waker), (token, Ok(())));
        assert_eq!(state.load(E7_3).unwrap(), wanted);
        assert_eq!((saver.take_result(), saver.under_way()), (None, 0));
    }
}

#[test]
fn the_saver_takes_as_many_as_agreed_and_keeps_their_order() {
    let temp = tempfile::tempdir().unwrap();
    let (mut saver, state, waker) = saver(temp.path(), 2);
    let [first, second] = [b"first", b"other"].map(|string| settings(string, &[], &[]));
    saver.save(1, E7_3, &first).unwrap();
    saver.save(2, E7_3, &second).unwrap();
    // Even when both are carried out: their results have not been taken.
    assert_eq!(saver.save(3, E7_3, &first), Err(SaverBusy));
    assert_eq!(wait_for_result(&mut saver, &waker), (1, Ok(())));
    saver.save(4, Address::new(1, 1), &first).unwrap();
    assert_eq!(wait_for_result(&mut saver, &waker), (2, Ok(())));
    assert_eq!(wait_for_result(&mut saver, &waker), (4, Ok(())));
    assert_eq!(state.load(E7_3).unwrap(), second);
}

#[test]
fn a_failed_save_is_reported_and_the_next_one_works() {
    let (_temp, state, file) = saved();
    let path = state.path().to_path_buf();
    drop(state);
    let (mut saver, state, waker) = saver(&path, 1);
    // A directory in the place of the file stops the replacement.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    saver.save(5, E7_3, &some_settings()).unwrap();
    assert_eq!(wait_for_result(&mut saver, &waker), (5, Err(SaveFailed)));
    fs::remove_dir(&file).unwrap();
    saver.save(6, E7_3, &some_settings()).unwrap();
    assert_eq!(wait_for_result(&mut saver, &waker), (6, Ok(())));
    assert_eq!(state.load(E7_3).unwrap(), some_settings());
}

#[test]
fn dropping_the_saver_carries_out_what_was_ordered() {
    let temp = tempfile::tempdir().unwrap();
    let (mut saver, state, _waker) = saver(temp.path(), 32);
    for slot in 0..32 {
        saver.save(slot.into(), Address::new(1, slot), &some_settings()).unwrap();
    }
    drop(saver);
    for slot in 0..32 {
        assert_eq!(state.load(Address::new(1, slot)).unwrap(), some_settings());
    }
    assert_eq!(Arc::strong_count(&state), 1, "the thread is gone");
}

#[test]
fn the_loop_thread_allocates_nothing_for_saving_or_polling() {
    let temp = tempfile::tempdir().unwrap();
    let (mut saver, _state, waker) = saver(temp.path(), 1);
    let wanted = settings(&[0xa5; 1024], &[[2; 6]], &[[4; 6]]);
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "allocations are counted");
    for token in 0..10 {
        saver.save(token, E7_3, &wanted).unwrap();
        assert_eq!(saver.save(99, E7_3, &wanted), Err(SaverBusy));
        assert_eq!(wait_for_result(&mut saver, &waker), (token, Ok(())));
        assert_eq!(saver.take_result(), None);
    }
    assert_eq!(ALLOCATIONS.get(), before + 1);
}
