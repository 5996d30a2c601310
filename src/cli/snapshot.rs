//! `snapshot`: what volumes of an archive were.

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;

use super::NO;
use super::archive_args::{ArchiveArgs, told};
use super::client_output::{date, field, octets, rows};
use super::table::table;
use super::target_args::parse_target;
use crate::admin::{Request, StoreRequest, VolumeSnapshot, parse_volume_snapshot};
use crate::config::is_name;
use crate::protocol::Address;

/// Keep what a volume of an archive is, and get it back
///
/// A running server is asked by its control socket; an archive that no server has open is named by
/// --store. A snapshot is named VOLUME@SNAPSHOT, as in e1.0@monday. Exits with 1 when the answer is no.
#[derive(Debug, clap::Args)]
pub(super) struct SnapshotCmd {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Keep what a volume is now; everything that was acknowledged before is in it
    Create(OfSnapshot),
    /// List the snapshots of a volume, or of all; exits with 1 when there are none
    List {
        #[command(flatten)]
        archive: ArchiveArgs,
        /// The volume, for example e1.0
        #[arg(value_parser = parse_name)]
        volume: Option<String>,
    },
    /// Delete a snapshot
    Delete(OfSnapshot),
    /// Make a volume what it was, its size included; what it is now is kept as another snapshot
    Restore {
        #[command(flatten)]
        of: OfSnapshot,
        /// Even if an initiator has used the volume just now, and will go on with what it remembers
        #[arg(long)]
        force: bool,
    },
    /// Make a new volume that begins as what another one is, or was
    Clone {
        #[command(flatten)]
        archive: ArchiveArgs,
        /// The volume, or a snapshot of it, for example e1.0 or e1.0@monday
        #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = parse_source)]
        from: Source,
        /// The name of the new volume
        #[arg(value_parser = parse_name)]
        new: String,
    },
    /// Tell which sectors differ: the first and the last of each range, and its size
    ///
    /// Exits with 0 when there are none, and with 1 when there are.
    Diff {
        #[command(flatten)]
        of: OfSnapshot,
        /// Another snapshot of the same volume; when it is left out, the volume as it is now
        #[arg(value_name = "VOLUME@SNAPSHOT", value_parser = parse_volume_snapshot)]
        other: Option<VolumeSnapshot>,
    },
    /// Serve a snapshot as a read-only target, until it is withdrawn or the server ends
    Export {
        #[command(flatten)]
        of: OfSnapshot,
        /// The address to serve it at, for example e1.9
        #[arg(value_parser = parse_target)]
        target: Address,
        /// Serve it on this interface of the server only; may be given several times
        #[arg(short, long, value_name = "NAME")]
        interface: Vec<String>,
    },
    /// Serve a snapshot no more that was exported
    Unexport {
        #[command(flatten)]
        archive: ArchiveArgs,
        /// The address, for example e1.9
        #[arg(value_parser = parse_target)]
        target: Address,
    },
}

/// A snapshot of an archive.
#[derive(Debug, clap::Args)]
struct OfSnapshot {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// The volume and the snapshot, for example e1.0@monday
    #[arg(value_name = "VOLUME@SNAPSHOT", value_parser = parse_volume_snapshot)]
    snapshot: VolumeSnapshot,
}

/// A volume, or a snapshot of it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) volume: String,
    pub(super) snapshot: Option<String>,
}

pub(super) fn parse_source(text: &str) -> Result<Source, String> {
    if text.contains('@') {
        let VolumeSnapshot { volume, snapshot } = parse_volume_snapshot(text)?;
        return Ok(Source { volume, snapshot: Some(snapshot) });
    }
    parse_name(text).map(|volume| Source { volume, snapshot: None })
}

/// The name of a volume.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let wrong = "a name has 1 to 64 letters, digits, dots, dashes and underscores, and starts with \
                 neither a dot nor a dash";
    if is_name(text) { Ok(text.into()) } else { Err(wrong.into()) }
}

