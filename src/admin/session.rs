//! One client: its requests, one after the other, and the answers to them.

use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Refusal;
use super::request::{Request, StoreRequest};
use super::socket::SharedServer;
use super::{REQUEST_MAX, change, status};
use crate::clock;
use crate::server::{Observer, ServerError, SnapshotExport};

/// How long a client may say nothing: its place may be somebody else's.
const SILENCE: Duration = Duration::from_mins(5);
/// How long a client may leave what it is sent lying.
const DEAFNESS: Duration = Duration::from_secs(10);
/// How often a client that waits is told that its request is being seen to.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Pieces of an answer that may wait for the client to take them.
const ITEMS: usize = 64;

/// Where requests are seen to.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) observer: Observer,
    pub(super) server: SharedServer,
}

/// A part of an answer.
enum Part {
    Item(Value),
    End(Result<Value, Refusal>),
}

/// Serves one client until it has gone, or says nothing for too long.
pub(super) fn serve(desk: &Desk, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(DEAFNESS))?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // One more than there may be tells a line that is too long from one that just fits.
        let most = u64::try_from(REQUEST_MAX + 1).unwrap_or(u64::MAX);
        let read = reader.by_ref().take(most).read_until(b'\n', &mut line)?;
        if read > REQUEST_MAX {
            let refusal = Refusal::malformed(format!("a request has {REQUEST_MAX} octets at most"));
            return send(stream, &refusal.to_json());
        }
        if line.last() != Some(&b'\n') {
            return Ok(()); // it has gone, maybe in the middle of a line that nobody will complete
        }
        match Request::parse(&line) {
            Ok(request) => answer(desk, &request, stream)?,
            Err(refusal) => send(stream, &refusal.to_json())?,
        }
    }
}

/// Tells a client why it is not served.
pub(super) fn refuse(stream: &UnixStream, refusal: &Refusal) {
    // A buffer that is empty takes a line at once; a client that has gone does not mind.
    let _ = stream.set_write_timeout(Some(DEAFNESS));
    let _ = send(stream, &refusal.to_json());
}

fn send(mut stream: &UnixStream, value: &Value) -> io::Result<()> {
    // In one piece, so that what a client reads is a line mostly.
    let mut line = value.to_string();
    line.push('\n');
    stream.write_all(line.as_bytes())
}

/// Sees to a request, and tells the client how it goes. A request that has begun is carried out even
/// when the client has gone.
fn answer(desk: &Desk, request: &Request, stream: &UnixStream) -> io::Result<()> {
    let (parts, received) = sync_channel(ITEMS);
    thread::scope(|scope| {
        let seeing = thread::Builder::new().name("aoe-request".into());
        let started = seeing.spawn_scoped(scope, move || {
            // Whoever does not listen any more misses nothing that he would want.
            let mut item = |value| drop(parts.send(Part::Item(value)));
            let end = desk.see_to(request, &mut item);
            let _ = parts.send(Part::End(end));
        });
        if let Err(error) = started {
            let refusal = Refusal::failed(format!("cannot start a thread: {error}"));
            return send(stream, &refusal.to_json());
        }
        let begin = clock::now();
        let mut gone = Ok(());
        loop {
            let value = match received.recv_timeout(HEARTBEAT) {
                Ok(Part::Item(item)) => json!({ "item": item }),
                Ok(Part::End(Ok(value))) => {
                    gone?;
                    return send(stream, &json!({ "ok": value }));
                }
                Ok(Part::End(Err(refusal))) => {
                    gone?;
                    return send(stream, &refusal.to_json());
                }
                Err(RecvTimeoutError::Timeout) => {
                    json!({ "progress": { "seconds": clock::now().since(begin).as_secs() } })
                }
                // Only if seeing to it has panicked, which ends the scope in the same way.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if gone.is_ok() {
                gone = send(stream, &value);
            }
        }
    })
}

impl Desk {
    fn see_to(&self, request: &Request, item: &mut dyn FnMut(Value)) -> Result<Value, Refusal> {
        let answer = self.carry_out(request, item)?;
        if let Some(change) = change::of_server(request) {
            log::info!("{change}");
        }
        Ok(answer)
    }

    fn carry_out(&self, request: &Request, item: &mut dyn FnMut(Value)) -> Result<Value, Refusal> {
        match request {
            Request::Status => Ok(status::status(&self.observer)),
            Request::StoreList => Ok(json!({ "stores": status::stores(&self.observer) })),
            Request::Export { store, of, target, interfaces } => {
                let export = SnapshotExport {
                    address: *target,
                    store: self.place(store.as_ref(), &of.volume)?,
                    volume: of.volume.clone(),
                    snapshot: of.snapshot.clone(),
                    interfaces: interfaces.clone(),
                };
                self.with_server(|server| server.export_snapshot(export))?;
                Ok(json!({
                    "target": format!("{target}"),
                    "volume": of.volume,
                    "snapshot": of.snapshot,
                }))
            }
            Request::Unexport { target } => {
                self.with_server(|server| server.unexport(*target))?;
                Ok(json!({ "target": format!("{target}") }))
            }
            Request::Store { store, request } => self.ask_store(store.as_ref(), request, item),
        }
    }

    /// Changes the server, unless it is being stopped. Waits while it is changed otherwise.
    fn with_server(
        &self,
        change: impl FnOnce(&mut crate::server::Server) -> Result<(), ServerError>,
    ) -> Result<(), Refusal> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let server = server.as_mut().ok_or_else(|| Refusal::failed("the server is stopping"))?;
        Ok(change(server)?)
    }
}

