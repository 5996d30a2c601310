//! Starting, changing and stopping a server: everything that may block, on the caller's thread.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::control::{Answer, Control, LoopEnded, Status};
use super::exports::ServedTarget;
use super::idle::Idle;
use super::links::{LiveOptions, open_link, receive_buffer_bytes};
use super::listener::{Backend, Listener};
use super::probe::{Admission, PortSet};
use super::state::{SettingsSaver, StateDirectory, StateError};
use super::stores::{ArchiveError, Stores};
use super::target::{StorageMeans, TargetError, open_target};
use crate::config::{Config, JournalConfig, PollPolicy, ServerConfig, TargetChange, TargetConfig};
use crate::engine::{AddressTaken, Export};
use crate::link::Link;
use crate::link::interface::OpenError;
use crate::protocol::{Address, MacAddr};
use crate::storage::journal::{FileJournal, JournalError, JournalOptions};
use crate::storage::{BlockStorage, Fault};

/// A target that cannot be served, and why.
pub(super) type Unserved = (TargetConfig, ServerError);

/// How long the loop may take for an order, beside the time that a probe takes. It is long since
/// a target that is removed first answers what it has taken, and its disk may be slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a server cannot start, or not change as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An interface cannot be used.
    #[error(transparent)]
    Link(#[from] OpenError),
    /// What initiators set cannot be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// What was acknowledged before a crash cannot be brought into the images, or the journal not be
    /// used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A target cannot be served.
    #[error("target {address}")]
    Target {
        /// The target.
        address: Address,
        /// Why.
        source: TargetError,
    },
    /// Another server has the address.
    #[error(
        "target {address} is served already by {mac} on {link}; two servers on one address \
         destroy the data: stop that one, or choose another shelf and slot"
    )]
    Claimed {
        /// The address.
        address: Address,
        /// The other server.
        mac: MacAddr,
        /// Where it was heard.
        link: String,
    },
    /// The addresses cannot be served together.
    #[error(transparent)]
    Address(#[from] AddressTaken),
    /// An archive was not closed as it should.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// No snapshot is exported there.
    #[error("no snapshot is exported at {address}")]
    NotExported {
        /// The address.
        address: Address,
    },
    /// The archive is not one that this server has open.
    #[error("archive {} is not open in this server", path.display())]
    NotOpen {
        /// Its directory.
        path: PathBuf,
    },
    /// The loop has ended.
    #[error(transparent)]
    Ended(#[from] LoopEnded),
    /// The loop does not answer.
    #[error("the poll loop does not answer")]
    Unresponsive,
    /// It takes no more requests, but waits to answer what it has taken, for room on its disk for instance.
    #[error(
        "target {address} still waits to answer what it has taken, and takes no more; only then is its disk \
         closed, and a reload can serve it again"
    )]
    Leaving {
        /// The target.
        address: Address,
    },
    /// A disk could not be made durable when it was closed.
    #[error(
        "target {address}: not all that was written to it is durable; check what is on it before it \
         is used again"
    )]
    NotDurable {
        /// The target.
        address: Address,
        /// Why not; the log has the details.
        source: Fault,
    },
    /// The operating system refused.
    #[error("cannot {action}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A running server: one loop on a thread of its own.
pub struct Server {
    pub(super) config: Config,
    /// Snapshots that are served although no configuration says so.
    pub(super) exports: Vec<TargetConfig>,
    /// Targets that were taken off and still wait to answer, and where each comes when it has.
    leaving: Vec<(TargetConfig, Receiver<Option<Export<Backend>>>)>,
    pub(super) control: Control,
    state: Arc<StateDirectory>,
    journal: Option<FileJournal>,
    pub(super) stores: Stores,
    /// What is served, for others to read.
    pub(super) served: Arc<Mutex<Vec<ServedTarget>>>,
    thread: Option<JoinHandle<Vec<Export<Backend>>>>,
}

