//! The engine without an operating system: no libc, no allocator, no `std`.
//!
//! That this links is the proof: with `alloc` anywhere in its dependencies the compiler would miss
//! a global allocator, with `std` it would find two panic handlers. The features `control-alloc`
//! and `control-std` show that it would. That it runs shows that the engine serves: it drives the
//! session of [`session`], prints each step, and exits 0, or 1 at the first answer that is wrong.
//!
//! `scripts/freestanding` builds, runs and checks all of it.

#![no_std]
#![no_main]

mod runtime;
mod session;

use core::fmt::Write as _;
use core::panic::PanicInfo;

use aoe_server::storage::mem::MemStorage;

use runtime::{Output, exit};
use session::DISK_LEN;

/// The disk. All zeros, so that it takes no room in the program.
static mut DISK: [u8; DISK_LEN] = [0; DISK_LEN];

/// How much of it is served.
const SERVED: usize = if cfg!(feature = "control-mismatch") { DISK_LEN / 2 } else { DISK_LEN };

/// Where `_start` goes.
extern "C" fn main() -> ! {
    let disk = &raw mut DISK;
    // SAFETY: `_start` calls this function once, on the only thread, and nothing else names `DISK`.
    let disk = unsafe { &mut *disk };
    match session::run(MemStorage::new(&mut disk[..SERVED], "static"), &mut Output::Standard) {
        Ok(()) => exit(0),
        Err(failure) => {
            // Nobody is left to tell when even this cannot be printed; the status still does.
            let _ = writeln!(Output::Error, "freestanding: {failure}");
            exit(1)
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Output::Error, "freestanding: {info}");
    exit(101)
}