#[cfg(not(feature = "cas"))]
impl Desk {
    fn place(&self, _: Option<&PathBuf>, _: &str) -> Result<PathBuf, Refusal> {
        let Self { observer: _, server: _ } = self;
        Err(Refusal::refused("this build has no archives"))
    }

    fn ask_store(
        &self,
        place: Option<&PathBuf>,
        request: &StoreRequest,
        _: &mut dyn FnMut(Value),
    ) -> Result<Value, Refusal> {
        self.place(place, request.volume().unwrap_or_default()).map(|_| Value::Null)
    }
}

#[cfg(feature = "cas")]
mod archives {
    use std::fs;
    use std::path::Path;

    use serde_json::json;

    use super::{Desk, PathBuf, Refusal, StoreRequest, Value, change};
    use crate::admin::VolumeSnapshot;
    use crate::config::{CasContent, Size, StorageConfig};
    use crate::protocol::Address;
    use crate::storage::cas::CasStore;
    use crate::units::Sectors;

    /// Whether two names are of one directory.
    fn is_same(one: &Path, other: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.into());
        one == other || real(one) == real(other)
    }

    impl Desk {
        /// The directory of the archive that is meant.
        pub(super) fn place(
            &self,
            place: Option<&PathBuf>,
            volume: &str,
        ) -> Result<PathBuf, Refusal> {
            self.find(place, Some(volume)).map(|(path, _)| path)
        }

        /// The archive that is meant: the one at `place`, or else the only one, or else the only one
        /// that has the volume.
        fn find(
            &self,
            place: Option<&PathBuf>,
            volume: Option<&str>,
        ) -> Result<(PathBuf, CasStore), Refusal> {
            let mut stores = self.observer.stores().list();
            let all: Vec<_> = stores.iter().map(|(path, _)| path.display().to_string()).collect();
            if let Some(place) = place {
                stores.retain(|(path, _)| is_same(path, place));
            } else if stores.len() > 1
                && let Some(volume) = volume
            {
                let has = |store: &CasStore| {
                    store.volumes().is_ok_and(|volumes| volumes.iter().any(|v| v.name == volume))
                };
                stores.retain(|(_, store)| has(store));
            }
            match (stores.pop(), stores.is_empty()) {
                (Some(found), true) => Ok(found),
                _ if all.is_empty() => Err(Refusal::refused("this server has no archive open")),
                (Some(_), false) => {
                    let message = format!("several archives are meant, of {}", all.join(", "));
                    Err(Refusal::refused(message + ": say which"))
                }
                (None, _) => {
                    let message = match (place, volume) {
                        (None, Some(volume)) => format!("no archive has a volume {volume}"),
                        _ => String::from("this is no archive of this server"),
                    };
                    Err(Refusal::refused(format!("{message}; it has {}", all.join(", "))))
                }
            }
        }

        pub(super) fn ask_store(
            &self,
            place: Option<&PathBuf>,
            request: &StoreRequest,
            item: &mut dyn FnMut(Value),
        ) -> Result<Value, Refusal> {
            let (path, store) = self.find(place, request.volume())?;
            let mut answer = crate::admin::perform(&store, request, item)?;
            if let Some(change) = change::of_store(request, &answer) {
                log::info!("archive {}: {change}", path.display());
            }
            if let StoreRequest::VolumeResize { volume, .. }
            | StoreRequest::SnapshotRestore { of: VolumeSnapshot { volume, .. }, .. } = request
            {
                // It is done, even if the archive has been closed since.
                let volumes = store.volumes().unwrap_or_default();
                let size = volumes.into_iter().find(|found| found.name == *volume);
                let otherwise = self.tell_size(&path, volume, size.map(|found| found.size));
                if let (Value::Object(answer), Some(otherwise)) = (&mut answer, otherwise) {
                    answer.insert("configured".into(), otherwise);
                }
            }
            Ok(answer)
        }

        /// Has initiators told that a volume may have another size. Returns what is to be changed in the
        /// configuration, if that asks for another one.
        fn tell_size(&self, path: &Path, volume: &str, size: Option<Sectors>) -> Option<Value> {
            let mut otherwise = None;
            for served in self.observer.targets() {
                if let StorageConfig::Cas(cas) = &served.config.storage
                    && let CasContent::Volume { name, size: configured } = &cas.content
                    && name == volume
                    && is_same(&cas.store.path, path)
                {
                    let address = served.config.address;
                    // A loop that has ended serves no target any more.
                    let _ = self.observer.refresh(address);
                    let differ =
                        configured.zip(size).filter(|(configured, size)| configured != size);
                    otherwise = differ
                        .map(|(configured, size)| to_change(address, volume, configured, size));
                }
            }
            otherwise
        }
    }

    /// What there is to say of a target whose configured size is not that of its volume any more.
    fn to_change(address: Address, volume: &str, configured: Sectors, size: Sectors) -> Value {
        let [old, new] = [configured, size].map(Size::from);
        let else_what = if size > configured {
            "the server will not start with it again"
        } else {
            "the next start makes the volume larger again"
        };
        let note = format!(
            "the configuration of target {address} says size = \"{old}\", and volume {volume} now has \
             {new}: change it to size = \"{new}\"; else {else_what}"
        );
        json!({
            "target": format!("{address}"),
            "size": old.0,
            "change_to": format!("{new}"),
            "note": note,
        })
    }
}
