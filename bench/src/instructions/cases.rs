//! Instructions of the pure parts: this program runs itself under callgrind, which collects nothing but what
//! happens inside of [`pure::measured`], and writes a profile each time that is left.

use std::process::Command;

use anyhow::{Context, ensure};
use pure::{Case, MEASURED, Ready};

use super::profile::{Profile, SHA256};
use super::valgrind::Callgrind;

/// How often a case is run before it is counted: caches are filled and buffers have grown.
const WARM_UP: usize = 3;

/// What was counted of a case.
pub(crate) struct CountedCase {
    /// What kind of work it is.
    pub(crate) group: &'static str,
    /// Which one.
    pub(crate) name: String,
    /// Bytes looked at or written.
    pub(crate) bytes: usize,
    /// Instructions, without those of SHA-256.
    pub(crate) instructions: u64,
    /// Those of SHA-256, which valgrind makes us do in software.
    pub(crate) sha256: u64,
    /// All of it.
    pub(crate) profile: Profile,
}

/// Runs every case once where callgrind counts it. The first is nothing at all: what calling costs.
pub(crate) fn run_all(filter: &str) {
    for mut ready in std::iter::once(nothing()).chain(chosen(filter).iter().map(Case::ready)) {
        for _ in 0..WARM_UP {
            ready.run();
        }
        pure::measured(&mut ready);
    }
}

fn nothing() -> Ready {
    Ready::new(0, || {})
}

fn chosen(filter: &str) -> Vec<Case> {
    pure::cases()
        .into_iter()
        .filter(|case| format!("{}: {}", case.group, case.name).contains(filter))
        .collect()
}

/// Counts the cases with `filter` in their name.
pub(crate) fn count(filter: &str) -> anyhow::Result<Vec<CountedCase>> {
    let cases = chosen(filter);
    ensure!(!cases.is_empty(), "no case has {filter:?} in its name");
    let callgrind = Callgrind::new()?;
    let (collect, dump) = (format!("--toggle-collect={MEASURED}"), format!("--dump-after={MEASURED}"));
    let launcher = callgrind.launcher(&[&collect, &dump]);
    let mut command = Command::new(&launcher[0]);
    command.args(&launcher[1..]).arg(std::env::current_exe()?).args(["instructions", "--here"]);
    let status = command.arg(format!("--case={filter}")).status()?;
    ensure!(status.success(), "the cases under valgrind: {status}");

    let mut profiles = callgrind.take(None)?.into_iter();
    let calling = profiles.next().context("callgrind wrote no profile")?.total;
    let mut profiles: Vec<Profile> = profiles.collect();
    // What came after the last case.
    profiles.truncate(cases.len());
    ensure!(profiles.len() == cases.len(), "{} profiles of {} cases", profiles.len(), cases.len());
    Ok(cases.into_iter().zip(profiles).map(|(case, profile)| counted(case, profile, calling)).collect())
}

fn counted(case: Case, profile: Profile, calling: u64) -> CountedCase {
    let sha256 = profile.of_functions(SHA256);
    let instructions = profile.total.saturating_sub(calling + sha256);
    let bytes = case.ready().bytes;
    CountedCase { group: case.group, name: case.name, bytes, instructions, sha256, profile }
}
