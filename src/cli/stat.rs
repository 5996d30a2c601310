//! `stat`: everything that a target tells.

use std::format;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::client_output::{json_disk, json_macs, macs, size, text};
use super::target_args::{LinkArgs, parse_target};
use crate::client::Stat;
use crate::engine::MacList;
use crate::protocol::Address;

/// Show everything that a target tells of itself
#[derive(Debug, clap::Args)]
pub(super) struct StatCmd {
    #[command(flatten)]
    link: LinkArgs,
    /// The target, for example e7.3
    #[arg(value_parser = parse_target)]
    target: Address,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl StatCmd {
    /// Runs the command: 0 when the target answers, 1 when it does not or refuses.
    ///
    /// # Errors
    /// When the interface cannot be used, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut client = self.link.client(Duration::from_secs(2))?;
        let stat = match client.stat(self.target) {
            Ok(stat) => stat,
            Err(error) => return self.link.conclude(Err(error)),
        };
        if self.json {
            self.json(&stat, out)?;
        } else {
            self.text(&stat, out)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn json(&self, stat: &Stat, out: &mut impl Write) -> anyhow::Result<()> {
        let first = stat.found.first();
        let stations: Vec<_> = stat.found.iter().map(|found| format!("{}", found.mac)).collect();
        let line = json!({
            "target": format!("{}", self.target),
            "stations": stations,
            "buffer_count": first.map(|found| found.buffer_count),
            "sector_count": first.map(|found| found.sector_count),
            "firmware": first.map(|found| found.firmware),
            "config_string": first.map(|found| text(found.config_string.as_slice())),
            "disk": json_disk(&stat.disk),
            "mask": stat.mask.as_ref().map(json_macs),
            "reservation": stat.reservation.as_ref().map(json_macs),
        });
        writeln!(out, "{line}")?;
        Ok(())
    }

    fn text(&self, stat: &Stat, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "target        {}", self.target)?;
        for found in &stat.found {
            writeln!(out, "station       {}", found.mac)?;
        }
        let disk = &stat.disk;
        writeln!(out, "size          {} ({} sectors)", size(disk.size), disk.size)?;
        writeln!(out, "serial        {}", disk.serial)?;
        writeln!(out, "model         {}", disk.model)?;
        writeln!(out, "revision      {}", disk.firmware)?;
        if let Some(found) = stat.found.first() {
            writeln!(out, "firmware      {:#06x}", found.firmware)?;
            writeln!(out, "buffer count  {}", found.buffer_count)?;
            writeln!(out, "sector count  {}", found.sector_count)?;
            writeln!(out, "config string \"{}\"", text(found.config_string.as_slice()))?;
        }
        let addresses = if disk.lba48 { "48 bits" } else { "28 bits" };
        writeln!(out, "addresses     {addresses}")?;
        writeln!(out, "write cache   {}", if disk.write_cache { "on" } else { "off" })?;
        writeln!(out, "discard       {}", if disk.trim { "yes" } else { "no" })?;
        if !disk.checksum_holds {
            writeln!(out, "warning       the checksum of its IDENTIFY page is wrong")?;
        }
        writeln!(out, "MAC mask      {}", list(stat.mask.as_ref(), "everybody is heard"))?;
        writeln!(out, "reserved by   {}", list(stat.reservation.as_ref(), "nobody"))?;
        Ok(())
    }
}

fn list(list: Option<&MacList>, empty: &str) -> String {
    match list {
        None => "unknown to this target".into(),
        Some(list) if list.is_empty() => empty.into(),
        Some(list) => macs(list),
    }
}
