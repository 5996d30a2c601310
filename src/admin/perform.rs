//! Requests to an archive, carried out.

use serde_json::{Value, json};

use super::answer::{Refusal, message_of};
use super::request::{StoreRequest, VolumeSnapshot};
use crate::storage::cas::{
    CasError, CasStore, CommitSplit, DiskUsage, Layout, Shrink, SnapshotInfo, StoreInfo, Usage,
    VolumeInfo,
};

/// Asks an archive for something, and answers as a running server would. What is too long for one
/// answer goes to `item`, piece by piece, before it.
///
/// # Errors
/// [`Refusal`].
pub fn perform(
    store: &CasStore,
    request: &StoreRequest,
    item: &mut dyn FnMut(Value),
) -> Result<Value, Refusal> {
    Ok(match request {
        StoreRequest::Info => info(&store.info()?),
        StoreRequest::Commit => {
            store.commit()?;
            info(&store.info()?)
        }
        StoreRequest::Usage => usage(&store.usage()?),
        StoreRequest::VolumeList => {
            let volumes = store.volumes()?;
            json!({ "volumes": volumes.iter().map(volume).collect::<Vec<_>>() })
        }
        StoreRequest::VolumeCreate { volume: name, size } => {
            volume(&store.create_volume(name, *size)?)
        }
        StoreRequest::VolumeResize { volume: name, size, shrink, force } => {
            let shrink = match (shrink, force) {
                (false, _) => Shrink::Never,
                (true, false) => Shrink::WhenIdle,
                (true, true) => Shrink::Always,
            };
            volume(&store.resize_volume(name, *size, shrink)?)
        }
        StoreRequest::VolumeDelete { volume, with_snapshots } => {
            store.delete_volume(volume, *with_snapshots)?;
            json!({ "volume": volume })
        }
        StoreRequest::SnapshotList { volume } => {
            let snapshots = store.snapshots(volume.as_deref())?;
            json!({ "snapshots": snapshots.iter().map(snapshot).collect::<Vec<_>>() })
        }
        StoreRequest::SnapshotCreate(of) => {
            snapshot(&store.create_snapshot(&of.volume, &of.snapshot)?)
        }
        StoreRequest::SnapshotDelete(of) => {
            store.delete_snapshot(&of.volume, &of.snapshot)?;
            json!({ "volume": of.volume, "snapshot": of.snapshot })
        }
        StoreRequest::SnapshotRestore { of, force } => {
            // The state before is kept, and that is what to know about.
            let before = store.restore_snapshot(&of.volume, &of.snapshot, *force)?;
            json!({ "volume": of.volume, "snapshot": of.snapshot, "before": snapshot(&before) })
        }
        StoreRequest::SnapshotClone { volume: of, snapshot, new_volume } => {
            volume(&store.clone_volume(of, snapshot.as_deref(), new_volume)?)
        }
        StoreRequest::SnapshotDiff { of, other } => diff(store, of, other.as_deref(), item)?,
    })
}

/// What takes the space of an archive, as it is told.
pub fn usage(usage: &Usage) -> Value {
    let disk = |disk: &DiskUsage| {
        json!({
            "volume": disk.volume,
            "snapshot": disk.snapshot,
            "sectors": disk.size.0,
            "mapped_bytes": disk.mapped_bytes,
            "own_bytes": disk.own_bytes,
            "own_stored_bytes": disk.own_stored_bytes,
        })
    };
    json!({
        "path": usage.path.display().to_string(),
        "disks": usage.disks.iter().map(disk).collect::<Vec<_>>(),
        "mapped_bytes": usage.mapped_bytes,
        "unique_bytes": usage.unique_bytes,
        "payload_bytes": usage.payload_bytes,
        "node_bytes": usage.node_bytes,
        "packs": usage.packs,
        "pack_bytes": usage.pack_bytes,
        "dedup_ratio": usage.dedup_ratio(),
        "compression_ratio": usage.compression_ratio(),
        "overhead_ratio": usage.overhead_ratio(),
        "unreadable": usage.unreadable,
    })
}

