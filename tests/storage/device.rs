//! What is particular to block devices, whichever way they are read.

#![allow(unsafe_code, reason = "filters of system calls exist only in libc")]

use std::collections::VecDeque;

use aoe_server::storage::device::{DeviceError, DeviceOptions, ReadMethod};
use aoe_server::wake::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// A device of [`SIZE`] sectors, `None` where there are none.
fn device(block: u32) -> Option<LoopDevice> {
    LoopDevice::new(BYTES as u64, block, false)
}

#[test]
fn a_device_passes_the_suite() {
    for block in [512, 4096] {
        let Some(shared) = device(block) else { return };
        for method in shared.methods() {
            let Some(device) = device(block) else { return };
            let mut disk = device.open(method);
            assert!(disk.info().discard, "a loop device over a file zeroes ranges");
            suite(&mut disk);
            let long = vec![0; 17 * 17 * SECTOR_SIZE];
            let mut into = long.clone();
            assert_eq!(disk.read(Lba(0), &mut into), Err(Fault::Aborted));
            put(&mut disk, 100, &pattern(100, 77)).unwrap();
            disk.close().unwrap();
            assert_eq!(read(&mut device.open(method), 100, 100).unwrap(), pattern(100, 77));
        }
    }
}

#[test]
fn a_device_is_claimed_once_and_can_be_read_only() {
    let Some(device) = device(512) else { return };
    for method in device.methods() {
        let disk = device.open(method);
        let error = DeviceStorage::open(device.path(), DeviceOptions::default()).unwrap_err();
        assert!(matches!(error, DeviceError::Busy { .. }), "{error}");
        let reader =
            || DeviceOptions { read_only: true, reads: method, ..DeviceOptions::default() };
        refuses_writes(&mut DeviceStorage::open(device.path(), reader()).unwrap());
        drop(disk);
        device.open(method);

        let Some(protected) = LoopDevice::new(BYTES as u64, 512, true) else { return };
        let error = DeviceStorage::open(protected.path(), DeviceOptions::default()).unwrap_err();
        assert!(matches!(error, DeviceError::WriteProtected { .. }), "{error}");
        refuses_writes(&mut DeviceStorage::open(protected.path(), reader()).unwrap());
    }
}

#[test]
fn what_is_no_device_is_told_apart() {
    let dir = disk_dir();
    let open = |path: &Path| DeviceStorage::open(path, DeviceOptions::default()).unwrap_err();
    assert!(matches!(open(&dir.path().join("none")), DeviceError::NotFound { .. }));
    assert!(matches!(open(dir.path()), DeviceError::NotADevice { .. }));
    assert!(matches!(open(Path::new("/dev/null")), DeviceError::NotADevice { .. }));
}

/// A read that began before a write must not be handed to who asks after it.
#[test]
fn a_device_never_hands_over_what_a_write_has_replaced() {
    let Some(device) = device(512) else { return };
    for method in device.methods() {
        let mut disk = device.open(method);
        for generation in 0..200_u8 {
            let mut octets = [0xa5; 2 * SECTOR_SIZE];
            // Begun, and then not collected.
            let _ = disk.read(Lba(8), &mut octets).unwrap();
            if generation % 2 == 0 {
                news(&mut disk);
            }
            let ticket = write(&mut disk, 9, &[generation; SECTOR_SIZE]).unwrap();
            if generation % 3 == 0 {
                let _ = disk.read(Lba(8), &mut octets).unwrap();
            }
            applied(&mut disk, ticket);
            assert_eq!(read(&mut disk, 8, 2).unwrap()[SECTOR_SIZE..], [generation; SECTOR_SIZE]);
        }
    }
}

/// Numbers that follow no order, always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// What is asked of a device and not answered yet: where, how much, and whether to verify only.
type Asked = VecDeque<(u64, usize, bool)>;

/// Asks again for everything, once. What is handed over has every write that was taken in it.
fn ask_again(disk: &mut DeviceStorage, asked: &mut Asked, array: &[u8]) {
    for _ in 0..asked.len() {
        let Some((lba, sectors, verify)) = asked.pop_front() else { return };
        let answer = if verify {
            disk.verify(Lba(lba), Sectors(sectors as u64)).unwrap()
        } else {
            let mut octets = vec![0xa5; sectors * SECTOR_SIZE];
            let answer = disk.read(Lba(lba), &mut octets).unwrap();
            let at = usize::try_from(lba).unwrap() * SECTOR_SIZE;
            let right = octets == array[at..at + octets.len()];
            assert!(answer == Ready::Later || right, "{sectors} sectors at {lba}");
            answer
        };
        if answer == Ready::Later {
            asked.push_back((lba, sectors, verify));
        }
    }
}