impl Server {
    /// Opens everything that `config` names and serves it. Returns when every target is served.
    ///
    /// # Errors
    /// Everything that stands in the way, at least one [`ServerError`]; nothing is served then.
    pub fn start(mut config: Config) -> Result<Self, Vec<ServerError>> {
        let targets = std::mem::take(&mut config.targets);
        let mut server = Self::start_loop(config, &targets).map_err(|error| vec![error])?;
        let errors: Vec<_> = server.add(targets).into_iter().map(|(_, error)| error).collect();
        if errors.is_empty() {
            return Ok(server);
        }
        let mut errors = errors;
        errors.extend(server.stop());
        Err(errors)
    }

    /// Starts a loop that serves nothing yet; `targets` tell how much may be under way at once.
    fn start_loop(config: Config, targets: &[TargetConfig]) -> Result<Self, ServerError> {
        let server = &config.server;
        let state = Arc::new(StateDirectory::open(&server.state_dir)?);
        let journal =
            server.journal.as_ref().map(|journal| open_journal(journal, server.sync_priority));
        let journal = journal.transpose()?;
        let mut links = Vec::new();
        for name in &server.interfaces {
            let options = live_options(server, name, targets);
            links.push((name.clone(), open_link(server.link, name, &options)?));
        }
        let os = |action| move |source| ServerError::Os { action, source };
        let saver_state = Arc::clone(&state);
        let mut refused = None;
        let (listener, control) = Listener::new(links, |waker| {
            let saver = SettingsSaver::start(saver_state, waker, 1);
            saver.map_err(|error| refused = Some(error)).ok()
        })
        .map_err(os("make a wake-up descriptor"))?;
        if let Some(error) = refused {
            return Err(os("start the thread that saves settings")(error));
        }
        let thread = spawn(listener, server).map_err(os("start the poll loop"))?;
        let (exports, leaving) = (Vec::new(), Vec::new());
        let (stores, served, thread) = (Stores::new(), Arc::default(), Some(thread));
        Ok(Self { config, exports, leaving, control, state, journal, stores, served, thread })
    }

    /// The configuration in force: of targets, those that are served.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The loop's state.
    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// Whether the loop is running.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Goes over to `new`: removes, adds and changes targets, and leaves the others alone. What
    /// takes a restart stays as it is, with a warning in the log.
    ///
    /// Returns what went wrong, if anything. A target that cannot change stays as it was if it can;
    /// the next reload tries again.
    pub fn reload(&mut self, new: &Config) -> Vec<ServerError> {
        let change = self.config.diff(new);
        for key in &change.restart {
            log::warn!("[server] {key} has changed; it takes effect when the server is restarted");
        }
        // A loop that has ended shows below.
        let _ = self.control.set_idle(idle(&new.server));
        // What a restart is needed for stays on record as it is, so that the next reload warns too.
        let &ServerConfig { poll, spin, probe, log_level, .. } = &new.server;
        let live = &mut self.config.server;
        (live.poll, live.spin, live.probe, live.log_level) = (poll, spin, probe, log_level);

        let mut errors = self.close_those_left();
        for address in change.removed {
            errors.extend(self.remove(address).err());
        }
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for TargetChange { target, reopen, .. } in change.changed {
            if !reopen {
                errors.extend(self.adjust(&target).err());
                continue;
            }
            match self.remove(target.address) {
                Ok(old) => {
                    before.extend(old);
                    after.push(target);
                }
                Err(error) => errors.push(error),
            }
        }
        let exports = self.withdraw_exports(new, &mut errors);
        let coming = after.iter().chain(&change.added).chain(&exports);
        errors.extend(self.close_stores(coming));
        for (failed, error) in self.add(after) {
            errors.push(error);
            let old = before.iter().position(|old| old.address == failed.address);
            let old = old.map(|index| self.with_open_store(before.swap_remove(index)));
            errors.extend(self.add(old.into_iter().collect()).into_iter().map(|(_, error)| error));
        }
        errors.extend(self.add(change.added).into_iter().map(|(_, error)| error));
        errors.extend(self.restore_exports(exports));
        errors.extend(self.close_stores([]));
        for target in &self.config.targets {
            let _ = self.control.refresh(target.address);
        }
        errors
    }

