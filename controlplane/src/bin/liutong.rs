//! `liutong`, the administrators' command.

use std::process::ExitCode;

fn main() -> ExitCode {
    controlplane::cli::main()
}
