//! Where and when it was measured.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// A machine, and the commit that was measured on it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    /// The processor's name.
    cpu: String,
    /// How many cores.
    cores: usize,
    /// The kernel's version.
    kernel: String,
    /// TCP's congestion control: it paces, or it does not.
    congestion_control: String,
    /// The commit in the working directory, with a plus where it was changed.
    commit: String,
    /// Seconds since 1970.
    unix_s: u64,
    /// Runnable threads, average of a minute, before the first round: others' work.
    load_before: f64,
}

impl Machine {
    /// Looks at this one.
    pub(crate) fn this() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            cpu: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim_end().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim_end().to_owned(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            unix_s: since.as_secs(),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// The commit in the working directory, with a plus where it was changed.
pub(crate) fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(format!("{}{}", commit.trim_end(), if changed.is_empty() { "" } else { "+" }))
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, congestion_control, commit, load_before, .. } = self;
        let version = kernel.split('-').next().unwrap_or_default();
        write!(
            f,
            "{cores} cores of {cpu}, Linux {version}, TCP {congestion_control}, commit {commit}, \
             load {load_before:.1} before the start"
        )
    }
}
