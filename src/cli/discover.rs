//! `discover`: the targets on a segment.

use std::format;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::client_output::{json_disk, size, text};
use super::table::table;
use super::target_args::LinkArgs;
use crate::client::Found;
use crate::protocol::Address;

/// List the targets that answer on an interface
#[derive(Debug, clap::Args)]
pub(super) struct DiscoverCmd {
    #[command(flatten)]
    link: LinkArgs,
    /// Ask only these: a shelf and a slot, or * for either, for example e7.*
    #[arg(default_value = "*.*")]
    address: Address,
    /// Do not ask the targets for size, serial number and model
    #[arg(long)]
    no_identify: bool,
    /// Print one JSON object per target instead of a table
    #[arg(long)]
    json: bool,
}

impl DiscoverCmd {
    /// Runs the command: 0 when there are targets, 1 when nobody answers.
    ///
    /// # Errors
    /// When the interface cannot be used, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let default = Duration::from_secs(1);
        let mut client = self.link.client(default)?;
        let timeout = self.link.timeout(default);
        let found = match client.discover(self.address, timeout, !self.no_identify) {
            Ok(found) => found,
            Err(error) => return self.link.conclude(Err(error)),
        };
        if self.json {
            for target in &found {
                writeln!(out, "{}", json_target(target, others(target, &found)))?;
            }
        } else if !found.is_empty() {
            self.table(&found, out)?;
        }
        Ok(ExitCode::from(u8::from(found.is_empty())))
    }

    fn table(&self, found: &[Found], out: &mut impl Write) -> anyhow::Result<()> {
        let head = ["TARGET", "STATION", "BUFFERS", "SECTORS", "SIZE", "SERIAL", "MODEL", "CONFIG"];
        let row = |target: &Found| {
            let disk = target.disk.as_ref();
            let unknown = || String::from(if self.no_identify { "-" } else { "?" });
            [
                format!("{}", target.address),
                format!("{}", target.mac),
                format!("{}", target.buffer_count),
                format!("{}", target.sector_count),
                disk.map_or_else(unknown, |disk| size(disk.size)),
                disk.map_or_else(unknown, |disk| disk.serial.as_str().into()),
                disk.map_or_else(unknown, |disk| disk.model.as_str().into()),
                text(target.config_string.as_slice()),
            ]
        };
        table(out, head, found.iter().map(row))?;
        let mut warned: Option<Address> = None;
        for target in found {
            if others(target, found) > 0 && warned != Some(target.address) {
                warned = Some(target.address);
                writeln!(out, "{}", warning(target, found))?;
            }
        }
        Ok(())
    }
}

/// How many other stations answer at the address of `target`.
fn others(target: &Found, found: &[Found]) -> usize {
    let same = found.iter().filter(|other| other.address == target.address);
    same.count().saturating_sub(1)
}

/// What two stations at one address mean.
fn warning(target: &Found, found: &[Found]) -> String {
    let address = target.address;
    let serial = |found: &Found| found.disk.map(|disk| disk.serial);
    let mut same = found.iter().filter(|other| other.address == address);
    if target.disk.is_some() && same.all(|other| serial(other) == serial(target)) {
        return format!("note: {address} answers at several stations, with one serial number");
    }
    format!(
        "warning: {address} is answered by several servers; initiators that use it will spread one \
         disk's sectors over all of them. Stop one, or give it another address"
    )
}

fn json_target(target: &Found, others: usize) -> serde_json::Value {
    json!({
        "target": format!("{}", target.address),
        "shelf": target.address.shelf,
        "slot": target.address.slot,
        "mac": format!("{}", target.mac),
        "buffer_count": target.buffer_count,
        "firmware": target.firmware,
        "sector_count": target.sector_count,
        "config_string": text(target.config_string.as_slice()),
        "disk": target.disk.as_ref().map(json_disk),
        "other_stations": others,
    })
}
