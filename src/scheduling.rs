//! What threads ask of the scheduler: to run soon, or to let others go first; and how a loop that polls
//! shares a processor with those that it waits for.

#![allow(unsafe_code, reason = "the scheduler is told only through libc")]

use std::io;
use std::time::Duration;

use crate::clock::{Instant, now};

/// How long a thread that others wait for runs on when another wants its processor: the least that Linux
/// takes.
const SHORT_SLICE: Duration = Duration::from_micros(100);
/// Asks for what the scheduler thinks best.
#[cfg(all(feature = "cas", target_os = "linux"))]
const USUAL_SLICE: Duration = Duration::ZERO;

/// Asks for short slices of the processor for the calling thread, for which no right is needed. It gets
/// no more time for that, but gets it sooner: when it is woken it need not wait until the slice of a
/// thread that works in the background is over, which is some milliseconds.
///
/// Linux does so from 6.12 on; before, nothing changes. A thread with a real-time priority stays as it
/// is.
fn ask_for_short_slices() {
    slices(SHORT_SLICE);
}

fn slices(slice: Duration) {
    // Without it everything works as well, only later.
    if let Err(error) = set_slice(slice) {
        log::debug!("the scheduler does not take a slice of {slice:?}: {error}");
    }
}

/// Gives the calling thread a real-time priority (`SCHED_FIFO`), from 1 to 99, if one is asked for, and
/// short slices otherwise. Without the right to a priority the log says so. `name` is for the log.
///
/// A thread with one runs as soon as its disk has answered, whatever else the machine does.
pub(crate) fn raise(priority: Option<u8>, name: &str) {
    let Some(priority) = priority else { return ask_for_short_slices() };
    if let Err(error) = set_priority(priority) {
        log::warn!(
            "{name}: no real-time priority {priority} for the thread that syncs, which takes \
             CAP_SYS_NICE or a higher RLIMIT_RTPRIO: {error}"
        );
        ask_for_short_slices();
    }
}

/// How much nicer than others a thread is that works in the background: it has a quarter of a processor
/// that somebody else wants, too, and all of one that nobody does.
#[cfg(all(feature = "cas", target_os = "linux"))]
const NICER: i32 = 5;
/// As nice as a thread can be.
#[cfg(all(feature = "cas", target_os = "linux"))]
const NICEST: i32 = 19;

/// Lets all others go first: for a thread that works in the background, and for those that it starts.
#[cfg(all(feature = "cas", target_os = "linux"))]
pub(crate) fn lower() {
    // SAFETY: 0 stands for the calling thread; Linux has a priority for each.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: the same. It does not fail: everybody may be nicer.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, (nice + NICER).min(NICEST)) };
    // Whoever has started it may have short ones.
    slices(USUAL_SLICE);
}

#[cfg(all(feature = "cas", not(target_os = "linux")))]
pub(crate) fn lower() {}

