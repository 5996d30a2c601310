//! The real program as a child process. Everything it needs lies in a directory of its own, which
//! goes away with it; so does the process, whatever becomes of the test.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(unsafe_code, reason = "what a child does between fork and exec is unsafe to say")]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use aoe_server::link::af_packet::{AfPacketLink, AfPacketOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::net::{PATIENCE, within};
use aoe_server::client::Client;
use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_aoe-server");
/// Lines of its log that are shown when a test fails.
const TOLD_LINES: usize = 60;
/// What the log says when every target is served.
const READY: &str = " targets on ";

/// The program, with nothing in its environment that would change what it does, and killed when the
/// thread that starts it ends.
pub(crate) fn program(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
    of_this_thread(Command::new(PROGRAM), args)
}

/// The same, as a user with no rights but `capabilities`, written as `setpriv` takes them. `program`
/// must be where that user can reach it.
pub(crate) fn as_nobody(program: &Path, capabilities: &str, args: &[&OsStr]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args([format!("--inh-caps={capabilities}"), format!("--ambient-caps={capabilities}")]);
    command.arg(program);
    of_this_thread(command, args)
}

/// `command` with `args`, with nothing in its environment that would change what the program does, and
/// killed when the thread that starts it ends.
pub(crate) fn of_this_thread(
    mut command: Command,
    args: impl IntoIterator<Item: AsRef<OsStr>>,
) -> Command {
    command.args(args).stdin(Stdio::null());
    for variable in ["AOE_SERVER_CONFIG", "AOE_SERVER_LOG", "JOURNAL_STREAM", "NOTIFY_SOCKET"] {
        command.env_remove(variable);
    }
    let die = || {
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal).map_err(Into::into)
    };
    // SAFETY: the closure makes one system call and does nothing else: it allocates nothing and
    // takes no lock, as is demanded of a child of a process with several threads.
    unsafe { command.pre_exec(die) };
    command
}

/// Runs the program to its end.
pub(crate) fn run(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
    program(args).output().expect("the program starts")
}