    /// Opens and serves targets, all at once since each may have to be probed for. Returns those
    /// that cannot be served, and why.
    fn add(&mut self, targets: Vec<TargetConfig>) -> Vec<Unserved> {
        let (served, failed) = self.serve(targets);
        self.config.targets.extend(served);
        self.publish();
        failed
    }

    /// Opens and serves targets. Returns those that are served, and those that cannot be, and why.
    pub(super) fn serve(&self, targets: Vec<TargetConfig>) -> (Vec<TargetConfig>, Vec<Unserved>) {
        self.stores.forget_failures();
        let mut served = Vec::new();
        let mut failed = Vec::new();
        let mut answers = Vec::new();
        for target in targets {
            match self.offer(&target) {
                Ok(answer) => answers.push((target, answer)),
                Err(error) => failed.push((target, error)),
            }
        }
        for (target, answer) in answers {
            match self.admission(target.address, &answer) {
                Ok(()) => served.push(target),
                Err(error) => failed.push((target, error)),
            }
        }
        (served, failed)
    }

    /// Opens a target and hands it to the loop.
    fn offer(&self, target: &TargetConfig) -> Result<Receiver<Answer>, ServerError> {
        let address = target.address;
        if self.leaving.iter().any(|(leaving, _)| leaving.address == address) {
            return Err(ServerError::Leaving { address });
        }
        let refused = |source| ServerError::Target { address, source };
        let ports = self.ports(target).map_err(refused)?;
        let means = StorageMeans {
            waker: self.control.waker(),
            journal: self.journal.clone(),
            sync_priority: self.config.server.sync_priority,
            stores: self.stores.clone(),
        };
        let export = open_target(target, means, Some(&self.state)).map_err(refused)?;
        let probe = self.config.server.probe.unwrap_or_default();
        Ok(self.control.add(export, ports, probe)?)
    }

    /// Waits for the loop to serve a target, or to say why it does not.
    fn admission(&self, address: Address, answer: &Receiver<Answer>) -> Result<(), ServerError> {
        let patience = self.config.server.probe.unwrap_or_default() + PATIENCE;
        // An export that comes back is closed here, where that may take its time.
        let (admission, _export) =
            answer.recv_timeout(patience).map_err(|_| ServerError::Unresponsive)?;
        match admission {
            Admission::Served => Ok(()),
            Admission::AddressTaken(error) => Err(error.into()),
            Admission::Stopping => Err(LoopEnded.into()),
            Admission::Claimed { mac, link } => Err(ServerError::Claimed { address, mac, link }),
        }
    }

    /// Stops serving a target and closes its disk. Returns what it was configured as. Whatever is
    /// returned, it is served no more.
    fn remove(&mut self, address: Address) -> Result<Option<TargetConfig>, ServerError> {
        let targets = &mut self.config.targets;
        let Some(index) = targets.iter().position(|target| target.address == address) else {
            return Ok(None);
        };
        let old = targets.swap_remove(index);
        let taken = self.take_off(&old);
        self.publish();
        taken.map(|()| Some(old))
    }

