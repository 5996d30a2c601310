//! The servers that are compared: how each is started, and how it is kept from disturbing others.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::generator::{Ask, Measurement, command};
use crate::workbench::{GENERATOR_CPU, SERVER_CPU, Workbench, bound_to_us, on_cpu};

/// How often a server is asked whether it serves.
const TRIES: usize = 100;

/// A server, by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The vblade that promises as much for a write, which it is compared with.
    pub(crate) vblade: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Debian's vblade, with `-s` or without.
    Vblade {
        sync: bool,
    },
    Ours(Ours),
    /// See `answerer.rs`.
    Answerer,
}

/// What of our configuration differs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ours {
    pub(crate) link: &'static str,
    pub(crate) poll: &'static str,
    pub(crate) durability: &'static str,
    pub(crate) journal: bool,
    /// Only the loop is bound to the servers' CPU; threads of disks run where the scheduler puts them.
    pub(crate) spread: bool,
}

/// Ours as it is without further words, over `af-packet`.
pub(crate) const OURS: Ours = Ours {
    link: "af-packet",
    poll: "adaptive",
    durability: "durable",
    journal: false,
    spread: false,
};
pub(crate) const VBLADE: Spec =
    Spec { name: "vblade", kind: Kind::Vblade { sync: false }, vblade: "vblade" };
pub(crate) const VBLADE_SYNC: Spec =
    Spec { name: "vblade -s", kind: Kind::Vblade { sync: true }, vblade: "vblade -s" };
pub(crate) const PCAP: Spec =
    Spec { name: "pcap", kind: Kind::Ours(Ours { link: "pcap", ..OURS }), vblade: "vblade" };
pub(crate) const AF_PACKET: Spec =
    Spec { name: "af-packet", kind: Kind::Ours(OURS), vblade: "vblade" };
pub(crate) const ANSWERER: Spec = Spec { name: "answerer", kind: Kind::Answerer, vblade: "vblade" };
pub(crate) const JOURNAL: Spec = Spec {
    name: "af-packet + journal",
    kind: Kind::Ours(Ours { journal: true, spread: true, ..OURS }),
    vblade: "vblade -s",
};
pub(crate) const JOURNAL_ON_ONE: Spec = Spec {
    name: "af-packet + journal, one CPU",
    kind: Kind::Ours(Ours { journal: true, ..OURS }),
    vblade: "vblade -s",
};
pub(crate) const VOLATILE: Spec = Spec {
    name: "af-packet volatile",
    kind: Kind::Ours(Ours { durability: "volatile", ..OURS }),
    vblade: "vblade",
};

impl Spec {
    /// The same, its writes compared with those of a vblade that makes them durable.
    pub(crate) const fn durable(self) -> Self {
        Self { vblade: "vblade -s", ..self }
    }
}