/// Reads, writes, discards and verifies on one stretch, many at a time, and readers that go through
/// it from front to back.
fn overlap(disk: &mut DeviceStorage, random: &mut Random, array: &mut [u8]) {
    const STRETCH: u64 = 150;
    let mut asked = Asked::new();
    let mut front = 0;
    for _ in 0..3000 {
        let (lba, count) = (random.below(STRETCH), 1 + random.below(30));
        let (at, sectors) = (usize::try_from(lba).unwrap(), usize::try_from(count).unwrap());
        let bytes = at * SECTOR_SIZE..(at + sectors) * SECTOR_SIZE;
        match random.below(16) {
            0..2 => {
                let data = pattern(sectors, u8::try_from(random.below(256)).unwrap());
                if let Accepted::Done(_) = disk.write(Lba(lba), &data).unwrap() {
                    array[bytes].copy_from_slice(&data);
                }
            }
            2 if disk.info().discard => {
                if let Accepted::Done(_) = disk.discard(Lba(lba), Sectors(count)).unwrap() {
                    array[bytes].fill(0);
                }
            }
            3 if asked.len() < 90 => asked.push_back((lba, 10 * sectors, true)),
            4..7 if asked.len() < 90 => asked.push_back((lba, sectors, false)),
            7..14 if asked.is_empty() || random.below(8) == 0 => {
                let want = &array[front * SECTOR_SIZE..(front + 4) * SECTOR_SIZE];
                assert!(read(disk, front as u64, 4).unwrap() == want, "front to back at {front}");
                front = (front + 4) % 160;
            }
            _ => ask_again(disk, &mut asked, array),
        }
        if random.below(3) == 0 {
            disk.progress();
        }
    }
    until(disk, |disk| {
        ask_again(disk, &mut asked, array);
        asked.is_empty().then_some(())
    });
}

#[test]
fn what_overlaps_on_a_device_is_never_old() {
    for block in [512, 4096] {
        let Some(device) = device(block) else { return };
        let mut array = vec![0; BYTES];
        for (method, seed) in device.methods().into_iter().cycle().zip(1..9) {
            let mut disk = device.open(method);
            overlap(&mut disk, &mut Random(seed), &mut array);
            disk.close().unwrap();
        }
    }
}

/// How often a reader of 100 times 8 sectors, one behind the other, has to wait.
fn waits(disk: &mut DeviceStorage, want: &[u8]) -> usize {
    let (mut waits, mut octets) = (0, [0xa5; 8 * SECTOR_SIZE]);
    for lba in (0..800).step_by(8) {
        if disk.read(Lba(lba), &mut octets).unwrap() == Ready::Later {
            waits += 1;
            octets.copy_from_slice(&read(disk, lba, 8).unwrap());
        }
        let at = usize::try_from(lba).unwrap() * SECTOR_SIZE;
        assert!(octets == want[at..at + octets.len()], "sector {lba}");
        // What was read ahead arrives without anybody asking for progress.
        for _ in 0..100 {
            std::thread::yield_now();
        }
    }
    waits
}

#[test]
fn who_reads_a_device_from_front_to_back_soon_waits_no_more() {
    let Some(device) = device(512) else { return };
    for method in device.methods() {
        let mut disk = device.open(method);
        let data = pattern(800, 5);
        put(&mut disk, 0, &data).unwrap();
        // Once is enough: the device may be slow today.
        assert!((0..30).any(|_| waits(&mut disk, &data) < 50), "{method:?}");
    }
}

#[test]
fn nothing_is_kept_of_a_device_that_others_may_write_to() {
    let Some(device) = device(512) else { return };
    for method in device.methods() {
        let mut disk = device.open(method);
        put(&mut disk, 0, &pattern(100, 1)).unwrap();
        let options = DeviceOptions { read_only: true, reads: method, ..DeviceOptions::default() };
        let mut reader = DeviceStorage::open(device.path(), options).unwrap();
        for lba in 0..50 {
            assert_eq!(read(&mut reader, lba, 1).unwrap().len(), SECTOR_SIZE);
        }
        put(&mut disk, 0, &pattern(100, 2)).unwrap();
        assert_eq!(read(&mut reader, 50, 50).unwrap(), pattern(100, 2)[50 * SECTOR_SIZE..]);
    }
}

