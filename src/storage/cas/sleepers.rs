//! Threads that wait for work: whoever brings some wakes one of them, which costs nothing while none sleeps.
//!
//! # Invariants
//! * What is brought before a call of [`Sleepers::wake_one`] is found by a thread: by one that is awake, or
//!   looks once more before it sleeps, or is woken.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

/// One of the threads.
#[derive(Debug)]
pub(super) struct Sleeper {
    thread: Thread,
    is_asleep: AtomicBool,
}

/// The threads, and who brings them work.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    /// How many sleep or are about to, and were not woken; at times more, but never less.
    count: AtomicUsize,
    all: Mutex<Vec<Arc<Sleeper>>>,
}

impl Sleepers {
    /// The calling thread is one of them from now on.
    pub(super) fn join(&self) -> Arc<Sleeper> {
        let is_asleep = AtomicBool::new(false);
        let own = Arc::new(Sleeper { thread: thread::current(), is_asleep });
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&own));
        own
    }

    /// Has a thread that sleeps look for work, if there is one.
    pub(super) fn wake_one(&self) {
        // Pairs with the fence in `sleep`: either this sees that one sleeps, or its last look before
        // sleeping sees the work.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sleeper) = all.iter().find(|sleeper| self.wake(sleeper)) {
            sleeper.thread.unpark();
        }
    }

    /// Takes a thread for awake. Whether it was not.
    fn wake(&self, sleeper: &Sleeper) -> bool {
        // Only who makes it awake counts it off, so that the count is right whoever comes first.
        let was_asleep = sleeper.is_asleep.swap(false, Ordering::AcqRel);
        if was_asleep {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        was_asleep
    }

    /// Has the calling thread sleep until it is woken, unless `look` finds it something to do. It is to
    /// take it and no more: until it returns, others rely on this thread for what they bring.
    pub(super) fn sleep(&self, own: &Sleeper, look: impl FnOnce() -> bool) {
        self.count.fetch_add(1, Ordering::Relaxed);
        own.is_asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let found = look();
        if !found {
            thread::park();
        }
        if !self.wake(own) && found {
            // Who brought more in the meantime took this one for asleep, and woke nobody else.
            self.wake_one();
        }
    }

    /// Has all that sleep look for work.
    pub(super) fn wake_all(&self) {
        for sleeper in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            sleeper.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    /// Takes one of `work`, if there is any.
    fn take(work: &AtomicUsize) -> bool {
        work.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1)).is_ok()
    }

    /// Has `threads` threads do what three others bring, each in turn, and tells what was left lying.
    fn left_lying(threads: usize) -> usize {
        let (sleepers, work, ended) =
            (Sleepers::default(), AtomicUsize::new(0), AtomicBool::new(false));
        let end = clock::now().after(Duration::from_secs(2));
        let run = || {
            let own = sleepers.join();
            while !ended.load(Ordering::Acquire) {
                if !take(&work) {
                    sleepers.sleep(&own, || take(&work) || ended.load(Ordering::Acquire));
                }
            }
        };
        let bring = || {
            let mut left = 0;
            while clock::now() < end && left == 0 {
                work.fetch_add(1, Ordering::AcqRel);
                sleepers.wake_one();
                let patience = clock::now().after(Duration::from_secs(10));
                left = work.load(Ordering::Acquire);
                while left > 0 && clock::now() < patience {
                    thread::yield_now();
                    left = work.load(Ordering::Acquire);
                }
            }
            left
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(run);
            }
            let bringers = [(); 3].map(|()| scope.spawn(bring));
            let left = bringers.map(|bringer| bringer.join().unwrap());
            ended.store(true, Ordering::Release);
            sleepers.wake_all();
            left.into_iter().sum()
        })
    }

    #[test]
    fn no_work_is_left_lying_while_all_sleep() {
        for threads in [1, 2] {
            assert_eq!(left_lying(threads), 0, "by {threads} threads");
        }
    }

    #[test]
    fn work_that_comes_while_a_thread_takes_other_work_is_done_by_another() {
        let (sleepers, work) = (Sleepers::default(), AtomicUsize::new(0));
        let own = sleepers.join();
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let own = sleepers.join();
                sleepers.sleep(&own, || false);
                take(&work)
            });
            while sleepers.count.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            sleepers.sleep(&own, || {
                work.fetch_add(1, Ordering::AcqRel);
                sleepers.wake_one();
                true
            });
            let patience = clock::now().after(Duration::from_secs(10));
            while !other.is_finished() && clock::now() < patience {
                thread::yield_now();
            }
            let is_done = other.is_finished();
            sleepers.wake_all();
            assert!(other.join().unwrap() && is_done, "it sleeps on");
        });
    }
}
