//! What the log says of a change that was asked for.

#[cfg(feature = "cas")]
use serde_json::Value;

#[cfg(feature = "cas")]
use super::request::StoreRequest;
use super::request::{Request, VolumeSnapshot};
#[cfg(feature = "cas")]
use crate::config::Size;

/// What has changed in what is served, if the request was for a change.
pub(super) fn of_server(request: &Request) -> Option<String> {
    match request {
        Request::Export { of, target, .. } => Some(format!("serving {} at {target}", name(of))),
        Request::Unexport { target } => Some(format!("{target} is served no more")),
        Request::Status | Request::StoreList | Request::Store { .. } => None,
    }
}

/// What has changed in an archive, if the request was for a change, and this was the answer.
#[cfg(feature = "cas")]
pub(super) fn of_store(request: &StoreRequest, answer: &Value) -> Option<String> {
    let size = || Size(answer.get("size").and_then(Value::as_u64).unwrap_or_default());
    let flag = |flag: &bool, text: &'static str| if *flag { text } else { "" };
    Some(match request {
        StoreRequest::VolumeCreate { volume, .. } => format!("made volume {volume}, {}", size()),
        StoreRequest::VolumeResize { volume, force, .. } => {
            format!("volume {volume} has {} now{}", size(), flag(force, ", by force"))
        }
        StoreRequest::VolumeDelete { volume, with_snapshots } => {
            let with = flag(with_snapshots, ", with its snapshots");
            format!("deleted volume {volume}{with}")
        }
        StoreRequest::SnapshotCreate(of) => format!("made snapshot {}", name(of)),
        StoreRequest::SnapshotDelete(of) => format!("deleted snapshot {}", name(of)),
        StoreRequest::SnapshotRestore { of, force } => {
            let before = answer.pointer("/before/snapshot").and_then(Value::as_str);
            format!(
                "volume {volume} is what {} is{}; what it was is {volume}@{}",
                name(of),
                flag(force, ", by force"),
                before.unwrap_or_default(),
                volume = of.volume
            )
        }
        StoreRequest::SnapshotClone { volume, snapshot, new_volume } => {
            let at = snapshot.as_ref().map(|snapshot| format!("@{snapshot}")).unwrap_or_default();
            format!("made volume {new_volume} from {volume}{at}")
        }
        StoreRequest::Info
        | StoreRequest::Commit
        | StoreRequest::Usage
        | StoreRequest::VolumeList
        | StoreRequest::SnapshotList { .. }
        | StoreRequest::SnapshotDiff { .. } => return None,
    })
}

fn name(of: &VolumeSnapshot) -> String {
    format!("{}@{}", of.volume, of.snapshot)
}