/// A server that runs, on the cable with its number. It has the shelf of that number, and a slot
/// for each image.
pub(crate) struct Server {
    pub(crate) spec: Spec,
    pub(crate) number: usize,
    pub(crate) images: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Server {
    /// Starts `spec`, and waits until it serves.
    pub(crate) fn start(
        workbench: &Workbench,
        spec: Spec,
        number: usize,
        images: Vec<PathBuf>,
    ) -> anyhow::Result<Self> {
        let mut server = Self { spec, number, images, children: Vec::new() };
        let log_path = workbench.path(&format!("{number}.log"));
        let log = fs::File::create(&log_path)?;
        for mut command in server.commands(workbench)? {
            command.stdout(log.try_clone()?).stderr(log.try_clone()?);
            server.children.push(command.spawn().context("cannot run setpriv and taskset")?);
        }
        for target in server.targets() {
            if !server.serves(workbench, &target)? {
                let said = fs::read_to_string(&log_path)?;
                bail!("{} does not serve {target}: {said}", spec.name);
            }
        }
        Ok(server)
    }

    /// The interface that it is behind.
    pub(crate) fn interface(&self) -> String {
        format!("c{}", self.number)
    }

    /// The names of its targets.
    pub(crate) fn targets(&self) -> Vec<String> {
        let slots = 0..self.images.len().max(1);
        slots.map(|slot| format!("e{}.{slot}", self.number)).collect()
    }

    /// One process for ours, one for each image for vblade.
    fn commands(&self, workbench: &Workbench) -> anyhow::Result<Vec<Command>> {
        let (number, interface) = (self.number.to_string(), format!("s{}", self.number));
        match self.spec.kind {
            Kind::Ours(ours) => {
                let text = configuration(workbench, &ours, self.number, &self.images);
                let path = workbench.path(&format!("{number}.toml"));
                fs::write(&path, text)?;
                let mut command = if ours.spread {
                    bound_to_us(&workbench.aoe_server)
                } else {
                    on_cpu(SERVER_CPU, &workbench.aoe_server)
                };
                command.args(["serve", "--config"]).arg(path);
                Ok(vec![command])
            }
            Kind::Vblade { sync } => {
                let run = |(slot, image): (usize, &PathBuf)| {
                    let mut command = on_cpu(SERVER_CPU, &workbench.vblade);
                    command.args(sync.then_some("-s"));
                    command.args(["-b", "64", &number, &slot.to_string(), &interface]).arg(image);
                    command
                };
                Ok(self.images.iter().enumerate().map(run).collect())
            }
            Kind::Answerer => {
                let mut command = on_cpu(SERVER_CPU, &std::env::current_exe()?);
                command.args(["answerer", &interface, &format!("e{number}.0")]);
                Ok(vec![command])
            }
        }
    }

    fn serves(&mut self, workbench: &Workbench, target: &str) -> anyhow::Result<bool> {
        for _ in 0..TRIES {
            let mut command = Command::new(&workbench.aoe_server);
            command.args(["bench", "-i", &self.interface(), "--timeout-ms", "100"]);
            let output = command.args(["--count", "1", "--length", "64", target]).output()?;
            if output.status.success() {
                return Ok(true);
            }
            for child in &mut self.children {
                if child.try_wait()?.is_some() {
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Reads all of `targets` once, so that what a server does at the first touch of a sector (ours
    /// maps it) is not measured.
    pub(crate) fn warm_up(&self, workbench: &Workbench, targets: &[String]) -> anyhow::Result<()> {
        for target in targets {
            let mut command = on_cpu(GENERATOR_CPU, &workbench.aoe_server);
            command.args(["read", "--interface", &self.interface(), target, "/dev/null"]);
            let output = command.output()?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{}: {complaint}", self.spec.name);
        }
        Ok(())
    }

    /// Stops it in its tracks, as if it were not there.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        for child in &self.children {
            kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        }
        Ok(())
    }

    /// Measures `targets` of it, while every other server is paused.
    pub(crate) fn measure(
        &self,
        workbench: &Workbench,
        targets: &[String],
        ask: &Ask,
    ) -> anyhow::Result<Measurement> {
        self.resume()?;
        let measured = self.load(workbench, targets, ask);
        if ask.write_percent > 0 {
            // What is left to be written back is not to disturb whoever is measured next.
            for image in &self.images {
                fs::File::open(image)?.sync_all()?;
            }
        }
        self.pause()?;
        measured
    }

    /// Loads `targets` of it, which is not paused.
    pub(crate) fn load(
        &self,
        workbench: &Workbench,
        targets: &[String],
        ask: &Ask,
    ) -> anyhow::Result<Measurement> {
        workbench.go_on()?;
        let interface = self.interface();
        let output = command(workbench, GENERATOR_CPU, &interface, targets, ask).output()?;
        Measurement::of(&output).with_context(|| self.spec.name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn configuration(workbench: &Workbench, ours: &Ours, number: usize, images: &[PathBuf]) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let journal = if ours.journal {
        // So small that the image is synced several times a second, on the clock.
        let path = quoted(&workbench.path(&format!("{number}.journal")));
        format!("journal = {path}\njournal_size = \"64 MiB\"")
    } else {
        String::new()
    };
    let cpu = if ours.spread { format!("cpu = {SERVER_CPU}") } else { String::new() };
    let mut text = format!(
        r#"[server]
interface = "s{number}"
link = "{link}"
poll = "{poll}"
state_dir = {state}
probe = false
log_level = "error"
{cpu}
{journal}
"#,
        link = ours.link,
        poll = ours.poll,
        state = quoted(&workbench.path(&format!("{number}.state"))),
    );
    for (slot, image) in images.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            r#"
[[target]]
shelf = {number}
slot = {slot}
backend = "file"
path = {path}
buffer_count = 64
durability = "{durability}"
"#,
            path = quoted(image),
            durability = ours.durability,
        );
    }
    text
}
