//! What can be asked of a server, or of an archive, as values and as JSON.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::answer::Refusal;
use crate::config::{UNSET_SHELF, is_name, snapshot_of_volume};
use crate::protocol::Address;
use crate::units::{SECTOR_SIZE, Sectors};

/// The names of the requests there are.
pub const REQUESTS: &[&str] = &[
    "status",
    "store list",
    "store info",
    "store commit",
    "store usage",
    "volume list",
    "volume create",
    "volume resize",
    "volume delete",
    "snapshot list",
    "snapshot create",
    "snapshot delete",
    "snapshot restore",
    "snapshot clone",
    "snapshot diff",
    "snapshot export",
    "snapshot unexport",
];

/// A snapshot of a volume, as in `e1.0@monday`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSnapshot {
    /// The volume.
    pub volume: String,
    /// The snapshot.
    pub snapshot: String,
}

/// The snapshot that `text` names, as `VOLUME@SNAPSHOT`.
///
/// # Errors
/// What would be right, for people.
pub fn parse_volume_snapshot(text: &str) -> Result<VolumeSnapshot, String> {
    let names = snapshot_of_volume(text);
    names
        .map(|(volume, snapshot)| VolumeSnapshot {
            volume: volume.into(),
            snapshot: snapshot.into(),
        })
        .ok_or_else(|| "this takes a volume, an @ and a snapshot, as in e1.0@monday".into())
}

/// What is asked of a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What it serves, and how that goes.
    Status,
    /// What there is to say of all archives that are open.
    StoreList,
    /// To serve a snapshot, read-only, until it is told otherwise or ends.
    Export {
        /// The directory of the archive; `None`: the one that has the volume.
        store: Option<PathBuf>,
        /// The snapshot.
        of: VolumeSnapshot,
        /// Where.
        target: Address,
        /// The interfaces; all of the server's, when empty.
        interfaces: Vec<String>,
    },
    /// To serve a snapshot no more.
    Unexport {
        /// Where.
        target: Address,
    },
    /// What an archive is asked.
    Store {
        /// The directory of the archive; `None`: the one that has the volume, or the only one.
        store: Option<PathBuf>,
        /// What.
        request: StoreRequest,
    },
}

/// What is asked of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// What there is to say of it without reading it.
    Info,
    /// To commit what there is.
    Commit,
    /// What its volumes and snapshots take, as of the last commit. Reads all of its trees.
    Usage,
    /// Its volumes.
    VolumeList,
    /// A new volume, all zeros.
    VolumeCreate {
        /// Its name.
        volume: String,
        /// Its size.
        size: Sectors,
    },
    /// Another size for a volume.
    VolumeResize {
        /// Its name.
        volume: String,
        /// Its size.
        size: Sectors,
        /// Even if what lies beyond is lost.
        shrink: bool,
        /// Even if an initiator has used the volume just now.
        force: bool,
    },
    /// To delete a volume.
    VolumeDelete {
        /// Its name.
        volume: String,
        /// Its snapshots, too.
        with_snapshots: bool,
    },
    /// The snapshots of a volume, or of all.
    SnapshotList {
        /// The volume.
        volume: Option<String>,
    },
    /// To keep what a volume is now.
    SnapshotCreate(VolumeSnapshot),
    /// To delete a snapshot.
    SnapshotDelete(VolumeSnapshot),
    /// To make a volume what it was.
    SnapshotRestore {
        /// The snapshot.
        of: VolumeSnapshot,
        /// Even if an initiator has used the volume just now.
        force: bool,
    },
    /// A new volume that begins as what another one is, or was.
    SnapshotClone {
        /// The volume.
        volume: String,
        /// The snapshot of it; `None`: as it is.
        snapshot: Option<String>,
        /// The name of the new one.
        new_volume: String,
    },
    /// The sectors that differ.
    SnapshotDiff {
        /// The snapshot.
        of: VolumeSnapshot,
        /// Another snapshot of the same volume; `None`: the volume as it is.
        other: Option<String>,
    },
}