fn diff(
    store: &CasStore,
    of: &VolumeSnapshot,
    other: Option<&str>,
    item: &mut dyn FnMut(Value),
) -> Result<Value, Refusal> {
    let ranges = store.diff(&of.volume, Some(&of.snapshot), other)?;
    let mut sectors = 0;
    for range in &ranges {
        sectors += range.sectors.0;
        item(json!({ "lba": range.lba.0, "sectors": range.sectors.0 }));
    }
    Ok(json!({ "ranges": ranges.len(), "sectors": sectors }))
}

/// Whether it is an answer, and not the lack of one.
pub(super) const fn is_no(error: &CasError) -> bool {
    matches!(
        error,
        CasError::NotAnArchive { .. }
            | CasError::Exists { .. }
            | CasError::BadName { .. }
            | CasError::NoVolume { .. }
            | CasError::VolumeExists { .. }
            | CasError::VolumeInUse { .. }
            | CasError::HasSnapshots { .. }
            | CasError::Size { .. }
            | CasError::WouldShrink { .. }
            | CasError::NoSize { .. }
            | CasError::NoSnapshot { .. }
            | CasError::SnapshotExists { .. }
            | CasError::SnapshotInUse { .. }
            | CasError::Active { .. }
    )
}

impl From<CasError> for Refusal {
    fn from(error: CasError) -> Self {
        let message = message_of(&error);
        if is_no(&error) { Self::refused(message) } else { Self::failed(message) }
    }
}

fn volume(info: &VolumeInfo) -> Value {
    let VolumeInfo { name, size, created_unix_seconds, snapshots, attached, dirty_bytes } = info;
    json!({
        "volume": name,
        "size": size.bytes(),
        "created": created_unix_seconds,
        "snapshots": snapshots,
        "served": attached,
        "uncommitted": dirty_bytes,
    })
}

fn snapshot(info: &SnapshotInfo) -> Value {
    let SnapshotInfo { volume, name, size, created_unix_seconds } = info;
    json!({
        "volume": volume,
        "snapshot": name,
        "size": size.bytes(),
        "created": created_unix_seconds,
    })
}

/// How an archive is, in a word: the worst that there is to say.
const fn state(info: &StoreInfo) -> &'static str {
    if info.stopped {
        "stopped"
    } else if info.failing.is_some() {
        "failing"
    } else if info.read_failures > 0 {
        "damaged"
    } else {
        "good"
    }
}

pub(super) fn info(info: &StoreInfo) -> Value {
    let CommitSplit { fill, hash, index, compress, put, tree, publish } = info.split;
    json!({
        "path": info.path.display().to_string(),
        "id": format!("{}", info.id),
        "block_size": info.block_bytes,
        "layout": match info.layout {
            Layout::Packed => "packed",
            Layout::Loose => "loose",
        },
        "commit": info.commit,
        "commits": info.commits,
        "volumes": info.volumes,
        "snapshots": info.snapshots,
        "packs": info.packs,
        "stored": info.stored_bytes,
        "put": { "packs": info.put.0, "bytes": info.put.1 },
        "index": { "bytes": info.index.0, "entries_in_memory": info.index.1 },
        "overlay": { "bytes": info.overlay.0, "most": info.overlay.1 },
        "cache": { "bytes": info.cache.0, "most": info.cache.1 },
        "reads": { "parts": info.reads.0, "bytes": info.reads.1 },
        "read_failures": info.read_failures,
        "commit_nanoseconds": {
            "fill": fill,
            "hash": hash,
            "index": index,
            "compress": compress,
            "put": put,
            "tree": tree,
            "publish": publish,
        },
        "state": state(info),
        "failing": info.failing,
        "stopped": info.stopped,
    })
}
