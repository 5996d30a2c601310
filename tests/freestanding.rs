//! The session of the freestanding proof, where ordinary tools can look into it.

#[path = "../examples/freestanding/src/session.rs"]
mod session;

use aoe_server::storage::mem::MemStorage;

use session::{DISK_LEN, run};

#[test]
fn the_session_succeeds() {
    let mut printed = String::new();
    run(MemStorage::new(vec![0; DISK_LEN], "vec"), &mut printed).unwrap();
    assert!(printed.contains("READ SECTORS EXT: the same 1024 octets"), "{printed}");
    assert!(printed.contains("the session is over"), "{printed}");
}

#[test]
fn the_session_notices_another_disk_than_its_own() {
    let short = vec![0; DISK_LEN / 2];
    let failure = run(MemStorage::new(short, "short"), &mut String::new()).unwrap_err();
    assert!(failure.to_string().contains("size"), "{failure}");
    let dirty = vec![0x5a; DISK_LEN];
    let failure = run(MemStorage::new(dirty, "dirty"), &mut String::new()).unwrap_err();
    assert!(failure.to_string().contains("around"), "{failure}");
}
