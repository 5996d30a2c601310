//! Time as the engine and the loop see it: a number of nanoseconds that somebody hands in.
//!
//! This is the only file that reads a clock, so that everything else runs as well on virtual time.

use core::fmt;
use core::time::Duration;

/// A moment, in nanoseconds since an origin that only differences should be taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// A moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `wait` after this one; the furthest moment there is, on overflow.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        let nanos = wait.as_secs().saturating_mul(1_000_000_000);
        Self(self.0.saturating_add(nanos.saturating_add(wait.subsec_nanos() as u64)))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}

#[cfg(test)]
std::thread_local! {
    static SIMULATED: core::cell::Cell<Option<Instant>> = const { core::cell::Cell::new(None) };
}

/// Makes a moment the present one for the calling thread; `None`: what the clock says.
#[cfg(all(test, feature = "cas"))]
pub(crate) fn simulate(now: Option<Instant>) {
    SIMULATED.set(now);
}

/// The present moment by the monotonic clock, from an origin fixed at the first call.
#[cfg(feature = "std")]
#[allow(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub fn now() -> Instant {
    use std::sync::OnceLock;
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    #[cfg(test)]
    if let Some(simulated) = SIMULATED.get() {
        return simulated;
    }
    let elapsed = ORIGIN.get_or_init(std::time::Instant::now).elapsed();
    // 584 years fit in 64 bits of nanoseconds.
    Instant(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

/// Microseconds since 1970 by the wall clock: for the time stamps of captures, nothing else.
#[cfg(feature = "std")]
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_micros() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_never_go_below_zero() {
        let (early, late) = (Instant::from_nanos(5), Instant::from_nanos(9));
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.after(Duration::MAX), Instant::from_nanos(u64::MAX));
    }
}
