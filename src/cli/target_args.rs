//! Flags and habits that the commands of an initiator share.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::link::{fastest, open_link};
use crate::client::{Client, ClientError, Disk};
use crate::link::{LinkError, LinkKind};
use crate::protocol::Address;

/// How targets are reached.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LinkArgs {
    /// Interface that the targets are behind, for example eth1
    #[arg(short, long, value_name = "NAME")]
    interface: String,
    /// How frames are moved
    #[arg(long, value_enum, default_value_t = fastest())]
    link: LinkKind,
    /// Wait for so many milliseconds for an answer before giving up
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: Option<u64>,
}

impl LinkArgs {
    /// How long to wait for an answer: `default`, unless the user says otherwise.
    pub(super) fn timeout(&self, default: Duration) -> Duration {
        self.timeout_ms.map_or(default, Duration::from_millis)
    }

    /// An initiator that waits for an answer for `default`, unless the user says otherwise.
    pub(super) fn client(&self, default: Duration) -> anyhow::Result<Client> {
        let mut client = Client::new(open_link(&self.interface, self.link)?);
        client.set_patience(self.timeout(default));
        Ok(client)
    }

    /// What becomes of a command: its exit code, or, when the target's answer is no, that is said
    /// on standard error. What leaves the question open is an error.
    pub(super) fn conclude(
        &self,
        result: Result<ExitCode, ClientError>,
    ) -> anyhow::Result<ExitCode> {
        let error = match result {
            Ok(code) => return Ok(code),
            Err(error) => error,
        };
        if is_no(&error) {
            let mut stderr = std::io::stderr().lock();
            // When even that cannot be written, the exit code must do.
            let _ = writeln!(stderr, "{error}");
            if let Some(hint) = hint(&error) {
                let _ = writeln!(stderr, "{hint}");
            }
            return Ok(ExitCode::from(1));
        }
        let name = &self.interface;
        let context = match error {
            ClientError::Link { source: LinkError::Down, .. } => {
                format!("interface {name} is down; try: ip link set {name} up")
            }
            ClientError::Link { .. } | ClientError::MtuTooSmall { .. } => {
                format!("cannot go on with interface {name}")
            }
            // The others have nothing to do with the interface.
            error => return Err(error.into()),
        };
        Err(error).context(context)
    }
}

/// Whether this is an answer to what was asked, if not the one that was hoped for.
fn is_no(error: &ClientError) -> bool {
    error.is_answer()
        || matches!(
            error,
            ClientError::NoAnswer { .. }
                | ClientError::OutOfRange { .. }
                | ClientError::SourceTooLong { .. }
                | ClientError::ShortReply { .. }
                | ClientError::Malformed { .. }
        )
}

/// What the user may do about it.
fn hint(error: &ClientError) -> Option<&'static str> {
    use crate::protocol::AoeError;
    match error {
        ClientError::NoAnswer { .. } => Some(
            "check the address and the interface with `aoe-server discover`; a target whose MAC \
             mask list leaves this station out stays silent, too",
        ),
        ClientError::Refused { error: AoeError::TARGET_RESERVED, .. } => {
            Some("`aoe-server config reserve` tells by whom, and can take it over with --force")
        }
        ClientError::Refused { error: AoeError::CONFIG_STRING_PRESENT, .. } => {
            Some("`aoe-server config get` shows it; `config force-set` replaces it")
        }
        _ => None,
    }
}

/// A single target, as `e7.3`.
pub(super) fn parse_target(text: &str) -> Result<Address, String> {
    let address: Address = text.parse().map_err(|error| format!("{error}"))?;
    if address.is_wildcard() {
        return Err("this takes one target, without wildcards, as in e7.3".into());
    }
    Ok(address)
}

/// Makes sure that all stations that answer at the address of `disk` lead to one disk: written
/// through two servers, it would be two halves.
pub(super) fn one_disk_only(client: &mut Client, disk: &Disk) -> anyhow::Result<()> {
    for station in &disk.stations {
        let facts = client
            .identify(*station, disk.address)
            .with_context(|| format!("cannot identify {} at {station}", disk.address))?;
        anyhow::ensure!(
            facts.serial == disk.facts.serial && facts.size == disk.facts.size,
            "{} is answered by two servers with different disks, at {} (serial {}) and at {station} \
             (serial {}); nothing was written. Stop one of them, or give it another address",
            disk.address,
            disk.mac,
            disk.facts.serial,
            facts.serial,
        );
    }
    Ok(())
}

/// A flag that Ctrl-C raises, the second time ending the process.
pub(super) fn interrupted() -> anyhow::Result<std::sync::Arc<std::sync::atomic::AtomicBool>> {
    use signal_hook::consts::SIGINT;
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, flag.clone())
        .and_then(|_| signal_hook::flag::register(SIGINT, flag.clone()))
        .context("cannot watch for Ctrl-C")?;
    Ok(flag)
}
