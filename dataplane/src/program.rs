//! The program: `liutong-dataplane --config FILE` serves until SIGTERM or SIGINT.
//!
//! `--stop-on-stdin-eof` ends it also when its standard input does, so that it does not outlive a parent that
//! was killed.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Config;
use crate::{server, sys};

/// `EX_USAGE`, also for a configuration that can't be used.
const USAGE: u8 = 64;

/// Serves until it is told to end; what it returns is the exit status.
pub fn run() -> ExitCode {
    let mut file = None;
    let mut stop_on_eof = false;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") => file = arguments.next().map(PathBuf::from),
            Some("--stop-on-stdin-eof") => stop_on_eof = true,
            Some("--version") => {
                println!("liutong-dataplane {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            _ => return usage(),
        }
    }
    let Some(file) = file else { return usage() };
    let config = match Config::load(&file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("liutong-dataplane: {error}");
            return ExitCode::from(USAGE);
        }
    };
    // Before the first thread: a signal goes to any thread that does not hold it, and ends the process there.
    sys::hold_signals();
    if stop_on_eof {
        std::thread::spawn(|| {
            // Whatever ends the reading, the parent is gone.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            sys::end_self();
        });
    }
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("liutong-dataplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: liutong-dataplane --config FILE\n\nServes until SIGTERM. The README says what FILE holds."
    );
    ExitCode::from(USAGE)
}
