//! Waking the poll loop from other threads, at the cost of a system call only when it sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// A handle that any thread may hold to wake one poll loop. Clones wake the same loop.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    /// The loop sleeps or is about to.
    asleep: AtomicBool,
    /// Somebody has news for a disk that nothing is asked of.
    called: AtomicBool,
}

impl Waker {
    /// A waker for one loop.
    ///
    /// # Errors
    /// When the process may not have another file descriptor.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared {
            event,
            asleep: AtomicBool::new(false),
            called: AtomicBool::new(false),
        })))
    }

    /// Makes the loop look for news soon. Whatever the news is must be visible already: it is
    /// published before this is called.
    pub fn wake(&self) {
        // Pairs with the fence in `fall_asleep`: either this sees that the loop sleeps, or the
        // loop's last look before sleeping sees the news.
        fence(Ordering::SeqCst);
        if self.0.asleep.swap(false, Ordering::Relaxed) {
            // It can fail only when the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(&self.0.event, &1_u64.to_le_bytes());
        }
    }

    /// Makes the loop ask every disk for news soon, those too that nothing is asked of and that it
    /// would look at only some times a second. For what cannot wait until then, and happens a few
    /// times a second at most: each call costs the loop a look at every disk.
    pub fn call(&self) {
        // Ordered before the loop's last look by the fence in `wake`.
        self.0.called.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether somebody has called since this was last asked; a load and nothing else when nobody
    /// has. What the caller had published before is visible then.
    #[inline]
    pub fn take_call(&self) -> bool {
        // Cleared before the look, so that a call that comes in between is seen the next time.
        self.0.called.load(Ordering::Relaxed) && self.0.called.swap(false, Ordering::AcqRel)
    }

    /// Announces that the loop is about to wait for [`Self::descriptor`]; it looks for news once
    /// more after this and before it waits.
    pub fn fall_asleep(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Announces that the loop is awake again.
    pub fn awake(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
    }

    /// Makes the descriptor unreadable again. Called when it was seen readable, and only then:
    /// whoever took the flag may write as late as he likes, and is read then.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // There may be nothing to read; it never blocks.
        let _ = rustix::io::read(&self.0.event, &mut count);
    }

    /// The descriptor that becomes readable when the sleeping loop is woken.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
