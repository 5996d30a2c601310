//! Making few runs of many.

use std::io;

use super::builder::RunBuilder;
use super::error::IndexError;
use super::format::Entry;
use super::run::Run;
use super::store::{RunFile, RunWriter};

/// The most runs that there are between merges. Each takes a tenth of a microsecond when something is
/// looked up that is not there.
pub(super) const RUNS_MAX: usize = 12;

/// A run with fewer entries counts as having so many: merging it takes no time.
const SMALL: u64 = if cfg!(test) { 1 } else { 1 << 12 };

/// From which run on, of runs with so many `entries` from old to new, all are to be merged; `None`
/// when there are few enough.
///
/// A run is merged with all that are newer when they have as much together. So each is larger than all
/// after it, and an entry comes into a run of at least twice the length each time it is copied.
pub(super) fn due(entries: &[u64]) -> Option<usize> {
    let (mut from, mut newer) = (None, 0_u64);
    for (place, entries) in entries.iter().enumerate().rev() {
        let entries = (*entries).max(SMALL);
        if newer >= entries {
            from = Some(place);
        }
        newer = newer.saturating_add(entries);
    }
    let too_many = entries.len().checked_sub(RUNS_MAX).filter(|excess| *excess > 0);
    from.into_iter().chain(too_many.map(|_| RUNS_MAX - 1)).min()
}

/// Why runs were not merged.
#[derive(Debug)]
pub(super) enum MergeError {
    /// One of them could not be read.
    Read(IndexError),
    /// The new one could not be written.
    Write(io::Error),
}

/// Writes what `runs`, from old to new, have in packs that are to be kept: of each key what the newest
/// has.
pub(super) fn merge<F: RunFile, W: RunWriter>(
    runs: &[&Run<F>],
    into: &mut RunBuilder<W>,
    keep: &dyn Fn(u32) -> bool,
) -> Result<(), MergeError> {
    let mut cursors = Vec::with_capacity(runs.len());
    let mut heads = Vec::with_capacity(runs.len());
    for run in runs {
        let mut cursor = run.cursor();
        heads.push(cursor.next().map_err(MergeError::Read)?);
        cursors.push(cursor);
    }
    while let Some(id) = heads.iter().flatten().map(|head| head.id).min() {
        let mut newest: Option<Entry> = None;
        for (head, cursor) in heads.iter_mut().zip(&mut cursors) {
            let Some(entry) = head.filter(|head| head.id == id) else { continue };
            if keep(entry.location.pack) {
                newest = Some(entry);
            }
            *head = cursor.next().map_err(MergeError::Read)?;
        }
        if let Some(entry) = newest {
            into.push(&entry).map_err(MergeError::Write)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_runs_are_left_and_entries_are_seldom_copied() {
        let flushed = 20_000_u64;
        let (mut runs, mut copied, mut most) = (Vec::new(), 0, 0);
        for round in 0..flushed {
            // Flushes of all sizes.
            runs.push(1 + round * round % 97);
            if let Some(from) = due(&runs) {
                let merged: u64 = runs.drain(from..).sum();
                copied += merged;
                runs.push(merged);
            }
            most = most.max(runs.len());
            assert!(runs.is_sorted_by(|older, newer| older > newer), "{runs:?}");
        }
        let all: u64 = runs.iter().sum();
        assert!(most <= RUNS_MAX, "{most} runs");
        assert!(copied < all * 16, "{all} entries were copied {} times", copied / all);
    }

    #[test]
    fn there_are_never_too_many_runs() {
        let halves: Vec<u64> = (10..10 + RUNS_MAX).rev().map(|bits| 1 << bits).collect();
        assert_eq!(due(&halves), None);
        let more: Vec<u64> = (10..=10 + RUNS_MAX).rev().map(|bits| 1 << bits).collect();
        assert_eq!(due(&more), Some(RUNS_MAX - 1));
        assert_eq!(
            (due(&[]), due(&[5]), due(&[5, 5]), due(&[0, 0])),
            (None, None, Some(0), Some(0))
        );
        assert_eq!((due(&[9, 4, 4]), due(&[8, 4, 4]), due(&[8, 4, 3])), (Some(1), Some(0), None));
    }
}
