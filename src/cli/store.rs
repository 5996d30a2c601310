//! `store`: archives as a whole.

mod fsck;
mod recover;
mod repair;
mod usage;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::archive_args::{ArchiveArgs, told};
use super::client_output::{field, octets, rows};
use super::{NO, complain};
use crate::admin::{Refusal, RefusalKind, Request, StoreRequest};
use crate::config::parse_size;
use crate::storage::cas::{CasStore, Layout, StoreOptions};

/// Make an archive, tell of one, check and mend it
///
/// A running server is asked by its control socket; an archive that no server has open is named by
/// --store.
#[derive(Debug, clap::Args)]
pub(super) struct StoreCmd {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Init(InitCmd),
    /// Tell what there is to say of an archive without reading it, or of all that a server has
    Info {
        #[command(flatten)]
        archive: ArchiveArgs,
    },
    /// Bring everything that was written from the journal into the archive now
    Commit {
        #[command(flatten)]
        archive: ArchiveArgs,
    },
    Fsck(fsck::FsckCmd),
    Recover(recover::RecoverCmd),
    Repair(repair::RepairCmd),
    Usage(usage::UsageCmd),
}

impl StoreCmd {
    /// Runs the command, as its verb says.
    ///
    /// # Errors
    /// When the archive cannot be reached or made, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Init(command) => command.run(out),
            Verb::Info { archive } => info(out, archive),
            Verb::Commit { archive } => archive.act(out, StoreRequest::Commit, |store| {
                format!("{}: commit {}", field(store, "path"), field(store, "commit"))
            }),
            Verb::Fsck(command) => command.run(out),
            Verb::Recover(command) => command.run(out),
            Verb::Repair(command) => command.run(out),
            Verb::Usage(command) => command.run(out),
        }
    }
}

/// Make an empty archive in a directory that is missing or empty
///
/// A server makes those itself that its configuration names. What is given here is settled: it cannot
/// be changed later. Exits with 1 when there is an archive already.
#[derive(Debug, clap::Args)]
struct InitCmd {
    /// The directory
    path: PathBuf,
    /// The size of its blocks: 4, 8, 16, 32 or 64 KiB
    #[arg(long, value_name = "SIZE", value_parser = parse_block_size, default_value = "16 KiB")]
    block_size: u32,
    /// Keep each block in a blob of its own, instead of many in a pack
    #[arg(long)]
    loose: bool,
    /// Where its journal is to be, if not in it
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// The size of its journal, all of which is written now
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "256 MiB")]
    journal_size: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| format!("{error}"))
}

fn parse_block_size(text: &str) -> Result<u32, String> {
    let bytes = text.parse().map_or_else(|_| parse_bytes(text), Ok)?;
    let good = bytes.is_power_of_two() && (4 << 10..=64 << 10).contains(&bytes);
    let wrong = "a block has 4, 8, 16, 32 or 64 KiB";
    u32::try_from(bytes).ok().filter(|_| good).ok_or_else(|| wrong.into())
}

impl InitCmd {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let options = StoreOptions {
            block_bytes: Some(self.block_size),
            layout: Some(if self.loose { Layout::Loose } else { Layout::Packed }),
            journal: self.journal.clone(),
            journal_bytes: self.journal_size,
            ..StoreOptions::default()
        };
        if let Err(error) = CasStore::create(&self.path, &options) {
            let refusal = Refusal::from(error);
            if refusal.kind != RefusalKind::Refused {
                return Err(refusal.into());
            }
            complain(&refusal.into());
            return Ok(ExitCode::from(NO));
        }
        let path = self.path.display().to_string();
        if self.json {
            writeln!(out, "{}", json!({ "path": path, "block_size": self.block_size }))?;
        } else {
            writeln!(out, "made an archive in {path}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn info(out: &mut impl Write, archive: &ArchiveArgs) -> anyhow::Result<ExitCode> {
    let stores = if archive.store.is_some() || archive.archive.is_some() {
        archive.ask(StoreRequest::Info, &mut |_| ())?.map(|info| vec![info])
    } else {
        let answer = told(archive.server.ask(&Request::StoreList, &mut |_| ())?);
        answer.map(|answer| rows(&answer, "stores").to_vec())
    };
    let stores = stores.unwrap_or_default();
    for (index, store) in stores.iter().enumerate() {
        if archive.json {
            writeln!(out, "{store}")?;
            continue;
        }
        if index > 0 {
            writeln!(out)?;
        }
        text(out, store)?;
    }
    Ok(ExitCode::from(u8::from(stores.is_empty())))
}

fn text(out: &mut impl Write, store: &Value) -> anyhow::Result<()> {
    let bytes = |pointer: &str| {
        octets(store.pointer(pointer).and_then(Value::as_u64).unwrap_or_default().into())
    };
    writeln!(out, "archive      {}", field(store, "path"))?;
    if let Some(why) = store.get("failing").and_then(Value::as_str) {
        writeln!(out, "failing      {why}")?;
    }
    if store.get("id").is_none() {
        return Ok(()); // there is no more to say of one that cannot tell
    }
    writeln!(out, "name         {}", field(store, "id"))?;
    writeln!(out, "blocks       {}, {}", bytes("/block_size"), field(store, "layout"))?;
    writeln!(out, "volumes      {}", field(store, "volumes"))?;
    writeln!(out, "snapshots    {}", field(store, "snapshots"))?;
    writeln!(out, "packs        {}, {}", field(store, "packs"), bytes("/stored"))?;
    writeln!(
        out,
        "commits      number {}, {} since it was opened",
        field(store, "commit"),
        field(store, "commits")
    )?;
    writeln!(out, "uncommitted  {} of {}", bytes("/overlay/bytes"), bytes("/overlay/most"))?;
    writeln!(out, "cache        {} of {}", bytes("/cache/bytes"), bytes("/cache/most"))?;
    writeln!(out, "index        {} in memory", bytes("/index/bytes"))?;
    let failures = store.get("read_failures").and_then(Value::as_u64).unwrap_or_default();
    if failures > 0 {
        writeln!(out, "damage       {failures} blocks or nodes could not be read; see the log")?;
    }
    if store.get("stopped") == Some(&Value::Bool(true)) {
        writeln!(out, "stopped      it takes no writes until it is opened again; see the log")?;
    }
    Ok(())
}
