//! `aoe-server`: serves disks over Ethernet, and asks others that do.

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_server::cli::main()
}