    /// Has the loop stop serving a target, and closes its disk. One that does not come off in time is on
    /// record as leaving.
    pub(super) fn take_off(&mut self, target: &TargetConfig) -> Result<(), ServerError> {
        let address = target.address;
        let export = self.control.remove(address)?;
        match export.recv_timeout(PATIENCE) {
            Ok(export) => {
                // It is gone, however this ends.
                for error in close(export.into_iter().collect()) {
                    log::error!("{error}");
                }
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err(LoopEnded.into()),
            Err(RecvTimeoutError::Timeout) => {
                self.leaving.push((target.clone(), export));
                Err(ServerError::Leaving { address })
            }
        }
    }

    /// Closes the disks of those that were leaving and have answered by now. Returns which of them are
    /// not durable.
    pub(super) fn close_those_left(&mut self) -> Vec<ServerError> {
        let mut errors = Vec::new();
        self.leaving.retain(|(_, export)| match export.try_recv() {
            Ok(export) => {
                errors.extend(close(export.into_iter().collect()));
                false
            }
            // With the loop they came to its end.
            Err(TryRecvError::Disconnected) => false,
            Err(TryRecvError::Empty) => true,
        });
        errors
    }

    /// The targets whose disks are open.
    pub(super) fn with_open_disks(&self) -> impl Iterator<Item = &TargetConfig> {
        let leaving = self.leaving.iter().map(|(target, _)| target);
        self.config.targets.iter().chain(&self.exports).chain(leaving)
    }

    /// Changes what can be changed while a target serves.
    fn adjust(&mut self, target: &TargetConfig) -> Result<(), ServerError> {
        let address = target.address;
        let ports = self.ports(target).map_err(|source| ServerError::Target { address, source })?;
        let (buffer_count, allow) = (target.buffer_count, target.allow.clone());
        self.control.adjust(address, buffer_count, allow, ports)?;
        for present in &mut self.config.targets {
            if present.address == address {
                present.clone_from(target);
            }
        }
        self.publish();
        Ok(())
    }

    /// The links that a target is to be served on.
    fn ports(&self, target: &TargetConfig) -> Result<PortSet, TargetError> {
        let interfaces = &self.config.server.interfaces;
        if let Some(unknown) = target.interfaces.iter().find(|name| !interfaces.contains(name)) {
            return Err(TargetError::Interface { interface: unknown.clone() });
        }
        let names = interfaces.iter().enumerate();
        Ok(PortSet::of(names.filter(|(_, name)| target.is_on(name)).map(|(index, _)| index)))
    }

    /// Stops the loop when it has answered what it has taken, and closes all disks. What was
    /// accepted is durable afterwards, unless errors are returned, which say of which target not.
    pub fn stop(mut self) -> Vec<ServerError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Vec<ServerError> {
        let Some(thread) = self.thread.take() else { return Vec::new() };
        // One that has ended by itself is joined all the same.
        let _ = self.control.stop();
        // A loop that panics ends the process, so that there always are exports.
        let mut errors = thread.join().map(close).unwrap_or_default();
        errors.extend(self.close_those_left());
        errors.extend(self.stores.close().into_iter().map(Into::into));
        // Last: until here images were using it.
        let closed = self.journal.take().map_or(Ok(()), |journal| journal.close());
        errors.extend(closed.err().map(Into::into));
        errors
    }
}

/// Opens the journal, and tells what a crash had left in it.
fn open_journal(config: &JournalConfig, priority: Option<u8>) -> Result<FileJournal, JournalError> {
    let options = JournalOptions { bytes: config.bytes, priority };
    let (journal, replayed) = FileJournal::open(&config.path, options)?;
    if replayed.writes > 0 {
        log::warn!(
            "the last server did not come to its end: {} writes, {} bytes, were brought from journal \
             {} into {} images",
            replayed.writes,
            replayed.bytes,
            config.path.display(),
            replayed.images
        );
    }
    Ok(journal)
}

/// Closes disks, each of which waits for its last sync; tells of those that are not durable.
fn close<S: BlockStorage>(exports: Vec<Export<S>>) -> Vec<ServerError> {
    let mut errors = Vec::new();
    for Export { target, mut storage } in exports {
        let address = target.address();
        let closed = storage.finish();
        errors.extend(closed.err().map(|source| ServerError::NotDurable { address, source }));
    }
    errors
}

impl Drop for Server {
    fn drop(&mut self) {
        // Failures have been logged, and there is nobody left to tell.
        let _ = self.shut_down();
    }
}

/// Runs a loop on a thread of its own, on the CPU that the configuration names.
fn spawn<L: Link + Send + 'static>(
    mut listener: Listener<L>,
    config: &ServerConfig,
) -> io::Result<JoinHandle<Vec<Export<Backend>>>> {
    let (idle, cpu) = (idle(config), config.cpu);
    thread::Builder::new().name("aoe-loop".into()).spawn(move || {
        let _guard = AbortOnPanic;
        if let Some(cpu) = cpu {
            pin(cpu);
        }
        listener.run(idle);
        listener.into_parts().0
    })
}

