//! Priorities: a real-time one for the threads that make writes durable, a low one for the background.

#![allow(unsafe_code, reason = "the scheduler is told only through libc")]

use std::io;

/// Gives the calling thread a real-time priority (`SCHED_FIFO`), from 1 to 99, if one is asked for.
/// Without the right to it the thread goes on as it is, and the log says so. `name` is for the log.
///
/// A thread with one runs as soon as its disk has answered, whatever else the machine does: on a busy
/// one it would wait for a slice of a few milliseconds with every group of writes.
pub(super) fn raise(priority: Option<u8>, name: &str) {
    let Some(priority) = priority else { return };
    if let Err(error) = set(priority) {
        log::warn!(
            "{name}: no real-time priority {priority} for the thread that syncs, which takes \
             CAP_SYS_NICE or a higher RLIMIT_RTPRIO: {error}"
        );
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
pub(super) fn lower() {
    // SAFETY: 0 stands for the calling thread; Linux has a priority for each.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: the same. It does not fail: everybody may be nicer.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, (nice + NICER).min(NICEST)) };
}

#[cfg(all(feature = "cas", not(target_os = "linux")))]
pub(super) fn lower() {}

fn set(priority: u8) -> io::Result<()> {
    // What this thread starts is not to inherit it.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    let parameters = libc::sched_param { sched_priority: priority.into() };
    // SAFETY: 0 stands for the calling thread, and the parameters are only read, during the call.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_the_priority_or_goes_on_without() {
        std::thread::spawn(|| {
            raise(Some(7), "test");
            // SAFETY: 0 stands for the calling thread.
            let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            let privileged = set(7).is_ok();
            assert_eq!(policy == libc::SCHED_FIFO, privileged);
        })
        .join()
        .unwrap();
    }

    #[test]
    #[cfg(all(feature = "cas", target_os = "linux"))]
    fn the_background_is_nicer_and_so_is_what_it_starts() {
        let nice = || {
            // SAFETY: 0 stands for the calling thread.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        let before = nice();
        let started = std::thread::spawn(move || {
            lower();
            std::thread::spawn(nice).join().unwrap()
        });
        assert_eq!(started.join().unwrap(), (before + NICER).min(NICEST));
        assert_eq!(nice(), before, "others are what they were");
    }
}
