//! Who holds a lock that we wanted, on an image or a state directory.

use std::fmt;
use std::fs;
use std::os::fd::AsFd;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// The name of its program, if it tells.
    pub name: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (pid {})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

impl Holder {
    /// Who has the file behind `file` locked by `flock`. `None` when the system does not tell: it
    /// is not Linux, or the process is in another namespace, or it has just gone.
    pub(crate) fn of_lock_on(file: impl AsFd) -> Option<Self> {
        let stat = rustix::fs::fstat(file).ok()?;
        let device = stat.st_dev;
        let identity = format!(
            "{:02x}:{:02x}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device),
            stat.st_ino
        );
        let pid = find(&fs::read_to_string("/proc/locks").ok()?, &identity)?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        // A process may call itself anything, but not over several lines of our log.
        let name = name.map(|name| name.trim_end().escape_default().collect());
        Some(Self { pid, name })
    }
}

/// The process that holds an `flock` on the file with this identity, by the table of the kernel:
/// `1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF`.
fn find(locks: &str, identity: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        // Those who wait have an arrow here instead of a kind, and are not whom we look for.
        let kind = words.next()?;
        let (pid, file) = (words.nth(2)?, words.next()?);
        // Zero and -1 stand for a process that we cannot see.
        let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
        (kind == "FLOCK" && file == identity).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_in_the_table_of_locks() {
        let locks = "1: POSIX  ADVISORY  READ 11 00:1a:7 128 128\n\
                     2: FLOCK  ADVISORY  WRITE 12 fd:01:7 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 fd:01:8 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 14 fd:01:9 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE -1 fd:01:10 0 EOF\n\
                     nonsense\n";
        assert_eq!(find(locks, "fd:01:7"), Some(12));
        for identity in ["fd:01:8", "fd:01:9", "fd:01:10", "00:1a:7", ""] {
            assert_eq!(find(locks, identity), None, "{identity}");
        }
    }
}
