//! `config`: what initiators keep with a target.

use std::ffi::OsString;
use std::format;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::client_output::{json_macs, text};
use super::target_args::{LinkArgs, parse_target};
use crate::client::{Client, ClientError, MaskChange};
use crate::engine::{ConfigString, MacList};
use crate::protocol::{Address, MacAddr};

/// Read and change the config string, the MAC mask list and the reservation of a target
#[derive(Debug, clap::Args)]
pub(super) struct ConfigCmd {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print the config string
    Get(Where),
    /// Tell whether the config string is this: exit 0 if so, 1 if not
    Test {
        #[command(flatten)]
        at: Where,
        /// The string to compare with
        string: OsString,
        /// Only the start has to be the same
        #[arg(long)]
        prefix: bool,
    },
    /// Set the config string, unless there is another
    Set {
        #[command(flatten)]
        at: Where,
        /// The string
        string: OsString,
    },
    /// Set the config string, whatever it was
    ForceSet {
        #[command(flatten)]
        at: Where,
        /// The string; "" for none
        string: OsString,
    },
    /// Print the MAC mask list, after changing it as asked: whom the target listens to
    Mask {
        #[command(flatten)]
        at: Where,
        /// Add this address; may be given several times
        #[arg(long, value_name = "MAC")]
        add: Vec<MacAddr>,
        /// Take this address off; may be given several times
        #[arg(long, value_name = "MAC")]
        remove: Vec<MacAddr>,
    },
    /// Print the reservation, after changing it as asked: who alone may read and write
    Reserve {
        #[command(flatten)]
        at: Where,
        /// Reserve the target for this address; may be given several times
        #[arg(long, value_name = "MAC")]
        set: Vec<MacAddr>,
        /// Reserve the target for the interface that is used
        #[arg(long)]
        own: bool,
        /// Release the target
        #[arg(long, conflicts_with_all = ["set", "own"])]
        release: bool,
        /// Even when others hold the target
        #[arg(long)]
        force: bool,
    },
}

/// Which target, and how to print.
#[derive(Debug, clap::Args)]
struct Where {
    #[command(flatten)]
    link: LinkArgs,
    /// The target, for example e7.3
    #[arg(value_parser = parse_target)]
    target: Address,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ConfigCmd {
    /// Runs the command: 0 when it was done, or the string is as asked; 1 when not, or the target
    /// refuses or does not answer.
    ///
    /// # Errors
    /// When the interface cannot be used, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Get(at) => at.string(out, |client| client.config_string(at.target)),
            Verb::Set { at, string } => {
                let string = string.as_bytes();
                at.string(out, |client| client.set_config_string(at.target, string, false))
            }
            Verb::ForceSet { at, string } => {
                let string = string.as_bytes();
                at.string(out, |client| client.set_config_string(at.target, string, true))
            }
            Verb::Test { at, string, prefix } => at.test(out, string.as_bytes(), *prefix),
            Verb::Mask { at, add, remove } => {
                let removed = remove.iter().copied().map(MaskChange::Remove);
                let changes: Vec<_> =
                    removed.chain(add.iter().copied().map(MaskChange::Add)).collect();
                at.list(out, "mask", |client| {
                    if changes.is_empty() {
                        client.mask(at.target)
                    } else {
                        client.change_mask(at.target, &changes)
                    }
                })
            }
            Verb::Reserve { at, set, own, release, force } => {
                anyhow::ensure!(
                    !force || *own || *release || !set.is_empty(),
                    "--force needs something to do: --set, --own or --release"
                );
                at.list(out, "reservation", |client| {
                    let mut holders = set.clone();
                    if *own {
                        holders.push(client.link_info().mac);
                    }
                    if holders.is_empty() && !release {
                        client.reservation(at.target)
                    } else {
                        client.reserve(at.target, &holders, *force)
                    }
                })
            }
        }
    }
}

impl Where {
    fn client(&self) -> anyhow::Result<Client> {
        self.link.client(Duration::from_secs(2))
    }

    /// Does something that ends in a config string, and prints it.
    fn string(
        &self,
        out: &mut impl Write,
        act: impl FnOnce(&mut Client) -> Result<ConfigString, ClientError>,
    ) -> anyhow::Result<ExitCode> {
        let string = match act(&mut self.client()?) {
            Ok(string) => string,
            Err(error) => return self.link.conclude(Err(error)),
        };
        let string = text(string.as_slice());
        if self.json {
            let target = format!("{}", self.target);
            writeln!(out, "{}", json!({ "target": target, "config_string": string }))?;
        } else {
            writeln!(out, "{string}")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn test(&self, out: &mut impl Write, string: &[u8], prefix: bool) -> anyhow::Result<ExitCode> {
        let mut client = self.client()?;
        // Silence means no; so it must be seen first that there is somebody to break it.
        let same = client
            .config_string(self.target)
            .and_then(|_| client.test_config_string(self.target, string, prefix));
        let same = match same {
            Ok(same) => same,
            Err(error) => return self.link.conclude(Err(error)),
        };
        if self.json {
            let target = format!("{}", self.target);
            writeln!(out, "{}", json!({ "target": target, "matches": same }))?;
        } else {
            writeln!(out, "{}", if same { "yes" } else { "no" })?;
        }
        Ok(ExitCode::from(u8::from(!same)))
    }

    /// Does something that ends in a list of addresses, and prints it.
    fn list(
        &self,
        out: &mut impl Write,
        name: &str,
        act: impl FnOnce(&mut Client) -> Result<MacList, ClientError>,
    ) -> anyhow::Result<ExitCode> {
        let list = match act(&mut self.client()?) {
            Ok(list) => list,
            Err(error) => return self.link.conclude(Err(error)),
        };
        if self.json {
            let mut line = json!({ "target": format!("{}", self.target) });
            line.as_object_mut()
                .context("an object is an object")?
                .insert(name.into(), json_macs(&list));
            writeln!(out, "{line}")?;
        } else {
            for mac in list.as_slice() {
                writeln!(out, "{mac}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
