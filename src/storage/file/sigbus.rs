//! Surviving a page that cannot be had.
//!
//! Touching a mapped page past the end of a file that was cut short, or one that the disk cannot
//! read, raises `SIGBUS` in the thread that touched it. The handler here looks the address up
//! among the registered maps, puts a page of zeros there so that the copy can run to its end, and
//! leaves a mark; who copied sees the mark, throws the copy away and puts the file back. A fault
//! that belongs to nobody here goes to whatever handler was there before, which ends the process
//! as it should.

#![allow(unsafe_code, reason = "signal handlers and what they may call")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

/// Maps that can be registered: all targets there can be, twice, since a map that grows is replaced
/// before it goes.
const PLACES: usize = 2048;

/// `start` of a place that is being filled in. No map starts there.
const CLAIMED: usize = 1;

/// One registered map.
#[derive(Debug)]
struct Place {
    /// Its first address; 0 when the place is free.
    start: AtomicUsize,
    /// Its length in bytes.
    len: AtomicUsize,
    /// A page of it was replaced.
    faulted: AtomicBool,
}

static REGISTRY: [Place; PLACES] = [const {
    Place { start: AtomicUsize::new(0), len: AtomicUsize::new(0), faulted: AtomicBool::new(false) }
}; PLACES];

/// What the handler has to know, fixed before it is installed.
struct Installed {
    previous: libc::sigaction,
    page: usize,
}

static INSTALLED: OnceLock<Result<Installed, i32>> = OnceLock::new();

/// A map's entry in the registry, until it is dropped. It must be dropped before the map is.
#[derive(Debug)]
pub(in super::super) struct Registration {
    place: &'static Place,
}

impl Registration {
    /// Registers `len` bytes from `start` on, and installs the handler if that was not done yet.
    ///
    /// # Errors
    /// When the handler cannot be installed, or all places are taken (`StorageFull`).
    pub(in super::super) fn new(start: *const u8, len: usize) -> io::Result<Self> {
        install()?;
        for place in &REGISTRY {
            let free =
                place.start.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
            if free.is_ok() {
                place.faulted.store(false, Ordering::Relaxed);
                // Who sees this length sees, too, that the place was claimed before.
                place.len.store(len, Ordering::Release);
                // The handler looks at the length only after it has seen the start.
                place.start.store(start.addr(), Ordering::Release);
                return Ok(Self { place });
            }
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    /// Whether a page was replaced since this was last asked. For the thread that reads the map,
    /// right after it has read.
    #[inline]
    pub(super) fn take_fault(&self) -> bool {
        // The handler runs on this thread: only the compiler could move the copy past the look.
        compiler_fence(Ordering::SeqCst);
        if !self.place.faulted.load(Ordering::Relaxed) {
            return false;
        }
        self.place.faulted.store(false, Ordering::Relaxed);
        true
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.place.len.store(0, Ordering::Relaxed);
        self.place.start.store(0, Ordering::Release);
    }
}

/// The size of a page in bytes.
pub(super) fn page_size() -> usize {
    // SAFETY: the function has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

fn install() -> io::Result<()> {
    let mut install_now = false;
    // The handler needs the previous disposition the moment it is installed, so that this is read
    // first and stored before the second step.
    let state = INSTALLED.get_or_init(|| {
        install_now = true;
        let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null new action only asks; the old one is written to memory that is ours.
        let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) };
        if asked != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
        }
        // SAFETY: all zeros is a valid action, and the call has filled it in besides.
        let previous = unsafe { previous.assume_init() };
        Ok(Installed { previous, page: page_size() })
    });
    if let Err(errno) = state {
        return Err(io::Error::from_raw_os_error(*errno));
    }
    if !install_now {
        return Ok(());
    }
    // SAFETY: all zeros is a valid action: the default one, with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
    // On the alternative stack where a thread has one, as Rust's threads do.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is complete, and `on_sigbus` does only what a handler may do.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Async-signal-safe: atomics and plain system calls, and `errno` is put back.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    // Memory has failed that nobody is reading: who reads it will get a signal of his own. Zeros put
    // there now would be found by a later copy that no mark belongs to.
    if code == libc::BUS_MCEERR_AO {
        return;
    }
    // A code of zero or less means that a process sent the signal: then there is no address.
    if code > 0 {
        // SAFETY: as above.
        let info = unsafe { &*info };
        // SAFETY: for a SIGBUS from the kernel the address is filled in.
        let address = unsafe { info.si_addr() };
        if replace_page(address.addr()) {
            return;
        }
    }
    hand_back(code);
}

/// Puts a page of zeros where `address` is, if it is in a registered map.
fn replace_page(address: usize) -> bool {
    let Some(Ok(installed)) = INSTALLED.get() else { return false };
    for place in &REGISTRY {
        let start = place.start.load(Ordering::Acquire);
        if start <= CLAIMED || address < start {
            continue;
        }
        let len = place.len.load(Ordering::Acquire);
        // Another thread may be giving the place to another map: its length is not this one's, and
        // the mark would be left for nobody.
        if address - start >= len || place.start.load(Ordering::Relaxed) != start {
            continue;
        }
        let page = address & !(installed.page - 1);
        // SAFETY: the location of this thread's errno is always valid.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        let saved = unsafe { *errno };
        // SAFETY: the page lies in a map that is registered, so that its owner keeps it alive and
        // expects pages of it to be replaced; the new page is readable as the old one was.
        let mapped = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(page),
                installed.page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        // SAFETY: as above.
        unsafe { *errno = saved };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        place.faulted.store(true, Ordering::Relaxed);
        return true;
    }
    false
}

/// Lets the handler that was there before have the signal, from now on.
fn hand_back(code: libc::c_int) {
    if let Some(Ok(installed)) = INSTALLED.get() {
        // SAFETY: the action is the one that the kernel told before.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const installed.previous, ptr::null_mut()) };
    }
    if code <= 0 {
        // A sent signal does not come again by itself, as a faulting instruction does.
        // SAFETY: the function may be called in a handler and has no preconditions.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}
