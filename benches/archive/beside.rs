//! What is measured beside the archive, in the same rounds: on a machine that others use, too, only
//! ratios say anything.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aoe_server::blob::file::FileBlobStore;
use aoe_server::blob::{Blob, BlobStore as _, Put};
use aoe_server::clock::now;

/// Bytes of the file that is written for [`Limit`].
const LIMIT_BYTES: usize = 128 << 20;
/// What `O_DIRECT` wants memory and places to be multiples of.
const ALIGNMENT: usize = 4096;

/// What the disk alone does for a journal: pieces one behind the other, past the page cache, into a file
/// that was written before, each made durable before the next one is begun.
pub(crate) struct Limit {
    file: File,
    direct: File,
    piece: Vec<u8>,
}

impl Limit {
    /// With pieces of `len` bytes.
    pub(crate) fn new(directory: &Path, len: usize) -> Self {
        let path = directory.join("limit");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..LIMIT_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at as u64).unwrap();
        }
        file.sync_all().unwrap();
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path);
        let piece = (0..=250).cycle().take(len + ALIGNMENT).collect();
        Self { file, direct: direct.unwrap(), piece }
    }

    /// Bytes a second of one pass over the file, in millions.
    pub(crate) fn rate(&self) -> f64 {
        let skip = self.piece.as_ptr().align_offset(ALIGNMENT);
        let piece = &self.piece[skip..][..self.piece.len() - ALIGNMENT];
        let start = now();
        for at in (0..LIMIT_BYTES).step_by(piece.len()) {
            self.direct.write_all_at(piece, at as u64).unwrap();
            self.file.sync_data().unwrap();
        }
        rate(LIMIT_BYTES, now().since(start))
    }

    /// How long it takes until each of `count` frames of `frame` bytes is durable that come one each
    /// `gap`. All that have come make one piece, as long as it fits.
    fn paced(
        &self,
        count: usize,
        frame: usize,
        gap: Duration,
        written: &AtomicUsize,
    ) -> Vec<Duration> {
        let skip = self.piece.as_ptr().align_offset(ALIGNMENT);
        let (longest, begun) = (self.piece.len() - ALIGNMENT, now());
        let came = |number: usize| begun.after(gap * u32::try_from(number).unwrap());
        let (mut took, mut at) = (Vec::with_capacity(count), 0);
        while took.len() < count {
            let (first, moment) = (took.len(), now());
            let most = (count - first).min(longest / frame);
            let frames = (0..most).take_while(|next| came(first + next) <= moment).count();
            if frames == 0 {
                std::thread::park_timeout(came(first).since(moment));
                continue;
            }
            let len = frames * frame;
            if at + len > LIMIT_BYTES {
                at = 0;
            }
            self.direct.write_all_at(&self.piece[skip..][..len], at as u64).unwrap();
            self.file.sync_data().unwrap();
            at += len;
            let moment = now();
            took.extend((first..first + frames).map(|number| moment.since(came(number))));
            written.fetch_add(len, Ordering::Relaxed);
        }
        took
    }
}

/// What the disk alone does for a journal at a pace while it takes packs, too: [`Limit`], and beside it
/// the same octets, put into a store of blobs.
pub(crate) struct LimitBesidePacks {
    journal: Limit,
    packs: FileBlobStore,
}

impl LimitBesidePacks {
    /// With pieces of at most `len` bytes.
    pub(crate) fn new(directory: &Path, len: usize) -> Self {
        let packs = FileBlobStore::open(directory.join("packs")).unwrap();
        Self { journal: Limit::new(directory, len), packs }
    }

    /// How long it takes until each frame of `data`, of `frame` bytes, is durable, if one comes each
    /// `gap`. Each time that `commit` bytes have come, so many are put, in packs of `pack`.
    pub(crate) fn latencies(
        &self,
        data: &[u8],
        frame: usize,
        gap: Duration,
        (commit, pack): (usize, usize),
    ) -> Vec<Duration> {
        let blobs: Vec<Blob<'_>> = data.chunks(pack).map(Blob::new).collect();
        let (written, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let put = || {
            for (number, blobs) in blobs.chunks(commit / pack).enumerate() {
                while written.load(Ordering::Relaxed) < (number + 1) * commit {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                for blob in blobs {
                    assert_eq!(self.packs.put(blob).unwrap(), Put::Written);
                }
            }
        };
        // They stay: where a file system discards what is deleted, the next round would wait for that.
        std::thread::scope(|scope| {
            scope.spawn(put);
            let took = self.journal.paced(data.len() / frame, frame, gap, &written);
            over.store(true, Ordering::Relaxed);
            took
        })
    }
}

/// Millions a second.
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "for people to read")]
    let count = count as f64;
    count / took.as_secs_f64() / 1e6
}

/// Figures of several rounds, by what was measured.
#[derive(Default)]
pub(crate) struct Rounds(BTreeMap<&'static str, Vec<f64>>);

impl Rounds {
    pub(crate) fn add(&mut self, what: &'static str, figure: f64) {
        self.0.entry(what).or_default().push(figure);
    }

    /// Tells the medians, and what part of the others the first one is.
    pub(crate) fn tell(&mut self, of: &str, first: &'static str, unit: &str) {
        let median = |figures: &mut Vec<f64>| {
            figures.sort_unstable_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        let own = self.0.get_mut(first).map_or(0.0, median);
        for (what, figures) in &mut self.0 {
            let (rounds, middle) = (figures.len(), median(figures));
            let (least, most) = (figures[0], figures[rounds - 1]);
            let ratio = own / middle;
            println!(
                "{of}: {what}: median {middle:.3} {unit} ({least:.3} to {most:.3}, {rounds} rounds); \
                 {first} is {ratio:.2} of it"
            );
        }
    }
}

/// Bytes of memory that this process has now, in MiB: its own, and files that it has mapped.
pub(crate) fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Most of `latencies` are no longer than this: so many of a thousand.
pub(crate) fn per_mille(latencies: &mut [Duration], part: usize) -> Duration {
    latencies.sort_unstable();
    latencies[(latencies.len() - 1) * part / 1000]
}
