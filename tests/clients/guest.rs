//! Linux in a virtual machine, which does what it is told line by line.

use std::time::Duration;

use tempfile::TempDir;

use crate::machine::{Card, Machine, boot_file};

/// What starts the line after the output of a command; its exit code follows.
const END: &str = "\n@@";
/// How long a machine may take to boot; a busy host makes some ten seconds of it.
const BOOT: Duration = Duration::from_secs(90);
/// How long a command may take if nobody says otherwise.
const USUAL: Duration = Duration::from_mins(1);
/// What its kernel log says when the driver stood still by its own fault; see `guest/init`.
const RESTED: &str = "rests with work to do";

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) code: i32,
    /// What it wrote, to standard error too.
    pub(crate) out: String,
}

/// A Linux that runs.
pub(crate) struct Guest {
    machine: Machine,
    directory: TempDir,
    /// How long a command may take if nobody says otherwise.
    pub(crate) patience: Duration,
    /// What it calls itself.
    pub(crate) release: String,
}

impl Guest {
    /// Boots a Linux that is connected to the interface `tap`, with frames of `mtu`. Its AoE driver
    /// is not loaded yet.
    pub(crate) fn boot(tap: &str, mtu: usize) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let console = format!("file:{}", directory.path().join("console").display());
        let (kernel, initramfs) = (boot_file("vmlinuz"), boot_file("initramfs"));
        let card = Card { model: "virtio-net-pci", rom: false, tap };
        let machine = Machine::start(
            card,
            &[
                "-m",
                "512",
                "-kernel",
                kernel.to_str().expect("a path of text"),
                "-initrd",
                initramfs.to_str().expect("a path of text"),
                "-append",
                "console=ttyS0 panic=-1 random.trust_cpu=on",
                "-serial",
                &console,
                "-serial",
                "stdio",
            ],
        );
        let mut guest = Self { machine, directory, patience: USUAL, release: String::new() };
        let Some(_) = guest.machine.hear("@@ready ", BOOT) else {
            panic!("the machine does not boot; its console:\n{}", guest.console());
        };
        guest.release = guest.machine.hear("\n", USUAL).expect("a whole line");
        guest.run(&format!("ip link set eth0 mtu {mtu} up"));
        guest
    }

    /// Starts a command, which may be anything the shell takes in one line.
    pub(crate) fn begin(&mut self, command: &str) {
        assert!(!command.contains('\n'), "one line: {command}");
        self.machine.say(&format!("{command}\n"));
    }

    /// Waits until what was begun has ended.
    pub(crate) fn end(&mut self, limit: Duration) -> Ran {
        let ended = self.machine.hear(END, limit);
        let code = ended.is_some().then(|| self.machine.hear("\n", USUAL)).flatten();
        let (Some(out), Some(code)) = (ended, code) else {
            panic!(
                "no end within {limit:?}; so far:\n{}\nthe console:\n{}",
                self.machine.rest(),
                self.console()
            );
        };
        Ran { code: code.trim().parse().expect("an exit code"), out: out.trim_end().to_owned() }
    }

    /// Runs a command, however it ends.
    pub(crate) fn attempt(&mut self, command: &str) -> Ran {
        self.begin(command);
        self.end(self.patience)
    }

    /// Runs a command that has to succeed, and hands out what it wrote.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &str) -> String {
        let Ran { code, out } = self.attempt(command);
        assert_eq!(code, 0, "{command}:\n{out}\nthe console:\n{}", self.console());
        out
    }

    /// Runs a command again and again until it succeeds.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, command: &str, seconds: u32) {
        let limit = seconds * 5;
        self.begin(&format!(
            "n=0; until {command}; do n=$((n+1)); [ $n -lt {limit} ] || exit 9; sleep 0.2; done"
        ));
        let Ran { code, out } = self.end(USUAL + Duration::from_secs(seconds.into()));
        assert_eq!(code, 0, "{command}: not in {seconds} s\n{out}\n{}", self.console());
    }

    /// Loads the AoE driver, and waits for its disk `name`.
    pub(crate) fn discover(&mut self, name: &str) {
        self.run("insmod /modules/aoe.ko");
        self.wait_for(&format!("[ -b /dev/etherd/{name} ]"), 20);
    }

    /// What its kernel has said.
    pub(crate) fn console(&self) -> String {
        let octets = std::fs::read(self.directory.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&octets).into_owned()
    }

    /// Tells how often the driver had to be roused, which no server can help.
    fn tell_rests(&self) {
        let rests = self.console().matches(RESTED).count();
        if rests > 0 {
            println!("note   the driver has rested {rests} times with nothing on the wire");
        }
    }

    /// Switches it off, after it has written what it holds.
    pub(crate) fn power_off(mut self) {
        self.tell_rests();
        self.begin("sync; poweroff -f");
        assert!(self.machine.ends(USUAL), "it does not end; its console:\n{}", self.console());
    }
}
