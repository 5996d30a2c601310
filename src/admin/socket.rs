//! The socket, and those who come to it.
//!
//! It is made by another name, given its mode, and only then renamed: nobody finds it with a mode
//! that it should not have. A socket that a server left behind when it was killed is replaced; one
//! that somebody listens on, or a file that is no socket, is left alone.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::answer::{Refusal, RefusalKind};
use super::session::{self, Desk};
use crate::server::{Observer, Server};

/// A server that several threads may change, one at a time; `None` when it is being stopped.
pub type SharedServer = Arc<Mutex<Option<Server>>>;

/// The most clients at a time, by feel: some people, and some programs that look after servers.
const CLIENTS_MAX: usize = 16;
/// How long the end waits for requests that are being seen to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is tried again to take a client, and told that it fails.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(1);
/// Clients that may wait to be taken.
const BACKLOG: i32 = 16;

/// Why there can be no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Another server listens there.
    #[error(
        "a server listens on {} already; `control_socket` in [server] can name another place",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error(
        "{} is no socket; `control_socket` in [server] can name another place",
        path.display()
    )]
    NotASocket {
        /// What it is.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {operation} the control socket {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket by which a running server is controlled. Dropping it ends that.
pub struct ControlSocket {
    path: PathBuf,
    /// The socket's file: another one by the same name is none of ours.
    identity: (u64, u64),
    listener: Arc<UnixListener>,
    clients: Arc<Clients>,
    thread: Option<JoinHandle<()>>,
}

/// The clients there are.
#[derive(Default)]
struct Clients {
    ended: AtomicBool,
    streams: Mutex<HashMap<u64, UnixStream>>,
    gone: Condvar,
}

impl ControlSocket {
    /// Listens at `path`, and sees to what is asked of the server. Only its user can connect.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn open(
        path: &Path,
        observer: Observer,
        server: SharedServer,
    ) -> Result<Self, ControlError> {
        let listener = Arc::new(listen(path)?);
        let failed =
            |operation| move |source| ControlError::Io { operation, path: path.into(), source };
        let identity = identity(path).map_err(failed("look at"))?;
        let clients = Arc::new(Clients::default());
        let desk = Desk { observer, server };
        let (accepting, present) = (Arc::clone(&listener), Arc::clone(&clients));
        let thread = thread::Builder::new()
            .name("aoe-control".into())
            .spawn(move || accept(&accepting, &present, &desk))
            .map_err(failed("start a thread for"))?;
        Ok(Self { path: path.into(), identity, listener, clients, thread: Some(thread) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes no more requests, waits a moment for those that are being seen to, and removes the socket.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove the control socket {}: {error}", self.path.display());
        }
        self.clients.ended.store(true, Ordering::SeqCst);
        // These wake who takes clients, and the flag tells what for.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        self.clients.gone.notify_all();
        let _ = thread.join();
        let streams = self.clients.lock();
        for stream in streams.values() {
            let _ = stream.shutdown(Shutdown::Read); // it may have gone
        }
        let gone = &self.clients.gone;
        let waited = gone.wait_timeout_while(streams, PATIENCE, |streams| !streams.is_empty());
        let (streams, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            log::warn!("{} requests on the control socket are left undone", streams.len());
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.end();
    }
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, UnixStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the socket.
fn listen(path: &Path) -> Result<UnixListener, ControlError> {
    let failed =
        |operation, source: io::Error| ControlError::Io { operation, path: path.into(), source };
    make_way(path)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let _ = fs::remove_file(&unfinished); // of a server that was killed just then
    let made = || -> Result<_, Errno> {
        let address = SocketAddrUnix::new(&unfinished)?;
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &address)?;
        rustix::fs::chmod(&unfinished, Mode::RUSR | Mode::WUSR)?;
        rustix::net::listen(&socket, BACKLOG)?;
        rustix::fs::rename(&unfinished, path)?;
        Ok(socket)
    };
    match made() {
        Ok(socket) => Ok(UnixListener::from(socket)),
        Err(errno) => {
            let _ = fs::remove_file(&unfinished); // it may not have come so far
            Err(failed("make", errno.into()))
        }
    }
}

/// Makes sure that nothing is at `path` that must not be replaced.
fn make_way(path: &Path) -> Result<(), ControlError> {
    let failed = |operation, source| ControlError::Io { operation, path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ControlError::InUse { path: path.into() }),
        // Nobody listens: it is left from a server that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look who listens on", error)),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Takes clients, until that ends.
fn accept(listener: &UnixListener, clients: &Arc<Clients>, desk: &Desk) {
    for number in 0.. {
        let accepted = listener.accept();
        if clients.ended.load(Ordering::SeqCst) {
            return;
        }
        let taken = accepted.and_then(|(stream, _)| take(stream, number, clients, desk));
        if let Err(error) = taken {
            log::warn!("the control socket: {error}");
            // Where there are no descriptors left, trying again helps when somebody has gone.
            let streams = clients.lock();
            let _ = clients.gone.wait_timeout(streams, TROUBLE_INTERVAL);
        }
    }
}

/// Gives a client a thread of its own.
fn take(stream: UnixStream, number: u64, clients: &Arc<Clients>, desk: &Desk) -> io::Result<()> {
    let mut streams = clients.lock();
    if streams.len() >= CLIENTS_MAX {
        let message = format!("{CLIENTS_MAX} clients are the most; try again");
        let refusal = Refusal { kind: RefusalKind::Busy, message };
        drop(streams);
        session::refuse(&stream, &refusal);
        return Ok(());
    }
    streams.insert(number, stream.try_clone()?);
    drop(streams);
    let (desk, present) = (desk.clone(), Arc::clone(clients));
    let started = thread::Builder::new().name(format!("aoe-control-{number}")).spawn(move || {
        // Leaves even when it panics.
        let _present = Present { clients: &present, number };
        if let Err(error) = session::serve(&desk, &stream) {
            log::debug!("a client of the control socket: {error}");
        }
    });
    if started.is_err() {
        clients.lock().remove(&number);
    }
    started.map(drop)
}

/// A client that is there as long as this is.
struct Present<'c> {
    clients: &'c Clients,
    number: u64,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.number);
        self.clients.gone.notify_all();
    }
}