/// Standard output and standard error of a run, as text.
pub(crate) fn texts(output: &Output) -> (String, String) {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Makes sure of how a run ended, and hands out what it wrote: standard output, standard error.
#[track_caller]
pub(crate) fn ended(output: &Output, code: i32) -> (String, String) {
    let (stdout, stderr) = texts(output);
    assert_eq!(output.status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

/// An initiator of this process on the interface called `name`.
pub(crate) fn client(name: &str) -> Client {
    let mut client = Client::new(Box::new(packet_link(name)));
    client.set_patience(PATIENCE);
    client
}

/// A link of this process on the interface called `name`.
pub(crate) fn packet_link(name: &str) -> AfPacketLink {
    let options = AfPacketOptions { receive_buffer_bytes: 16 << 20, ..AfPacketOptions::default() };
    AfPacketLink::open(name, &options).expect("packet sockets are permitted here")
}

/// A directory for what a server needs: its configuration, its state, its images, its log.
pub(crate) struct Home {
    directory: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("aoe-server-test-").tempdir();
        Self { directory: directory.expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The start of a configuration: everything but targets.
    pub(crate) fn server(&self, interface: &str, link: &str) -> String {
        let state = self.path("state");
        format!(
            "[server]\ninterface = \"{interface}\"\nlink = \"{link}\"\nprobe = false\n\
             state_dir = \"{}\"\n",
            state.display()
        )
    }

    /// A target with an image in this directory; `more` are further lines.
    pub(crate) fn file_target(&self, slot: u8, image: &str, more: &str) -> String {
        let path = self.path(image);
        format!(
            "[[target]]\nshelf = 1\nslot = {slot}\nbackend = \"file\"\npath = \"{}\"\n{more}\n",
            path.display()
        )
    }

    /// A target in an archive in this directory; `more` are further lines about the volume, and
    /// `of_store` about the archive.
    pub(crate) fn archive_target(
        &self,
        slot: u8,
        archive: &str,
        more: &str,
        of_store: &str,
    ) -> String {
        let path = self.path(archive);
        format!(
            "[[target]]\nshelf = 1\nslot = {slot}\nbackend = \"cas\"\n[target.cas]\n{more}\n\
             [target.cas.blob_store]\ntype = \"file\"\npath = \"{}\"\n{of_store}\n",
            path.display()
        )
    }

    /// Makes this directory, and all that is in it, usable by everybody.
    pub(crate) fn open_to_everybody(&self) {
        let everybody = Permissions::from_mode(0o777);
        fs::set_permissions(self.directory.path(), everybody).expect("it is ours");
    }

    /// A copy of the program in this directory, which others than its builder can run.
    pub(crate) fn program(&self) -> PathBuf {
        let copy = self.path("aoe-server");
        fs::copy(PROGRAM, &copy).expect("there is room for the program");
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("it is ours");
        copy
    }
}

/// A target in memory.
pub(crate) fn mem_target(slot: u8, size: &str, more: &str) -> String {
    format!("[[target]]\nshelf = 1\nslot = {slot}\nbackend = \"mem\"\nsize = \"{size}\"\n{more}\n")
}

/// A server that runs.
pub(crate) struct ServerProcess {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    /// Where its files are, if that was made for this process alone; goes away with it.
    home: Option<Home>,
}

impl ServerProcess {
    /// Starts a server with this configuration, and waits until it serves. `{dir}` in it stands for
    /// the directory with its files.
    pub(crate) fn start(config_text: &str) -> Self {
        let home = Home::new();
        let mut server = Self::start_in(&home, config_text);
        server.home = Some(home);
        server
    }

    /// The same, with its files in `home`.
    pub(crate) fn start_in(home: &Home, config_text: &str) -> Self {
        Self::start_with(home, config_text, |_| ())
    }

    /// The same, with a command line or an environment that is `changed`.
    pub(crate) fn start_with(
        home: &Home,
        config_text: &str,
        changed: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = Self::serving(home, config_text);
        changed(&mut command);
        let server = Self::spawn(home, command);
        server.wait_for_log(READY);
        server
    }

    /// The command that serves this configuration, which is kept in `home`.
    pub(crate) fn serving(home: &Home, config_text: &str) -> Command {
        let config = home.path("aoe-server.toml");
        let place = home.directory.path().to_str().expect("a path of text");
        fs::write(&config, config_text.replace("{dir}", place)).expect("the directory is ours");
        program(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])
    }

    /// Starts `command`, whatever will become of it.
    pub(crate) fn spawn(home: &Home, mut command: Command) -> Self {
        let log = home.path("log");
        // Of a server that takes over the directory, the log starts anew.
        File::create(&log).expect("the directory is ours");
        let file = OpenOptions::new().append(true).open(&log).expect("it was just made");
        let child = command.stderr(file).spawn().expect("the program starts");
        Self { child, config: home.path("aoe-server.toml"), log, home: None }
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its configuration file.
    pub(crate) fn config_path(&self) -> &Path {
        &self.config
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("Linux has no such large numbers");
        kill(Pid::from_raw(pid), signal).expect("it was not waited for yet");
    }

    /// Gives it another configuration, and tells it so.
    pub(crate) fn reload(&self, config_text: &str) {
        fs::write(&self.config, config_text).expect("the directory is ours");
        self.signal(Signal::SIGHUP);
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = within(PATIENCE * 3, || {
            status = self.ended();
            status.is_some()
        });
        assert!(ended, "the server does not end; its log:\n{}", self.log());
        status.expect("it has ended")
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("the log is ours")).into_owned()
    }

    /// Waits until it has logged `text`, and returns the log.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_again(text, 1);
        self.log()
    }

    /// Its counters, as it logs them when asked: they are some tenths of a second old at most.
    pub(crate) fn counters(&self) -> String {
        const MARK: &str = "unserved: ";
        let before = self.log().matches(MARK).count();
        self.signal(Signal::SIGUSR1);
        self.wait_for_log_again(MARK, before + 1);
        let log = self.log();
        // The line before the mark is that of the last link; with it come the target's.
        let at = log.rfind(MARK).expect("found");
        let start = log[..at].rfind("LinkInfo").unwrap_or(at);
        log[start..].to_owned()
    }

    /// Waits until it has logged `text` so many times.
    pub(crate) fn wait_for_log_again(&self, text: &str, times: usize) {
        let logged = within(PATIENCE * 2, || self.log().matches(text).count() >= times);
        assert!(logged, "not in the log {times} times: {text}\nthe log:\n{}", self.log());
    }
}

impl ServerProcess {
    /// Tells what there is to know of it when a test fails that uses it.
    #[allow(clippy::print_stderr, reason = "whoever reads of a failure needs the server's side")]
    fn tell(&mut self) {
        let ended = self.child.try_wait();
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n");
        eprintln!("the server {} ({ended:?}) has logged at last:\n{last}", self.pid());
        for task in
            fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten()
        {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (name, state, place) = (read("comm"), read("stat"), read("wchan"));
            let state = state.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
            eprintln!("thread {}: {} in {place}", name.trim_end(), state.unwrap_or_default());
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        // It may have ended already; if not, nobody needs it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