impl StoreRequest {
    /// The volume that it is about, if it is about one.
    pub fn volume(&self) -> Option<&str> {
        match self {
            // A new volume is nobody's yet.
            Self::Info
            | Self::Commit
            | Self::Usage
            | Self::VolumeList
            | Self::VolumeCreate { .. } => None,
            Self::SnapshotList { volume } => volume.as_deref(),
            Self::VolumeResize { volume, .. }
            | Self::VolumeDelete { volume, .. }
            | Self::SnapshotClone { volume, .. } => Some(volume),
            Self::SnapshotCreate(of)
            | Self::SnapshotDelete(of)
            | Self::SnapshotRestore { of, .. }
            | Self::SnapshotDiff { of, .. } => Some(&of.volume),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Info => "store info",
            Self::Commit => "store commit",
            Self::Usage => "store usage",
            Self::VolumeList => "volume list",
            Self::VolumeCreate { .. } => "volume create",
            Self::VolumeResize { .. } => "volume resize",
            Self::VolumeDelete { .. } => "volume delete",
            Self::SnapshotList { .. } => "snapshot list",
            Self::SnapshotCreate(_) => "snapshot create",
            Self::SnapshotDelete(_) => "snapshot delete",
            Self::SnapshotRestore { .. } => "snapshot restore",
            Self::SnapshotClone { .. } => "snapshot clone",
            Self::SnapshotDiff { .. } => "snapshot diff",
        }
    }

    fn fields(&self) -> Value {
        let bytes = |size: &Sectors| size.bytes();
        let of = |of: &VolumeSnapshot| json!({ "volume": of.volume, "snapshot": of.snapshot });
        match self {
            Self::Info | Self::Commit | Self::Usage | Self::VolumeList => json!({}),
            Self::VolumeCreate { volume, size } => json!({ "volume": volume, "size": bytes(size) }),
            Self::VolumeResize { volume, size, shrink, force } => {
                json!({ "volume": volume, "size": bytes(size), "shrink": shrink, "force": force })
            }
            Self::VolumeDelete { volume, with_snapshots } => {
                json!({ "volume": volume, "with_snapshots": with_snapshots })
            }
            Self::SnapshotList { volume } => json!({ "volume": volume }),
            Self::SnapshotCreate(snapshot) | Self::SnapshotDelete(snapshot) => of(snapshot),
            Self::SnapshotRestore { of, force } => {
                json!({ "volume": of.volume, "snapshot": of.snapshot, "force": force })
            }
            Self::SnapshotClone { volume, snapshot, new_volume } => {
                json!({ "volume": volume, "snapshot": snapshot, "new_volume": new_volume })
            }
            Self::SnapshotDiff { of, other } => {
                json!({ "volume": of.volume, "snapshot": of.snapshot, "other": other })
            }
        }
    }
}

impl Request {
    /// As it is sent: an object. Fields that would be `null` are left out.
    pub fn to_json(&self) -> Value {
        let path = |store: &Option<PathBuf>| store.as_ref().map(|path| path.display().to_string());
        let (name, mut fields, store) = match self {
            Self::Status => ("status", json!({}), None),
            Self::StoreList => ("store list", json!({}), None),
            Self::Export { store, of, target, interfaces } => {
                let fields = json!({
                    "volume": of.volume,
                    "snapshot": of.snapshot,
                    "target": format!("{target}"),
                    "interfaces": interfaces,
                });
                ("snapshot export", fields, path(store))
            }
            Self::Unexport { target } => {
                ("snapshot unexport", json!({ "target": format!("{target}") }), None)
            }
            Self::Store { store, request } => (request.name(), request.fields(), path(store)),
        };
        if let Value::Object(fields) = &mut fields {
            fields.insert("request".into(), name.into());
            fields.insert("store".into(), store.into());
            fields.retain(|_, value| !value.is_null());
        }
        fields
    }

    /// Reads what a line says.
    ///
    /// # Errors
    /// [`Refusal`], of the kind `malformed`.
    pub fn parse(line: &[u8]) -> Result<Self, Refusal> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| Refusal::malformed(format!("a request is a JSON object: {error}")))?;
        let Value::Object(object) = value else {
            return Err(Refusal::malformed("a request is a JSON object"));
        };
        let mut fields = Fields(object);
        let Some(name) = fields.text("request")? else {
            return Err(Refusal::malformed(
                "a request has a field `request`, as in {\"request\": \"status\"}",
            ));
        };
        let store = fields.text("store")?.map(PathBuf::from);
        let request = match name.as_str() {
            "status" => Self::Status,
            "store list" => Self::StoreList,
            "snapshot export" => Self::Export {
                store,
                of: fields.snapshot()?,
                target: fields.target_to_serve()?,
                interfaces: fields.interfaces()?,
            },
            "snapshot unexport" => Self::Unexport { target: fields.target()? },
            other => Self::Store { store, request: fields.store_request(other)? },
        };
        fields.end(&name)?;
        Ok(request)
    }
}

