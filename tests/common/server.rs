//! The server as a child process, with a configuration of its own and its log at hand.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::net::{PATIENCE, within};

/// What the server logs when every target is served.
const SERVING: &str = " targets on ";

/// A running `aoe-server serve`, in the network namespace of the thread that started it. It is
/// killed when this is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    log: PathBuf,
    /// Where its files are, unless the test has them.
    directory: Option<TempDir>,
}

impl ServerProcess {
    /// Starts a server and waits until it serves. In the text of its configuration `{dir}` stands
    /// for an empty directory of its own.
    pub(crate) fn start(config_text: &str) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut server = Self::start_in(directory.path(), config_text);
        server.directory = Some(directory);
        server
    }

    /// The same with a directory of the test's, which outlives the server.
    pub(crate) fn start_in(directory: &Path, config_text: &str) -> Self {
        let mut server = Self::spawn_in(directory, config_text);
        let serves = within(PATIENCE, || {
            server.log().contains(SERVING) || server.child.try_wait().expect("a child").is_some()
        });
        assert!(serves && server.is_running(), "the server does not serve:\n{}", server.log());
        server
    }

    /// The same without waiting: it may refuse to start.
    pub(crate) fn spawn_in(directory: &Path, config_text: &str) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let config = directory.join(format!("server-{number}.toml"));
        let log = directory.join(format!("server-{number}.log"));
        let place = directory.to_str().expect("a path of text");
        fs::write(&config, config_text.replace("{dir}", place)).expect("the configuration is kept");
        let child = Command::new(env!("CARGO_BIN_EXE_aoe-server"))
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .env_remove("AOE_SERVER_LOG")
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the log can be written"))
            .spawn()
            .expect("the server can be run");
        Self { child, log, directory: None }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        kill(Pid::from_raw(id), signal).expect("the server is there");
    }

    /// Has it end in good order, and waits for that.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the server is there");
        self.wait();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = within(2 * PATIENCE, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        assert!(ended, "the server does not end:\n{}", self.log());
        status.expect("ended")
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `text` is in the log, and returns the log.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let found = within(PATIENCE, || self.log().contains(text));
        let log = self.log();
        assert!(found, "the log lacks \"{text}\":\n{log}");
        log
    }

    /// Its counters, as it logs them when asked: they are some tenths of a second old at most.
    pub(crate) fn counters(&self) -> String {
        const MARK: &str = "unserved: ";
        let before = self.log().matches(MARK).count();
        self.signal(Signal::SIGUSR1);
        assert!(within(PATIENCE, || self.log().matches(MARK).count() > before), "{}", self.log());
        let log = self.log();
        // The line before the mark is that of the last link; with it come the target's.
        let at = log.rfind(MARK).expect("found");
        let start = log[..at].rfind("LinkInfo").unwrap_or(at);
        log[start..].to_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
