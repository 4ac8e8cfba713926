//! Programs under callgrind: how one is started, and how it is told to hand out what it has counted.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::profile::Profile;

/// Valgrind counts `rep movsb` as one instruction for each byte; without it the C library copies 32 bytes
/// with one, which is nearer to what a copy costs.
const COPIES: &str = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-ERMS,-FSRM";
/// What the names of profiles begin with.
const PROFILE: &str = "profile";

/// Which valgrind is installed.
pub(crate) fn version() -> anyhow::Result<String> {
    let output = Command::new("valgrind").arg("--version").output();
    let output = output.context("valgrind is not installed: apt-get install valgrind")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A directory in which one program under callgrind writes its profiles.
pub(crate) struct Callgrind {
    dir: TempDir,
}

impl Callgrind {
    /// Makes the directory.
    pub(crate) fn new() -> anyhow::Result<Self> {
        version()?;
        Ok(Self { dir: tempfile::Builder::new().prefix("liutong-callgrind-").tempdir()? })
    }

    /// What comes before the command line of the program, with these further options of callgrind.
    pub(crate) fn launcher(&self, options: &[&str]) -> Vec<OsString> {
        let out = format!("--callgrind-out-file={}", self.dir.path().join(PROFILE).display());
        let start = ["env", COPIES, "valgrind", "--quiet", "--tool=callgrind"];
        let mut words: Vec<OsString> = start.into_iter().map(Into::into).collect();
        words.extend([out.into(), self.gate()]);
        words.extend(options.iter().map(Into::into));
        words
    }

    /// Where the program listens for `tell`.
    fn gate(&self) -> OsString {
        format!("--vgdb-prefix={}", self.dir.path().join("vgdb").display()).into()
    }

    /// Gives the running program a command of callgrind's (`dump`, `instrumentation on`), and waits until it
    /// is done.
    pub(crate) fn tell(&self, pid: i32, words: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("vgdb");
        // The program looks for commands by itself, often enough; a debugger's rights are not needed.
        command.arg(format!("--pid={pid}")).arg(self.gate()).args(["--max-invoke-ms=0", "--wait=10"]);
        let output = command.args(words).output().context("vgdb (a part of valgrind)")?;
        let told = || format!("vgdb {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), told());
        Ok(())
    }

    /// Takes the profiles that have been written, in the order of parts and threads. Where `keep` is given,
    /// each file is copied there, for `callgrind_annotate`, with its thread's number behind a dot.
    pub(crate) fn take(&self, keep: Option<&Path>) -> anyhow::Result<Vec<Profile>> {
        let mut files: Vec<_> = std::fs::read_dir(self.dir.path())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_profile(path))
            .collect();
        files.sort_by_key(|path| part(path));
        let read = |path: &std::path::PathBuf| {
            let mut profile = Profile::default();
            profile.add(&std::fs::read_to_string(path).with_context(|| path.display().to_string())?);
            if let Some(keep) = keep {
                let (_, thread) = part(path);
                std::fs::copy(path, keep.with_extension(thread.to_string()))?;
            }
            std::fs::remove_file(path)?;
            Ok(profile)
        };
        files.iter().map(read).collect()
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Whether the file has a part of its own: the one without is empty, to be used when the program ends.
fn is_profile(path: &Path) -> bool {
    name(path).starts_with(PROFILE) && part(path) != (0, 0)
}

/// The part and the thread in `profile.PART-THREAD`; 0 for what is not there.
fn part(path: &Path) -> (u64, u64) {
    let numbers = name(path).rsplit('.').next().unwrap_or_default();
    let (part, thread) = numbers.split_once('-').unwrap_or((numbers, "0"));
    (part.parse().unwrap_or(0), thread.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_ordered_by_their_numbers() {
        let parts = ["/d/profile.2-01", "/d/profile.10-01", "/d/profile.10-02"].map(|p| part(Path::new(p)));
        assert!(parts.is_sorted());
        assert_eq!(part(Path::new("/d/profile.7")), (7, 0));
    }
}