/// Ends the process when the loop panics, in builds that unwind too: a server without its loop
/// would look alive and answer nobody.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!("the poll loop has panicked");
            std::process::abort();
        }
    }
}

/// Binds the calling thread to one CPU. A machine without that CPU serves all the same.
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    let pinned = if cpu < rustix::thread::CpuSet::MAX_CPU {
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)
    } else {
        Err(rustix::io::Errno::INVAL)
    };
    if let Err(error) = pinned {
        log::warn!("cannot bind the poll loop to CPU {cpu}: {error}");
    }
}

fn idle(config: &ServerConfig) -> Idle {
    match config.poll {
        PollPolicy::Spin => Idle::Spin,
        PollPolicy::Adaptive => Idle::Adaptive(config.spin),
        PollPolicy::Block => Idle::Block,
    }
}

/// How to open the interface called `name`, with `targets` to be served.
fn live_options(config: &ServerConfig, name: &str, targets: &[TargetConfig]) -> LiveOptions {
    let on_it = targets.iter().filter(|target| target.is_on(name));
    let needed = || receive_buffer_bytes(config.link, on_it.map(|target| target.buffer_count));
    let configured = config.receive_buffer.and_then(|bytes| usize::try_from(bytes).ok());
    LiveOptions {
        promiscuous: config.promiscuous,
        receive_buffer_bytes: configured.unwrap_or_else(needed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, MacList, Settings, Target, TargetProfile};
    use crate::storage::mem::MemStorage;
    use crate::storage::{Accepted, DeviceInfo, Ready, Ticket};
    use crate::units::Lba;

    /// A disk whose last sync fails, or not.
    struct Disk(MemStorage<Vec<u8>>, Result<(), Fault>);

    impl BlockStorage for Disk {
        fn info(&self) -> &DeviceInfo {
            self.0.info()
        }
        fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
            self.0.read(lba, into)
        }
        fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
            self.0.write(lba, data)
        }
        fn flush(&mut self) -> Result<Accepted, Fault> {
            self.0.flush()
        }
        fn verify(&mut self, lba: Lba, count: crate::units::Sectors) -> Result<Ready, Fault> {
            self.0.verify(lba, count)
        }
        fn applied(&self) -> Ticket {
            self.0.applied()
        }
        fn durable(&self) -> Ticket {
            self.0.durable()
        }
        fn finish(&mut self) -> Result<(), Fault> {
            self.1
        }
    }

    /// A server whose last sync failed once said that all was durable.
    #[test]
    fn a_disk_that_cannot_be_made_durable_is_told_of() {
        let export = |slot, last: Result<(), Fault>| {
            let profile = TargetProfile {
                address: Address::new(7, slot),
                buffer_count: 64,
                durability: Durability::Volatile,
                allow: MacList::new(),
            };
            let disk: Box<dyn BlockStorage> =
                Box::new(Disk(MemStorage::new(vec![0; 512], "ram"), last));
            Export { target: Target::new(profile, Settings::default()), storage: disk }
        };
        let errors =
            close(vec![export(0, Ok(())), export(1, Err(Fault::Media)), export(2, Ok(()))]);
        let [ServerError::NotDurable { address, source: Fault::Media }] = errors.as_slice() else {
            panic!("{errors:?}")
        };
        assert_eq!(*address, Address::new(7, 1));
    }
}
