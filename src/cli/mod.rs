//! The commands. Each is a file: a struct whose documentation is the help, and `run`.
//!
//! Exit codes are the same everywhere: 0 for yes, 1 for no (nothing found, not equal, refused), 2
//! for could not tell (no such interface, no permission, bad arguments).

#[cfg(feature = "cas")]
mod archive_args;
mod bench;
mod check;
mod client_output;
mod completions;
mod config;
mod demo;
mod discover;
mod dump;
mod image;
mod link;
mod live;
mod man;
mod ping;
mod read;
mod record;
mod replay;
mod serve;
mod server_args;
#[cfg(feature = "cas")]
mod snapshot;
mod stat;
mod status;
#[cfg(feature = "cas")]
mod store;
mod table;
mod target_args;
#[cfg(feature = "cas")]
mod volume;
mod write;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Exit code for "no": nothing was found, or not what was expected.
const NO: u8 = 1;
/// Exit code for "could not tell".
const COULD_NOT_TELL: u8 = 2;

/// An ATA-over-Ethernet target, and what it takes to use and examine one
#[derive(Debug, Parser)]
#[command(name = "aoe-server", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log messages of this level and above
    #[arg(long, global = true, value_name = "LEVEL", env = "AOE_SERVER_LOG")]
    log_level: Option<log::LevelFilter>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeCmd),
    Status(status::StatusCmd),
    Check(check::CheckCmd),
    Discover(discover::DiscoverCmd),
    Ping(ping::PingCmd),
    Stat(stat::StatCmd),
    Read(read::ReadCmd),
    Write(write::WriteCmd),
    Bench(bench::BenchCmd),
    Config(config::ConfigCmd),
    Image(image::ImageCmd),
    #[cfg(feature = "cas")]
    Volume(volume::VolumeCmd),
    #[cfg(feature = "cas")]
    Snapshot(snapshot::SnapshotCmd),
    #[cfg(feature = "cas")]
    Store(store::StoreCmd),
    Record(record::RecordCmd),
    Replay(replay::ReplayCmd),
    Dump(dump::DumpCmd),
    Demo(demo::DemoCmd),
    Completions(completions::CompletionsCmd),
    Man(man::ManCmd),
}

/// Parses the command line, runs the command and tells how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are a success; the rest is an error.
            let code = if error.use_stderr() { COULD_NOT_TELL } else { 0 };
            let _ = error.print(); // there is nowhere else to complain
            return ExitCode::from(code);
        }
    };
    log_to_stderr(cli.log_level);
    let mut out = io::stdout().lock();
    let result = match &cli.command {
        Command::Serve(command) => command.run(cli.log_level),
        Command::Status(command) => command.run(&mut out),
        Command::Check(command) => command.run(&mut out),
        Command::Discover(command) => command.run(&mut out),
        Command::Ping(command) => command.run(&mut out),
        Command::Stat(command) => command.run(&mut out),
        Command::Read(command) => command.run(&mut out),
        Command::Write(command) => command.run(&mut out),
        Command::Bench(command) => command.run(&mut out),
        Command::Config(command) => command.run(&mut out),
        Command::Image(command) => command.run(&mut out),
        #[cfg(feature = "cas")]
        Command::Volume(command) => command.run(&mut out),
        #[cfg(feature = "cas")]
        Command::Snapshot(command) => command.run(&mut out),
        #[cfg(feature = "cas")]
        Command::Store(command) => command.run(&mut out),
        Command::Record(command) => command.run(&mut out),
        Command::Replay(command) => command.run(&mut out),
        Command::Dump(command) => command.run(&mut out),
        Command::Demo(command) => command.run(&mut out),
        Command::Completions(command) => command.run(&mut out),
        Command::Man(command) => command.run(&mut out),
    };
    match result.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => code,
        // Whoever read the output has seen enough; of a copy of a disk nobody has, before its end.
        Err(error) if is_broken_pipe(&error) && !matches!(cli.command, Command::Read(_)) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(COULD_NOT_TELL)
        }
    }
}

/// Prints an error with its causes on standard error.
#[allow(clippy::print_stderr, reason = "this is where the command line talks to its user")]
fn complain(error: &anyhow::Error) {
    eprintln!("aoe-server: {error:#}");
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Sends the log to standard error; what is logged can be changed while running.
fn log_to_stderr(level: Option<log::LevelFilter>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Trace).format_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.format_timestamp(None); // the system's journal has one of its own
    }
    builder.init();
    log::set_max_level(level.unwrap_or(log::LevelFilter::Warn));
}

/// The whole command line, for completions and manual pages.
fn definition() -> clap::Command {
    Cli::command()
}
