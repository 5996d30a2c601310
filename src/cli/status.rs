//! `status`: what a running server serves.

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;

use super::client_output::{field, octets, rows};
use super::server_args::ServerArgs;
use super::table::table;
use super::{NO, complain};
use crate::admin::Request;

/// Show what a running server serves, and how that goes
///
/// The server is asked by its control socket. Counters are from when it was started.
#[derive(Debug, clap::Args)]
pub(super) struct StatusCmd {
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl StatusCmd {
    /// Runs the command: 0 when the server answers.
    ///
    /// # Errors
    /// When there is no server, or `out` cannot be written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let status = match self.server.ask(&Request::Status, &mut |_| ())? {
            Ok(status) => status,
            Err(refusal) => {
                complain(&refusal.into());
                return Ok(ExitCode::from(NO));
            }
        };
        if self.json {
            writeln!(out, "{status}")?;
        } else {
            text(out, &status)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(out: &mut impl Write, status: &Value) -> anyhow::Result<()> {
    let targets = rows(status, "targets");
    let (version, pid) = (field(status, "version"), field(status, "pid"));
    writeln!(out, "aoe-server {version}, process {pid}, {} targets", targets.len())?;
    if !targets.is_empty() {
        let head = ["TARGET", "SIZE", "FROM", "READ", "WRITTEN", "ERRORS", "WAITING"];
        writeln!(out)?;
        table(out, head, targets.iter().map(target))?;
    }
    let links = rows(status, "links");
    if !links.is_empty() {
        let head = ["INTERFACE", "STATION", "MTU", "STATE", "RECEIVED", "SENT", "DROPPED"];
        writeln!(out)?;
        table(out, head, links.iter().map(link))?;
    }
    let stores = rows(status, "stores");
    if !stores.is_empty() {
        let head = ["ARCHIVE", "VOLUMES", "SNAPSHOTS", "STORED", "UNCOMMITTED", "STATE"];
        writeln!(out)?;
        table(out, head, stores.iter().map(store))?;
    }
    Ok(())
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn target(target: &Value) -> [String; 7] {
    let place = match (field(target, "volume"), field(target, "snapshot")) {
        (volume, _) if volume.is_empty() => {
            let path = field(target, "path");
            if path.is_empty() { String::from("memory") } else { path }
        }
        (volume, snapshot) if snapshot.is_empty() => {
            format!("volume {volume} of {}", field(target, "path"))
        }
        (volume, snapshot) => format!("snapshot {volume}@{snapshot} of {}", field(target, "path")),
    };
    let notes = match (is(target, "exported"), is(target, "read_only")) {
        (true, _) => " (exported)",
        (false, true) => " (read-only)",
        _ => "",
    };
    let sectors = |pointer: &str| octets(u128::from(number(target, pointer)) * 512);
    let errors = number(target, "/counters/ata_errors") + number(target, "/counters/aoe_errors");
    [
        field(target, "target"),
        octets(number(target, "/size").into()),
        place + notes,
        sectors("/counters/sectors_read"),
        sectors("/counters/sectors_written"),
        format!("{errors}"),
        format!("{}", number(target, "/held") + number(target, "/parked")),
    ]
}

fn link(link: &Value) -> [String; 7] {
    [
        field(link, "interface"),
        field(link, "mac"),
        field(link, "mtu"),
        String::from(if is(link, "up") { "up" } else { "down" }),
        field(link, "received"),
        field(link, "sent"),
        field(link, "dropped"),
    ]
}

fn store(store: &Value) -> [String; 6] {
    let state = match (store.get("failing").and_then(Value::as_str), field(store, "state")) {
        (Some(why), state) => format!("{state}: {why}"),
        (None, state) if state == "damaged" => {
            format!("damaged: {} reads failed, see the log", number(store, "/read_failures"))
        }
        (None, state) => state,
    };
    [
        field(store, "path"),
        field(store, "volumes"),
        field(store, "snapshots"),
        octets(number(store, "/stored").into()),
        octets(number(store, "/overlay/bytes").into()),
        state,
    ]
}