fn set_priority(priority: u8) -> io::Result<()> {
    // What this thread starts is not to inherit it.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    let parameters = libc::sched_param { sched_priority: priority.into() };
    // SAFETY: 0 stands for the calling thread, and the parameters are only read, during the call.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// All that the scheduler knows of the calling thread.
#[cfg(target_os = "linux")]
fn attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: it is made of numbers, all of which may be zero.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    let flags = 0;
    // SAFETY: 0 stands for the calling thread; no more than `size` octets are written, which are there.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, flags) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_os = "linux")]
fn set_slice(slice: Duration) -> io::Result<()> {
    // Niceness, policy and flags are set with the slice: to what they are.
    let mut attributes = attributes()?;
    let shares = [libc::SCHED_OTHER, libc::SCHED_BATCH];
    if !shares.iter().any(|policy| u32::try_from(*policy) == Ok(attributes.sched_policy)) {
        return Ok(()); // others have no slices, or want none
    }
    attributes.sched_runtime = slice.as_nanos().try_into().unwrap_or(u64::MAX);
    let flags = 0;
    // SAFETY: 0 stands for the calling thread, and the attributes, which say how long they are, are only
    // read, during the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn set_slice(_: Duration) -> io::Result<()> {
    Ok(())
}

/// Yields the processor for a thread that polls, and notices when others keep it for long.
///
/// Where a disk's threads have no other processor to run on, to yield is the quickest way to have them
/// answer. But who yields to one that works for long gets the processor back only at a tick of the
/// scheduler, some milliseconds later, while who sleeps and is woken gets it at once.
#[derive(Debug, Default)]
pub struct Yielder {
    crowded_until: Instant,
}

impl Yielder {
    /// Nobody who only hands over what the caller waits for takes longer.
    const LONG: Duration = Duration::from_micros(250);
    /// How long a processor is taken for a crowded one. To find out that it is not any more costs
    /// another wait of a few milliseconds when it still is: so much of this time is lost at most.
    const REMEMBERED: Duration = Duration::from_secs(1);

    /// Yields the processor.
    pub fn yield_now(&mut self) {
        let before = now();
        std::thread::yield_now();
        let after = now();
        if after.since(before) > Self::LONG {
            self.crowded_until = after.after(Self::REMEMBERED);
        }
    }

    /// Whether others have kept the processor lately, so that it is better to sleep than to yield.
    pub fn is_crowded(&self, moment: Instant) -> bool {
        moment < self.crowded_until
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A thread of its own to change, since none can change back.
    fn on_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(run).join()).unwrap()
    }

    #[test]
    fn a_thread_gets_the_priority_or_goes_on_without() {
        on_a_thread(|| {
            raise(Some(7), "test");
            // SAFETY: 0 stands for the calling thread.
            let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            let privileged = set_priority(7).is_ok();
            assert_eq!(policy == libc::SCHED_FIFO, privileged);
        });
    }

    #[test]
    #[cfg(all(feature = "cas", target_os = "linux"))]
    fn the_background_is_nicer_and_so_is_what_it_starts() {
        let nice = || {
            // SAFETY: 0 stands for the calling thread.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        let before = nice();
        let started = on_a_thread(|| {
            lower();
            on_a_thread(nice)
        });
        assert_eq!(started, (before + NICER).min(NICEST));
        assert_eq!(nice(), before, "others are what they were");
    }

    #[cfg(target_os = "linux")]
    mod slices {
        use super::*;

        /// Whether this Linux has slices that threads may choose.
        fn has_slices() -> bool {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            let mut numbers = release.split(|c: char| !c.is_ascii_digit());
            let mut number = || numbers.next().unwrap().parse::<u32>().unwrap();
            (number(), number()) >= (6, 12)
        }

        #[test]
        fn a_thread_gets_short_slices_and_is_as_nice_as_before() {
            let (before, after) = on_a_thread(|| {
                // SAFETY: 0 stands for the calling thread. It may be nicer than this already.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 3) };
                let before = attributes().unwrap();
                raise(None, "test");
                (before, attributes().unwrap())
            });
            assert_eq!(after.sched_runtime == 100_000, has_slices(), "{}", after.sched_runtime);
            assert_eq!(after.sched_nice, before.sched_nice);
            assert_eq!(after.sched_policy, before.sched_policy);
        }

        #[test]
        #[cfg(feature = "cas")]
        fn the_background_has_the_usual_slices_whoever_starts_it() {
            let slice = || attributes().unwrap().sched_runtime;
            let (usual, lowered) = on_a_thread(|| {
                let usual = slice();
                ask_for_short_slices();
                let lowered = on_a_thread(|| {
                    lower();
                    slice()
                });
                (usual, lowered)
            });
            assert_eq!(lowered, usual);
        }

        #[test]
        fn a_real_time_priority_stays() {
            on_a_thread(|| {
                let privileged = set_priority(7).is_ok();
                let before = attributes().unwrap();
                ask_for_short_slices();
                let after = attributes().unwrap();
                assert_eq!(after.sched_policy, before.sched_policy);
                assert_eq!(after.sched_priority, if privileged { 7 } else { 0 });
            });
        }
    }

    /// Binds the calling thread, and those that it starts, to the first processor that it may have.
    #[cfg(target_os = "linux")]
    fn take_one_processor() {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let all = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_yields_to_a_thread_that_keeps_the_processor_notices() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let done = AtomicBool::new(false);
        on_a_thread(|| {
            take_one_processor();
            let mut yielder = Yielder::default();
            assert!(!yielder.is_crowded(now()));
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
                let start = now();
                while !yielder.is_crowded(now()) && now().since(start) < Duration::from_mins(1) {
                    yielder.yield_now();
                }
                done.store(true, Ordering::Relaxed);
            });
            let noticed = now();
            assert!(yielder.is_crowded(noticed), "nobody noticed");
            assert!(!yielder.is_crowded(noticed.after(Yielder::REMEMBERED)), "for a while only");
        });
    }
}
