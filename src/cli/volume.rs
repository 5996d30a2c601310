//! `volume`: the disks in an archive.

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;

use super::NO;
use super::archive_args::ArchiveArgs;
use super::client_output::{field, octets, rows};
use super::snapshot::{made, parse_name, size};
use super::table::table;
use crate::admin::StoreRequest;
use crate::config::parse_size;
use crate::units::{SECTOR_SIZE, Sectors};

/// List, make, resize and delete the volumes of an archive
///
/// A running server is asked by its control socket; an archive that no server has open is named by
/// --store. A volume is a disk with a name; a target that has one is called by its address, as in e1.0,
/// unless the configuration gives it another name. Exits with 1 when the answer is no.
#[derive(Debug, clap::Args)]
pub(super) struct VolumeCmd {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the volumes; exits with 1 when there are none
    List {
        #[command(flatten)]
        archive: ArchiveArgs,
    },
    /// Make a volume, which takes up no space until it is written to
    Create {
        #[command(flatten)]
        archive: ArchiveArgs,
        #[command(flatten)]
        sized: Sized,
    },
    /// Give a volume another size; initiators are told when it is being served
    Resize {
        #[command(flatten)]
        archive: ArchiveArgs,
        #[command(flatten)]
        sized: Sized,
        /// Make it smaller, and give up what lies beyond
        #[arg(long)]
        shrink: bool,
        /// Make it smaller even if an initiator has used it just now
        #[arg(long, requires = "shrink")]
        force: bool,
    },
    /// Delete a volume that is not being served
    Delete {
        #[command(flatten)]
        archive: ArchiveArgs,
        /// The volume
        #[arg(value_parser = parse_name)]
        volume: String,
        /// With all of its snapshots
        #[arg(long)]
        with_snapshots: bool,
    },
}

/// A volume and its size.
#[derive(Debug, clap::Args)]
struct Sized {
    /// The volume
    #[arg(value_parser = parse_name)]
    volume: String,
    /// Its size, for example "8 GiB" or 8GiB
    #[arg(value_parser = parse_sectors)]
    size: Sectors,
}

fn parse_sectors(text: &str) -> Result<Sectors, String> {
    let bytes = parse_size(text).map_err(|error| format!("{error}"))?;
    if bytes == 0 || !bytes.is_multiple_of(SECTOR_SIZE as u64) {
        return Err(format!("{bytes} bytes are no whole number of sectors, which have 512"));
    }
    Ok(Sectors::from_bytes(bytes))
}

impl VolumeCmd {
    /// Runs the command, as its verb says.
    ///
    /// # Errors
    /// When the archive cannot be reached, or `out` not written to.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::List { archive } => list(out, archive),
            Verb::Create { archive, sized: Sized { volume, size: sectors } } => {
                let request = StoreRequest::VolumeCreate { volume: volume.clone(), size: *sectors };
                archive.act(out, request, |made| format!("made volume {volume}, {}", size(made)))
            }
            Verb::Resize { archive, sized: Sized { volume, size: sectors }, shrink, force } => {
                let (volume, size_now) = (volume.clone(), *sectors);
                let (shrink, force) = (*shrink, *force);
                let request = StoreRequest::VolumeResize { volume, size: size_now, shrink, force };
                archive.act(out, request, |resized| {
                    format!("volume {} has {}", field(resized, "volume"), size(resized))
                })
            }
            Verb::Delete { archive, volume, with_snapshots } => {
                let request = StoreRequest::VolumeDelete {
                    volume: volume.clone(),
                    with_snapshots: *with_snapshots,
                };
                archive.act(out, request, |_| format!("deleted volume {volume}"))
            }
        }
    }
}

fn list(out: &mut impl Write, archive: &ArchiveArgs) -> anyhow::Result<ExitCode> {
    let answer = archive.ask(StoreRequest::VolumeList, &mut |_| ())?;
    let Some(answer) = answer else { return Ok(ExitCode::from(NO)) };
    let volumes = rows(&answer, "volumes");
    if archive.json {
        for volume in volumes {
            writeln!(out, "{volume}")?;
        }
    } else if !volumes.is_empty() {
        let row = |of: &Value| {
            let served = of.get("served").and_then(Value::as_bool).unwrap_or_default();
            let uncommitted = of.get("uncommitted").and_then(Value::as_u64).unwrap_or_default();
            [
                field(of, "volume"),
                size(of),
                field(of, "snapshots"),
                String::from(if served { "yes" } else { "no" }),
                octets(uncommitted.into()),
                made(of),
            ]
        };
        let head = ["VOLUME", "SIZE", "SNAPSHOTS", "SERVED", "UNCOMMITTED", "MADE"];
        table(out, head, volumes.iter().map(row))?;
    }
    Ok(ExitCode::from(u8::from(volumes.is_empty())))
}