#[test]
fn reads_that_nobody_collects_do_not_use_a_device_up() {
    let Some(device) = device(512) else { return };
    for method in device.methods() {
        let mut disk = device.open(method);
        put(&mut disk, 990, &pattern(2, 1)).unwrap();
        let mut sector = [0xa5; SECTOR_SIZE];
        for round in 0..4 {
            for lba in 0..200 {
                let _ = disk.read(Lba(lba), &mut sector).unwrap();
            }
            let _ = disk.verify(Lba(round), Sectors(900)).unwrap();
        }
        assert_eq!(read(&mut disk, 990, 2).unwrap(), pattern(2, 1));
    }
}

#[test]
fn sectors_that_a_device_cannot_read_are_medium_errors() {
    for block in [512, 4096] {
        let Some(device) = device(block) else { return };
        for method in device.methods() {
            let mut disk = device.open(method);
            put(&mut disk, 0, &pattern(1000, 3)).unwrap();
            device.cut(504 * SECTOR_SIZE as u64);
            assert_eq!(read(&mut disk, 488, 16).unwrap(), pattern(504, 3)[488 * SECTOR_SIZE..]);
            for (lba, sectors) in [(600, 1), (500, 17), (700, 200), (960, 40)] {
                assert_eq!(read(&mut disk, lba, sectors), Err(Fault::Media), "{lba}");
                assert_eq!(verify(&mut disk, lba, sectors as u64), Err(Fault::Media), "{lba}");
            }
            assert_eq!(verify(&mut disk, 0, SIZE), Err(Fault::Media));
            verify(&mut disk, 0, 504).unwrap();
            // Right up to where it ends, for somebody that is read ahead for.
            for lba in (0..504).step_by(8) {
                read(&mut disk, lba, 8).unwrap();
            }
            assert_eq!(read(&mut disk, 504, 8), Err(Fault::Media));
            // A disk that recovers is read again.
            device.cut(BYTES as u64);
            assert_eq!(read(&mut disk, 600, 17).unwrap(), vec![0; 17 * SECTOR_SIZE]);
            verify(&mut disk, 0, SIZE).unwrap();
        }
    }
}

#[test]
fn a_device_is_dropped_with_reads_on_their_way() {
    let Some(device) = device(512) else { return };
    for method in device.methods() {
        put(&mut device.open(method), 0, &pattern(1000, 6)).unwrap();
        for round in 0..40_u64 {
            let mut disk = device.open(method);
            let mut octets = [0xa5; 8 * SECTOR_SIZE];
            for lba in (round..SIZE - 8).step_by(13) {
                let _ = disk.read(Lba(lba), &mut octets).unwrap();
                if round % 4 != 0 && lba % 5 == 0 {
                    disk.progress();
                }
            }
            let _ = disk.verify(Lba(0), Sectors(SIZE)).unwrap();
            if round % 2 == 0 {
                disk.progress();
            }
            if round % 3 == 0 {
                std::thread::spawn(move || drop(disk)).join().unwrap();
            }
        }
        let mut disk = device.open(method);
        // What one thread has begun another one collects.
        let mut octets = [0xa5; 8 * SECTOR_SIZE];
        let _ = disk.read(Lba(8), &mut octets).unwrap();
        disk.progress();
        std::thread::spawn(move || {
            assert_eq!(read(&mut disk, 8, 8).unwrap(), pattern(16, 6)[8 * SECTOR_SIZE..]);
        })
        .join()
        .unwrap();
    }
}

#[test]
fn a_device_wakes_a_loop_that_sleeps_and_does_not_keep_it_awake() {
    let Some(device) = device(512) else { return };
    for method in device.methods() {
        let waker = Waker::new().unwrap();
        let mut disk = device.open_with(|| DeviceOptions {
            reads: method,
            waker: Some(waker.clone()),
            ..DeviceOptions::default()
        });
        let mut octets = [0xa5; SECTOR_SIZE];
        for lba in 0..200 {
            assert_eq!(disk.read(Lba(lba * 3), &mut octets), Ok(Ready::Later));
            let mut sleeps = 0;
            loop {
                waker.fall_asleep();
                if disk.progress() {
                    waker.awake();
                    break;
                }
                let mut ready = [PollFd::from_borrowed_fd(waker.descriptor(), PollFlags::IN)];
                let ten_seconds = Timespec { tv_sec: 10, tv_nsec: 0 };
                assert_eq!(poll(&mut ready, Some(&ten_seconds)).unwrap(), 1, "sector {lba}");
                waker.awake();
                waker.clear();
                sleeps += 1;
                assert!(sleeps < 5, "it wakes the loop again and again");
            }
            assert_eq!(disk.read(Lba(lba * 3), &mut octets), Ok(Ready::Done));
        }
    }
}

