//! A virtual machine on the switch: QEMU without acceleration, so that it runs wherever tests do,
//! with a serial port that is its standard input and output.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use aoe_server::clock::now;

use crate::common::server::of_this_thread;

/// Where `make test-clients` has put what machines boot.
pub(crate) fn boot_file(name: &str) -> PathBuf {
    let directory = std::env::var_os("AOE_CLIENTS_DIR").expect("run it by: make test-clients");
    PathBuf::from(directory).join(name)
}

/// A network card.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Card<'a> {
    /// Its kind, as QEMU calls it.
    pub(crate) model: &'a str,
    /// Whether it has its ROM, which is iPXE.
    pub(crate) rom: bool,
    /// The interface that it is connected to.
    pub(crate) tap: &'a str,
}

/// A machine that runs, until it is dropped.
pub(crate) struct Machine {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// What it has said and nobody has asked for yet.
    unread: String,
}

impl Machine {
    /// Starts a machine with `card` and what else `args` say.
    pub(crate) fn start(card: Card<'_>, args: &[&str]) -> Self {
        let Card { model, rom, tap } = card;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-smp", "1", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot"]);
        command.arg("-netdev").arg(format!("tap,id=n,ifname={tap},script=no,downscript=no"));
        let rom = if rom { "" } else { ",romfile=" };
        command.arg("-device").arg(format!("{model},netdev=n,mac=52:54:00:ae:00:01{rom}"));
        let mut command = of_this_thread(command, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("QEMU is installed: scripts/setup --clients");
        let input = child.stdin.take().expect("piped");
        let mut port = child.stdout.take().expect("piped");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(count @ 1..) = port.read(&mut octets) {
                if sender.send(octets[..count].to_vec()).is_err() {
                    return; // nobody listens any more
                }
            }
        });
        Self { child, input, output, unread: String::new() }
    }

    /// Sends it `text`.
    pub(crate) fn say(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).expect("QEMU runs");
        self.input.flush().expect("QEMU runs");
    }

    /// What it says up to `end`, which is taken off; `None` when that does not come within `limit`.
    pub(crate) fn hear(&mut self, end: &str, limit: Duration) -> Option<String> {
        let until = now().after(limit);
        loop {
            if let Some(at) = self.unread.find(end) {
                let rest = self.unread.split_off(at + end.len());
                let mut said = std::mem::replace(&mut self.unread, rest);
                said.truncate(at);
                return Some(said);
            }
            match self.output.recv_timeout(until.since(now())) {
                Ok(more) => self.unread.push_str(&String::from_utf8_lossy(&more)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// What it has said that nobody has asked for.
    pub(crate) fn rest(&self) -> &str {
        &self.unread
    }

    /// Whether it ends within `limit` by itself.
    pub(crate) fn ends(&mut self, limit: Duration) -> bool {
        crate::common::net::within(limit, || self.child.try_wait().is_ok_and(|end| end.is_some()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
