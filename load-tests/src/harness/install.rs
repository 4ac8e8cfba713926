//! What tests need of PyPI and npm, installed once.
//!
//! It is kept under the user's cache directory, each thing with the versions that it was asked for; where
//! these change it is installed anew. A lock lets test programs that run at once install it only once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Where this crate's scripts are.
pub(super) fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Installs something under the cache directory unless that very version is there; returns where.
pub(super) fn install(
    name: &str,
    version: &str,
    install: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let cache = cache.join("liutong-test");
    std::fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    let (directory, done) = (cache.join(name), cache.join(format!("{name}.installed")));
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == version) {
        return Ok(directory);
    }
    eprintln!("installing {name} into {}", directory.display());
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    install(&directory)?;
    std::fs::write(done, version)?;
    Ok(directory)
}

/// Runs a command that must succeed.
pub(super) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}: is it installed?"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    Ok(())
}