/// The fields of a request that have not been read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn store_request(&mut self, name: &str) -> Result<StoreRequest, Refusal> {
        Ok(match name {
            "store info" => StoreRequest::Info,
            "store commit" => StoreRequest::Commit,
            "store usage" => StoreRequest::Usage,
            "volume list" => StoreRequest::VolumeList,
            "volume create" => {
                StoreRequest::VolumeCreate { volume: self.name("volume")?, size: self.size()? }
            }
            "volume resize" => self.resize()?,
            "volume delete" => StoreRequest::VolumeDelete {
                volume: self.name("volume")?,
                with_snapshots: self.flag("with_snapshots")?,
            },
            "snapshot list" => StoreRequest::SnapshotList { volume: self.name_if_any("volume")? },
            "snapshot create" => StoreRequest::SnapshotCreate(self.snapshot()?),
            "snapshot delete" => StoreRequest::SnapshotDelete(self.snapshot()?),
            "snapshot restore" => {
                StoreRequest::SnapshotRestore { of: self.snapshot()?, force: self.flag("force")? }
            }
            "snapshot clone" => StoreRequest::SnapshotClone {
                volume: self.name("volume")?,
                snapshot: self.name_if_any("snapshot")?,
                new_volume: self.name("new_volume")?,
            },
            "snapshot diff" => StoreRequest::SnapshotDiff {
                of: self.snapshot()?,
                other: self.name_if_any("other")?,
            },
            other => {
                let known = REQUESTS.join(", ");
                let message = format!("unknown request {other:?}; there are {known}");
                return Err(Refusal::malformed(message));
            }
        })
    }

    fn resize(&mut self) -> Result<StoreRequest, Refusal> {
        let (volume, size) = (self.name("volume")?, self.size()?);
        let (shrink, force) = (self.flag("shrink")?, self.flag("force")?);
        if force && !shrink {
            return Err(Refusal::malformed(
                "`force` is for `shrink`, which is not asked for: nobody minds that a volume grows",
            ));
        }
        Ok(StoreRequest::VolumeResize { volume, size, shrink, force })
    }

    /// Makes sure that nothing is left: a misspelt field would be ignored in silence.
    fn end(&self, request: &str) -> Result<(), Refusal> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => {
                Err(Refusal::malformed(format!("request \"{request}\" has no field {key:?}")))
            }
        }
    }

    /// The value of a field that may be missing, or `null`.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::malformed(format!("`{key}` must be a text"))),
        }
    }

    fn needed<T>(key: &str, value: Option<T>) -> Result<T, Refusal> {
        value.ok_or_else(|| Refusal::malformed(format!("`{key}` is missing")))
    }

    fn name_if_any(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        let name = self.text(key)?;
        match name {
            Some(name) if !is_name(&name) => {
                Err(Refusal::malformed(format!("`{key}` is {name:?}, which is no name")))
            }
            name => Ok(name),
        }
    }

    fn name(&mut self, key: &str) -> Result<String, Refusal> {
        let name = self.name_if_any(key)?;
        Self::needed(key, name)
    }

    fn snapshot(&mut self) -> Result<VolumeSnapshot, Refusal> {
        Ok(VolumeSnapshot { volume: self.name("volume")?, snapshot: self.name("snapshot")? })
    }

    fn size(&mut self) -> Result<Sectors, Refusal> {
        let size = Self::needed("size", self.take("size"))?;
        let bytes = size.as_u64().filter(|bytes| bytes.is_multiple_of(SECTOR_SIZE as u64));
        let wrong = || Refusal::malformed("`size` must be a number of bytes, a multiple of 512");
        bytes.map(Sectors::from_bytes).ok_or_else(wrong)
    }

    fn flag(&mut self, key: &str) -> Result<bool, Refusal> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Refusal::malformed(format!("`{key}` must be true or false"))),
        }
    }

    fn target(&mut self) -> Result<Address, Refusal> {
        let text = self.text("target")?;
        let text = Self::needed("target", text)?;
        let address = text.parse::<Address>().ok().filter(|address| !address.is_wildcard());
        let wrong = || Refusal::malformed(format!("`target` is {text:?}, and not as in \"e1.0\""));
        address.ok_or_else(wrong)
    }

    /// A target's address that the configuration would take, too.
    fn target_to_serve(&mut self) -> Result<Address, Refusal> {
        let address = self.target()?;
        if address.shelf != UNSET_SHELF {
            return Ok(address);
        }
        Err(Refusal::malformed(format!(
            "`target` cannot be {address}: Linux takes shelf {UNSET_SHELF} for a switch left unset and \
             ignores the target; use another from 0 to 65534"
        )))
    }

    fn interfaces(&mut self) -> Result<Vec<String>, Refusal> {
        let wrong = || Refusal::malformed("`interfaces` must be a list of names");
        match self.take("interfaces") {
            None => Ok(Vec::new()),
            Some(Value::Array(names)) => {
                let names = names.into_iter().map(|name| match name {
                    Value::String(name) => Some(name),
                    _ => None,
                });
                names.collect::<Option<_>>().ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::RefusalKind;

    fn of() -> VolumeSnapshot {
        parse_volume_snapshot("e1.0@monday").unwrap()
    }

    /// One of each kind, with every field set to something and to nothing.
    fn requests() -> Vec<Request> {
        let (volume, size) = (|| String::from("e1.0"), Sectors(16));
        let target = Address::new(1, 9);
        let of_stores = [
            StoreRequest::Info,
            StoreRequest::Commit,
            StoreRequest::Usage,
            StoreRequest::VolumeList,
            StoreRequest::VolumeCreate { volume: volume(), size },
            StoreRequest::VolumeResize { volume: volume(), size, shrink: true, force: true },
            StoreRequest::VolumeDelete { volume: volume(), with_snapshots: true },
            StoreRequest::SnapshotList { volume: None },
            StoreRequest::SnapshotList { volume: Some(volume()) },
            StoreRequest::SnapshotCreate(of()),
            StoreRequest::SnapshotDelete(of()),
            StoreRequest::SnapshotRestore { of: of(), force: false },
            StoreRequest::SnapshotClone {
                volume: volume(),
                snapshot: Some("monday".into()),
                new_volume: "copy".into(),
            },
            StoreRequest::SnapshotClone {
                volume: volume(),
                snapshot: None,
                new_volume: "copy".into(),
            },
            StoreRequest::SnapshotDiff { of: of(), other: None },
            StoreRequest::SnapshotDiff { of: of(), other: Some("tuesday".into()) },
        ];
        let mut requests = vec![
            Request::Status,
            Request::StoreList,
            Request::Unexport { target },
            Request::Export { store: None, of: of(), target, interfaces: vec![] },
            Request::Export {
                store: Some("/data".into()),
                of: of(),
                target,
                interfaces: vec!["eth0".into()],
            },
        ];
        for request in of_stores {
            requests.push(Request::Store { store: None, request: request.clone() });
            requests.push(Request::Store { store: Some("/data".into()), request });
        }
        requests
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let mut names = std::collections::BTreeSet::new();
        for request in requests() {
            let json = request.to_json();
            assert_eq!(Request::parse(json.to_string().as_bytes()), Ok(request), "{json}");
            names.insert(json["request"].as_str().unwrap().to_owned());
        }
        assert_eq!(names, REQUESTS.iter().map(|name| (*name).to_owned()).collect());
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Request::parse(&octets);
        }

        #[test]
        fn no_likely_line_panics(
            name in proptest::sample::select(REQUESTS),
            key in "[a-z_]{1,14}",
            value in "\"[ -~]{0,9}\"|[0-9]{1,20}|true|null|\\[\\]|\\{\\}",
        ) {
            let line = format!("{{\"request\": \"{name}\", \"volume\": \"a\", \"{key}\": {value}}}");
            let _ = Request::parse(line.as_bytes());
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, told) in [
            ("", "a request is a JSON object: EOF"),
            ("[]", "a request is a JSON object"),
            ("{}", "a request has a field `request`"),
            ("{\"request\": 1}", "`request` must be a text"),
            ("{\"request\": \"stat\"}", "unknown request \"stat\"; there are status, store list,"),
            ("{\"request\": \"status\", \"volume\": \"x\"}", "\"status\" has no field \"volume\""),
            ("{\"request\": \"volume delete\"}", "`volume` is missing"),
            ("{\"request\": \"volume delete\", \"volume\": \"a b\"}", "\"a b\", which is no name"),
            (
                "{\"request\": \"volume create\", \"volume\": \"x\", \"size\": 1000}",
                "a multiple of 512",
            ),
            (
                "{\"request\": \"volume delete\", \"volume\": \"x\", \"with_snapshots\": 1}",
                "`with_snapshots` must be true or false",
            ),
            (
                "{\"request\": \"volume resize\", \"volume\": \"x\", \"size\": 512, \"force\": true}",
                "`force` is for `shrink`, which is not asked for",
            ),
            (
                "{\"request\": \"snapshot unexport\", \"target\": \"e1.*\"}",
                "`target` is \"e1.*\", and not as in \"e1.0\"",
            ),
            (
                "{\"request\": \"snapshot export\", \"volume\": \"x\", \"snapshot\": \"y\", \
                 \"target\": \"e4095.0\"}",
                "`target` cannot be e4095.0: Linux takes shelf 4095",
            ),
        ] {
            let refusal = Request::parse(line.as_bytes()).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Malformed);
            assert!(refusal.message.contains(told), "{line}: {refusal}");
        }
    }
}
