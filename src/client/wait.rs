//! Waiting for frames.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::link::{Link, LinkError};

/// Waits until `link` has frames (or, if `to_send`, room for them), or `at_most` has passed.
/// It may return early.
pub(super) fn for_frames(
    link: &dyn Link,
    to_send: bool,
    at_most: Duration,
) -> Result<(), LinkError> {
    let Some(descriptor) = link.descriptor() else {
        // Only polling tells. Whoever is to make frames may need this core.
        std::thread::yield_now();
        return Ok(());
    };
    let flags = if to_send { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    // 292 billion years are no limit to anybody.
    let timeout = Timespec::try_from(at_most).ok();
    match poll(&mut [PollFd::from_borrowed_fd(descriptor, flags)], timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(LinkError::Os { errno: errno.raw_os_error() }),
    }
}