impl SnapshotCmd {
    /// Runs the command, as its verb says.
    ///
    /// # Errors
    /// When the archive cannot be reached, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Create(OfSnapshot { archive, snapshot }) => {
                let request = StoreRequest::SnapshotCreate(snapshot.clone());
                archive.act(out, request, |made| format!("made {}", name(made)))
            }
            Verb::List { archive, volume } => list(out, archive, volume.clone()),
            Verb::Delete(OfSnapshot { archive, snapshot }) => {
                let request = StoreRequest::SnapshotDelete(snapshot.clone());
                archive.act(out, request, |deleted| format!("deleted {}", name(deleted)))
            }
            Verb::Restore { of: OfSnapshot { archive, snapshot }, force } => {
                let request = StoreRequest::SnapshotRestore { of: snapshot.clone(), force: *force };
                archive.act(out, request, |restored| {
                    let before = restored.get("before").map(name).unwrap_or_default();
                    let volume = field(restored, "volume");
                    format!("{volume} is what {} is; what it was is {before}", name(restored))
                })
            }
            Verb::Clone { archive, from, new } => {
                let Source { volume, snapshot } = from.clone();
                let request =
                    StoreRequest::SnapshotClone { volume, snapshot, new_volume: new.clone() };
                archive.act(out, request, |made| {
                    format!("made volume {}, {}", field(made, "volume"), size(made))
                })
            }
            Verb::Diff { of, other } => diff(out, of, other.as_ref()),
            Verb::Export { of, target, interface } => export(out, of, *target, interface),
            Verb::Unexport { archive, target } => {
                let request = Request::Unexport { target: *target };
                let answer = told(online(archive)?.server.ask(&request, &mut |_| ())?);
                archive.print(out, answer, |_| format!("{target} is served no more"))
            }
        }
    }
}

fn list(
    out: &mut impl Write,
    archive: &ArchiveArgs,
    volume: Option<String>,
) -> anyhow::Result<ExitCode> {
    let request = StoreRequest::SnapshotList { volume };
    let Some(answer) = archive.ask(request, &mut |_| ())? else { return Ok(ExitCode::from(NO)) };
    let snapshots = rows(&answer, "snapshots");
    if archive.json {
        for snapshot in snapshots {
            writeln!(out, "{snapshot}")?;
        }
    } else if !snapshots.is_empty() {
        let row = |of: &Value| [name(of), size(of), made(of)];
        table(out, ["SNAPSHOT", "SIZE", "MADE"], snapshots.iter().map(row))?;
    }
    Ok(ExitCode::from(u8::from(snapshots.is_empty())))
}

fn diff(
    out: &mut impl Write,
    of: &OfSnapshot,
    other: Option<&VolumeSnapshot>,
) -> anyhow::Result<ExitCode> {
    let OfSnapshot { archive, snapshot } = of;
    if let Some(other) = other {
        anyhow::ensure!(
            other.volume == snapshot.volume,
            "snapshots of different volumes cannot be compared: {} and {}",
            snapshot.volume,
            other.volume
        );
    }
    let mut written = Ok(());
    let mut count = 0_u64;
    let other = other.map(|other| other.snapshot.clone());
    let request = StoreRequest::SnapshotDiff { of: snapshot.clone(), other };
    let answer = archive.ask(request, &mut |range| {
        count += 1;
        let [lba, sectors] =
            ["lba", "sectors"].map(|key| range.get(key).and_then(Value::as_u64).unwrap_or(0));
        let last = lba.saturating_add(sectors).saturating_sub(1);
        let line = if archive.json {
            range.to_string()
        } else {
            format!("{lba} to {last}, {}", octets(u128::from(sectors) * 512))
        };
        if written.is_ok() {
            written = writeln!(out, "{line}");
        }
    })?;
    written?;
    Ok(ExitCode::from(u8::from(answer.is_none() || count > 0)))
}

fn export(
    out: &mut impl Write,
    of: &OfSnapshot,
    target: Address,
    interfaces: &[String],
) -> anyhow::Result<ExitCode> {
    let archive = online(&of.archive)?;
    let request = Request::Export {
        store: archive.archive.clone(),
        of: of.snapshot.clone(),
        target,
        interfaces: interfaces.to_vec(),
    };
    let answer = told(archive.server.ask(&request, &mut |_| ())?);
    archive.print(out, answer, |served| format!("serving {} at {target}", name(served)))
}

/// What only a running server can do.
fn online(archive: &ArchiveArgs) -> anyhow::Result<&ArchiveArgs> {
    anyhow::ensure!(archive.store.is_none(), "a running server is needed: leave out --store");
    Ok(archive)
}

fn name(snapshot: &Value) -> String {
    format!("{}@{}", field(snapshot, "volume"), field(snapshot, "snapshot"))
}

/// The size of what is told of.
pub(super) fn size(of: &Value) -> String {
    octets(of.get("size").and_then(Value::as_u64).unwrap_or_default().into())
}

/// When it was made.
pub(super) fn made(of: &Value) -> String {
    date(of.get("created").and_then(Value::as_u64).unwrap_or_default())
}
