//! Where it happens: a private network, a directory on a disk, processes that end with us.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};

use crate::options::Options;

/// Drops a file from the page cache.
pub(crate) fn forget(path: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(path)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed).context("cannot drop an image from memory")?;
    Ok(())
}

/// What servers are bound to.
pub(crate) const SERVER_CPU: usize = 0;
/// What the load generator is bound to.
pub(crate) const GENERATOR_CPU: usize = 1;
/// Octets of a disk.
pub(crate) const IMAGE_LEN: usize = 128 << 20;

/// What all measurements share.
pub(crate) struct Workbench {
    pub(crate) aoe_server: PathBuf,
    pub(crate) vblade: PathBuf,
    /// Images, configurations and logs; removed at the end.
    pub(crate) directory: tempfile::TempDir,
    pub(crate) rounds: u16,
    pub(crate) seconds: f64,
    interrupted: Arc<AtomicBool>,
}

impl Workbench {
    /// Moves this process into a network of its own, and makes sure that all is there.
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        let cpus = std::thread::available_parallelism()?.get();
        ensure!(cpus > GENERATOR_CPU, "two CPUs are needed, for servers and for the generator");
        unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace; scripts/compare can, if it is allowed")?;
        let places = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let directory = tempfile::Builder::new().prefix("aoe-compare-").tempdir_in(places)?;
        if file_system(directory.path()) == "tmpfs" {
            say("warning: images are in memory; set TMPDIR to a directory on a disk");
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let built = PathBuf::from(env!("CARGO_BIN_EXE_aoe-server"));
        Ok(Self {
            aoe_server: options.server.clone().unwrap_or(built),
            vblade: find("vblade")?,
            directory,
            rounds: options.rounds,
            seconds: options.seconds,
            interrupted,
        })
    }

    /// Fails after Ctrl-C.
    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An image with all its blocks allocated, on disk and not in the page cache: each server brings
    /// it there in its own manner, and not as the large folios of whoever filled it. One that is there
    /// is used again.
    pub(crate) fn image(&self, name: &str, len: usize) -> anyhow::Result<PathBuf> {
        const PIECE: usize = 1 << 20;
        let path = self.path(name);
        if !path.exists() {
            let mut file = fs::File::create(&path)?;
            let zeros = vec![0; PIECE];
            for _ in 0..len / PIECE {
                file.write_all(&zeros).with_context(|| format!("cannot fill {name}"))?;
            }
        }
        forget(&path)?;
        Ok(path)
    }

    /// What was measured on, and how.
    pub(crate) fn conditions(&self) -> Value {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        json!({
            "rounds": self.rounds,
            "seconds": self.seconds,
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "cpu": model.unwrap_or_default().trim_start_matches(['\t', ' ', ':']),
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "load_average": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
            "images_on": file_system(self.directory.path()),
            "aoe_server": output(Command::new(&self.aoe_server).arg("--version")),
            "vblade": output(Command::new("dpkg-query").args(["-Wf", "${Version}", "vblade"])),
            "unix_seconds": aoe_server::clock::unix_micros() / 1_000_000,
        })
    }
}

/// `program`, bound to a CPU, to be killed when this process ends.
pub(crate) fn on_cpu(cpu: usize, program: &Path) -> Command {
    let mut command = bound_to_us(Path::new("taskset"));
    command.args(["--cpu-list", &cpu.to_string()]).arg(program);
    command
}

/// `program`, to be killed when this process ends.
pub(crate) fn bound_to_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null());
    command
}

/// Lays a cable: the interfaces `s` and `c` with `number`, for a server and for the generator.
pub(crate) fn lay_cable(number: usize, mtu: usize) -> anyhow::Result<()> {
    let (server, client, mtu) = (format!("s{number}"), format!("c{number}"), mtu.to_string());
    ip(&[
        "link", "add", &server, "mtu", &mtu, "type", "veth", "peer", "name", &client, "mtu", &mtu,
    ])?;
    ip(&["link", "set", &server, "up"])?;
    ip(&["link", "set", &client, "up"])
}

/// Takes it away.
pub(crate) fn take_cable_away(number: usize) -> anyhow::Result<()> {
    ip(&["link", "del", &format!("s{number}")])
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).output().context("cannot run ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {complaint}", words.join(" "));
    Ok(())
}

/// The program called `name`, also from where Debian keeps those of the administrator.
fn find(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    match places.map(|place| place.join(name)).find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => bail!("there is no {name}; scripts/compare installs it"),
    }
}

fn file_system(path: &Path) -> String {
    output(Command::new("stat").args(["-f", "-c", "%T"]).arg(path))
}

/// What a command prints; nothing when it fails.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_string()
}

/// Tells how it goes on.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
