//! Any octets as a line of text.

use std::fmt::{self, Write};

use aoe_server::protocol::print::FrameLine;

/// No line may be longer: the longest parts are 64 escaped octets or 8 addresses.
const LINE_MAX: usize = 640;

/// Prints `octets` to a string, and to a writer that fails half way.
pub(crate) fn run(octets: &[u8]) {
    let line = FrameLine::new(octets).to_string();
    assert!(line.len() <= LINE_MAX, "{} characters: {line}", line.len());
    assert!(line.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{line:?}");
    assert!(line.ends_with(&format!(", length {}", octets.len())), "{line}");

    let mut full = Full { room: line.len() / 2 };
    assert_eq!(write!(full, "{}", FrameLine::new(octets)), Err(fmt::Error));
}

/// A writer that takes only so much.
struct Full {
    room: usize,
}

impl Write for Full {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.room = self.room.checked_sub(text.len()).ok_or(fmt::Error)?;
        Ok(())
    }
}
