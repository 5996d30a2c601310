//! `serve`: the server itself.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use log::LevelFilter;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::{COULD_NOT_TELL, NO};
use crate::admin::{ControlError, ControlSocket, SharedServer};
use crate::config::{Config, ConfigErrors, ServerConfig};
use crate::server::{LinkStatus, Observer, Server, ServerError, Status, TargetStatus};

/// Serve the targets of a configuration file
///
/// SIGHUP reads the file again: targets are added, removed and changed without disturbing the
/// others. SIGTERM and SIGINT end the server when everything it has accepted is durable; it exits
/// with 1 when that cannot be had. SIGUSR1 writes its counters to the log.
#[derive(Debug, clap::Args)]
pub(super) struct ServeCmd {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "AOE_SERVER_CONFIG")]
    config: PathBuf,
    /// Serve on this interface instead of those in the file; may be repeated
    #[arg(short, long, value_name = "NAME")]
    interface: Vec<String>,
}

impl ServeCmd {
    pub(super) fn run(&self, log_level: Option<LevelFilter>) -> anyhow::Result<ExitCode> {
        let config = match self.load(log_level) {
            Ok(config) => config,
            Err(errors) if errors.is_unreadable() => return Err(errors.into()),
            Err(errors) => {
                super::complain(&errors.into());
                return Ok(ExitCode::from(NO));
            }
        };
        // Before anything is opened, so that a signal during the start is not lost.
        let mut signals =
            Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1]).context("cannot catch signals")?;
        let server = match Server::start(config) {
            Ok(server) => server,
            Err(errors) => {
                for error in errors {
                    super::complain(&self.with_file(error));
                }
                return Ok(ExitCode::from(COULD_NOT_TELL));
            }
        };
        let (config, observer) = (server.config().server.clone(), server.observer());
        let server = Arc::new(Mutex::new(Some(server)));
        let socket = match control(&config, observer.clone(), Arc::clone(&server)) {
            Ok(socket) => socket,
            Err(error) => {
                super::complain(&error.into());
                complain_of_all(take(&server).map(Server::stop).unwrap_or_default());
                return Ok(ExitCode::from(COULD_NOT_TELL));
            }
        };
        if let Some(server) = lock(&server).as_ref() {
            announce(server);
        }
        notify(&[NotifyState::Ready]);
        for signal in signals.forever() {
            match signal {
                SIGHUP => {
                    if let Some(server) = lock(&server).as_mut() {
                        self.reload(server, log_level);
                    }
                }
                SIGUSR1 => log_status(&observer.status()),
                _ => break,
            }
        }
        log::info!("stopping");
        notify(&[NotifyState::Stopping]);
        // A second signal ends it the hard way, where storage does not answer any more.
        let armed = Arc::new(AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM] {
            let code = COULD_NOT_TELL.into();
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&armed))
                .context("cannot catch signals")?;
        }
        if let Some(socket) = socket {
            socket.close();
        }
        let errors = take(&server).map(Server::stop).unwrap_or_default();
        if errors.is_empty() {
            log::info!("stopped: all that was accepted is durable");
            return Ok(ExitCode::SUCCESS);
        }
        complain_of_all(errors);
        Ok(ExitCode::from(NO))
    }

    /// Reads the file, and takes over what the command line says otherwise.
    fn load(&self, log_level: Option<LevelFilter>) -> Result<Config, ConfigErrors> {
        let mut config = Config::load(&self.config)?;
        if !self.interface.is_empty() {
            config.server.interfaces.clone_from(&self.interface);
        }
        log::set_max_level(log_level.unwrap_or(config.server.log_level));
        Ok(config)
    }

    /// The error, after the name of the file if it is about something that stands there.
    fn with_file(&self, error: ServerError) -> anyhow::Error {
        let is_of_file = matches!(error, ServerError::Target { .. });
        let error = anyhow::Error::from(error);
        if is_of_file { error.context(format!("{}", self.config.display())) } else { error }
    }

    fn reload(&self, server: &mut Server, log_level: Option<LevelFilter>) {
        log::info!("reading {} again", self.config.display());
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
        match self.load(log_level) {
            Ok(config) => {
                for error in server.reload(&config) {
                    log::error!("{:#}", self.with_file(error));
                }
                announce(server);
            }
            Err(errors) => {
                super::complain(&errors.into());
                log::error!("the configuration stays as it was");
            }
        }
        notify(&[NotifyState::Ready]);
    }
}

/// The socket by which the server is controlled. One that the configuration does not ask for is done
/// without where it cannot be: serving matters more.
fn control(
    config: &ServerConfig,
    observer: Observer,
    server: SharedServer,
) -> Result<Option<ControlSocket>, ControlError> {
    let path = config.control_socket();
    match ControlSocket::open(&path, observer, server) {
        Ok(socket) => {
            log::info!("listening at {}", path.display());
            Ok(Some(socket))
        }
        Err(error) if config.control_socket.is_none() => {
            log::error!("{:#}", anyhow::Error::from(error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn lock(server: &SharedServer) -> MutexGuard<'_, Option<Server>> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the server away from everybody else.
fn take(server: &SharedServer) -> Option<Server> {
    lock(server).take()
}

fn complain_of_all(errors: Vec<ServerError>) {
    for error in errors {
        super::complain(&error.into());
    }
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot tell the service manager: {error}");
    }
}

/// Says what is served: the last that a server says of its start, when everything answers.
fn announce(server: &Server) {
    let config = server.config();
    for target in &config.targets {
        log::info!("serving {} from {}", target.address, target.storage);
    }
    log::info!("{} targets on {}", config.targets.len(), config.server.interfaces.join(", "));
}

fn log_status(status: &Status) {
    for link in &status.links {
        let LinkStatus { name, info, counters, given_up, shed } = link;
        log::info!("{name}: {info:?} {counters:?}, {given_up} given up, {shed} shed");
    }
    log::info!("unserved: {:?}", status.engine);
    for target in &status.targets {
        let TargetStatus { address, counters, held, parked, dropped, .. } = target;
        log::info!("{address}: {counters:?}, {held} held, {parked} parked, {dropped} dropped");
    }
}
