//! The program: `liutong-dataplane --config FILE` serves until SIGTERM or SIGINT.
//!
//! `--enroll` reads a token from standard input, gets the node its certificate for a control plane on another
//! host, and ends.
//!
//! `--stop-on-stdin-eof` ends it also when its standard input does, so that it does not outlive a parent that
//! was killed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use zeroize::Zeroizing;

use crate::config::Config;
use crate::{server, sys};

const TOKEN_BYTES_MAX: u64 = 1024;
/// `EX_USAGE`, also for a configuration that can't be used.
const USAGE: u8 = 64;

/// Serves until it is told to end; what it returns is the exit status.
pub fn run() -> ExitCode {
    let mut file = None;
    let (mut stop_on_eof, mut enroll) = (false, false);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") => file = arguments.next().map(PathBuf::from),
            Some("--enroll") => enroll = true,
            Some("--stop-on-stdin-eof") => stop_on_eof = true,
            Some("--version") => {
                println!("liutong-dataplane {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            _ => return usage(),
        }
    }
    let Some(file) = file else { return usage() };
    // Before the first secret is read.
    if let Err(error) = secret::keep_memory_inside() {
        eprintln!("liutong-dataplane: keeping memory out of core dumps: {error}");
        return ExitCode::FAILURE;
    }
    if enroll {
        return enroll_node(&file);
    }
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

fn enroll_node(file: &Path) -> ExitCode {
    let (data_dir, address) = match Config::load_for_enrolling(file) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("liutong-dataplane: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let mut token = Zeroizing::new(String::new());
    // A token is short; whatever is longer is none.
    let read = std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut token);
    let enrolled = read.map_err(anyhow::Error::from);
    match enrolled.and_then(|_| server::enroll(&data_dir, &address, &token)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("liutong-dataplane: enrolling: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: liutong-dataplane --config FILE [--enroll]\n\n\
         Serves until SIGTERM; with --enroll reads a token and gets this node its certificate. \
         CONFIGURATION.md says what FILE holds."
    );
    ExitCode::from(USAGE)
}