/// A read of several parts goes on with one progress for each time that the loop is woken.
#[test]
fn a_verification_by_a_ring_never_waits_for_a_loop_that_sleeps() {
    let Some(device) = device(512) else { return };
    if !device.methods().contains(&ReadMethod::Ring) {
        return;
    }
    let waker = Waker::new().unwrap();
    let mut disk = device.open_with(|| DeviceOptions {
        reads: ReadMethod::Ring,
        waker: Some(waker.clone()),
        ..DeviceOptions::default()
    });
    for _ in 0..20 {
        assert_eq!(disk.verify(Lba(0), Sectors(SIZE)), Ok(Ready::Later));
        let mut done = disk.progress();
        while !done {
            let mut ready = [PollFd::from_borrowed_fd(waker.descriptor(), PollFlags::IN)];
            let ten_seconds = Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(poll(&mut ready, Some(&ten_seconds)).unwrap(), 1, "nothing goes on");
            waker.clear();
            done = disk.progress();
        }
        assert_eq!(disk.verify(Lba(0), Sectors(SIZE)), Ok(Ready::Done));
    }
}

/// Makes a system call fail from now on in this thread and those that it starts, as sandboxes do:
/// all of its calls, or those with one second argument.
#[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "they are small")]
fn refuse(call: libc::c_long, second: Option<u32>, errno: i32) {
    let code = |code: u32| u16::try_from(code).unwrap();
    let load = |k| libc::sock_filter {
        code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS),
        jt: 0,
        jf: 0,
        k,
    };
    // Over `jf` instructions unless it is `k`.
    let is = |k, jf| libc::sock_filter {
        code: code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
        jt: 0,
        jf,
        k,
    };
    let answer = |k| libc::sock_filter { code: code(libc::BPF_RET | libc::BPF_K), jt: 0, jf: 0, k };
    let refusal = answer(libc::SECCOMP_RET_ERRNO | errno as u32);
    // The number is the first word; the arguments start at octet 16, low words first.
    let mut filter = match second {
        None => vec![load(0), is(call as u32, 1), refusal],
        Some(second) => vec![load(0), is(call as u32, 3), load(24), is(second, 1), refusal],
    };
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let program =
        libc::sock_fprog { len: filter.len().try_into().unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: no pointer is passed.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program points to that many instructions, which live until the call returns.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn where_io_uring_is_refused_threads_read() {
    assert_eq!(DeviceOptions::default().reads, ReadMethod::Auto);
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    for call in calls {
        let Some(device) = device(512) else { return };
        let sandboxed = move || {
            refuse(call, None, libc::EPERM);
            let options = DeviceOptions { reads: ReadMethod::Ring, ..DeviceOptions::default() };
            let error = DeviceStorage::open(device.path(), options).unwrap_err();
            assert!(
                matches!(error, DeviceError::Io { op: "set up io_uring for", .. }),
                "{error:?}"
            );
            suite(&mut device.open(ReadMethod::Auto));
        };
        std::thread::spawn(sandboxed).join().unwrap();
    }
}

#[test]
fn a_ring_does_without_locked_memory() {
    const REGISTER_BUFFERS: u32 = 0;
    let Some(device) = device(512) else { return };
    if !device.methods().contains(&ReadMethod::Ring) {
        return;
    }
    let limited = move || {
        refuse(libc::SYS_io_uring_register, Some(REGISTER_BUFFERS), libc::ENOMEM);
        let mut disk = device.open(ReadMethod::Ring);
        suite(&mut disk);
        let mut array: Vec<u8> =
            (0..SIZE).step_by(8).flat_map(|lba| read(&mut disk, lba, 8).unwrap()).collect();
        overlap(&mut disk, &mut Random(77), &mut array);
    };
    std::thread::spawn(limited).join().unwrap();
}
