//! The engine's own process: ClickHouse, loaded from its library, and two threads that know when to stop it.
//!
//! ClickHouse runs on the main thread as one command line of two statements: the first starts the HTTP
//! listener, the second never ends. Killing that second query over HTTP is the only way to an orderly end
//! that ClickHouse has here, and it happens when stdin ends (the parent closed it, or was killed) or a
//! SIGTERM comes. SIGINT and SIGHUP reach the whole terminal group and are left to the parent. If the kill
//! does not end the process, it exits the hard way: acknowledged inserts are on disk by then, and ClickHouse
//! starts again after anything.

#![allow(unsafe_code, reason = "the library's C functions, and the signal mask of this process")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use super::config;

/// Without a `WHERE` that never ends there is no server: `clickhouse local` ends with its last statement.
const KEEP_ALIVE: &str = "SELECT sleepEachRow(1) FROM system.numbers \
    SETTINGS max_block_size=1, max_execution_time=0 FORMAT Null";
const STOP: &str = "KILL QUERY WHERE query LIKE 'SELECT sleepEachRow%' ASYNC";

const LOCK_TIMEOUT: Duration = Duration::from_secs(40);
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
/// In-flight inserts end with an exception; with many of them that has taken 5 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
const STOP_INTERVAL: Duration = Duration::from_millis(100);
/// What is being received when the end begins has this long.
const RECEIVE_GRACE: Duration = Duration::from_millis(500);
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

const EXIT_USAGE: u8 = 64;
const EXIT_FAILURE: u8 = 1;
const EXIT_HARD: c_int = 3;

/// Arguments of the hidden subcommand `clickhouse-engine`.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// The engine's directory, with its configuration in place
    #[arg(long)]
    pub dir: PathBuf,
    /// The port to serve HTTP on, on 127.0.0.1
    #[arg(long)]
    pub http_port: u16,
    /// The library; the cached one if it is not given
    #[arg(long)]
    pub library: Option<PathBuf>,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
enum ProcessError {
    #[error("stdin must be a pipe: the engine stops when it ends")]
    Stdin,
    #[error("{}: {source}", dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error("{} is in use by another engine", dir.display())]
    Locked { dir: PathBuf },
    #[error("the library is not in the cache yet: start it through quickstart or the control plane")]
    NotFetched,
    #[error("cannot load the library: {0}")]
    Library(#[from] libloading::Error),
    #[error("a path contains a NUL byte")]
    Path(#[from] std::ffi::NulError),
    #[error("clickhouse: {0}")]
    ClickHouse(String),
}

/// Runs the engine until stdin ends, and returns the process's exit code.
///
/// To be called on the main thread before any other thread is started: it masks signals for the threads to
/// come.
#[must_use]
pub fn serve(args: &EngineArgs) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a stderr that is gone.
            let _ = writeln!(io::stderr(), "clickhouse-engine: {error}");
            ExitCode::from(if matches!(error, ProcessError::Stdin) { EXIT_USAGE } else { EXIT_FAILURE })
        }
    }
}

fn run(args: &EngineArgs) -> Result<(), ProcessError> {
    if !stdin_is_pipe() {
        return Err(ProcessError::Stdin);
    }
    let in_dir = |source| ProcessError::Directory { dir: args.dir.clone(), source };
    give_way();
    let dir = std::fs::canonicalize(&args.dir).map_err(in_dir)?;
    let password = config::check(&dir).map_err(in_dir)?;
    let library = match &args.library {
        Some(library) => library.clone(),
        None => super::fetch::cached().ok().flatten().ok_or(ProcessError::NotFetched)?,
    };
    // Held until the process ends.
    let _lock = lock(&dir)?;
    block_signals();
    say_locked().map_err(in_dir)?;
    let stopper = Arc::new(Stopper {
        port: args.http_port,
        password,
        asked: AtomicBool::new(false),
        once: Once::new(),
    });
    watch_stdin(Arc::clone(&stopper));
    watch_signals(Arc::clone(&stopper));
    let said = run_clickhouse(&library, &dir, args.http_port)?;
    if stopper.asked.load(Ordering::Acquire) {
        return Ok(());
    }
    Err(ProcessError::ClickHouse(said.unwrap_or_else(|| "ended by itself".to_owned())))
}

/// A control plane may run ahead of the other processes. ClickHouse, with its merges, must not.
fn give_way() {
    if rustix::process::getpriority_process(None).is_ok_and(|niceness| niceness < 0) {
        // Less of a right is never refused.
        let _ = rustix::process::setpriority_process(None, 0);
    }
}

fn stdin_is_pipe() -> bool {
    std::fs::metadata("/proc/self/fd/0").is_ok_and(|stdin| stdin.file_type().is_fifo())
}

/// Waits for a predecessor that is still stopping.
fn lock(dir: &Path) -> Result<File, ProcessError> {
    let in_dir = |source| ProcessError::Directory { dir: dir.to_owned(), source };
    let path = config::lock_file(dir);
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(in_dir)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => return Err(ProcessError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(in_dir(source)),
        }
    }
}

/// Tells the parent that the directory is ours, and gives stdout up: it may be gone before ClickHouse writes
/// to it.
fn say_locked() -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(b"locked\n")?;
    stdout.flush()?;
    // SAFETY: both are this process's standard descriptors, and nothing else uses them at this point.
    if unsafe { libc::dup2(io::stderr().as_raw_fd(), stdout.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn watched_signals() -> libc::sigset_t {
    // SAFETY: sigemptyset initializes the set, sigaddset only writes to it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn block_signals() {
    let set = watched_signals();
    // SAFETY: the set is initialized, and the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Asks ClickHouse to end, once, whoever notices first.
struct Stopper {
    port: u16,
    password: String,
    asked: AtomicBool,
    once: Once,
}

impl Stopper {
    fn stop(&self) {
        self.once.call_once(|| {
            self.asked.store(true, Ordering::Release);
            let asked = Instant::now();
            // Again and again: the query may not have begun yet. The process ends under this loop.
            while asked.elapsed() < STOP_TIMEOUT {
                let _ = self.ask();
                std::thread::sleep(STOP_INTERVAL);
                if asked.elapsed() > RECEIVE_GRACE {
                    end_reading(self.port);
                }
            }
            // SAFETY: ends the process at once, without handlers that could wait for ClickHouse's threads.
            unsafe { libc::_exit(EXIT_HARD) };
        });
    }

    fn ask(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
        stream.set_write_timeout(Some(HTTP_TIMEOUT))?;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-ClickHouse-User: {}\r\nX-ClickHouse-Key: {}\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{STOP}",
            config::WRITER,
            self.password,
            STOP.len()
        );
        stream.write_all(request.as_bytes())?;
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    }
}

/// Ends the reading side of every connection to the listener. ClickHouse waits 5 s for them at its end, idle
/// or not, and then gives up being orderly. Answers under way are still written.
fn end_reading(port: u16) {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return };
    for entry in descriptors.flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<c_int>().ok()) else {
            continue;
        };
        let is_ours =
            address_of(fd, libc::getsockname).is_some_and(|address| address.sin_port == port.to_be());
        // The listening socket has no peer, and ClickHouse aborts when its reading side ends.
        if is_ours && address_of(fd, libc::getpeername).is_some() {
            // SAFETY: takes no memory.
            unsafe { libc::shutdown(fd, libc::SHUT_RD) };
        }
    }
}

type AddressCall = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

/// The IPv4 address that the call has for a descriptor, if it is such a socket.
fn address_of(fd: c_int, call: AddressCall) -> Option<libc::sockaddr_in> {
    let mut size = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).ok()?;
    // SAFETY: all zeroes are a valid address; the call writes at most `size` bytes of it, and fails if the
    // descriptor is no socket, or no longer one.
    let (failed, address) = unsafe {
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        (call(fd, (&raw mut address).cast(), &raw mut size) != 0, address)
    };
    (!failed && c_int::from(address.sin_family) == libc::AF_INET).then_some(address)
}

fn watch_stdin(stopper: Arc<Stopper>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut bytes) {
                Ok(read) if read > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return stopper.stop(),
            }
        }
    });
}

fn watch_signals(stopper: Arc<Stopper>) {
    std::thread::spawn(move || {
        let set = watched_signals();
        loop {
            let mut signal: c_int = 0;
            // SAFETY: both are valid for the call; the signals are blocked in every thread.
            let failed = unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0;
            if failed || signal == libc::SIGTERM {
                return stopper.stop();
            }
        }
    });
}

type QueryCmdline = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;
type ResultError = unsafe extern "C" fn(*mut c_void) -> *const c_char;

/// Runs ClickHouse's command line to its end; what it says about an error, if any.
fn run_clickhouse(library: &Path, dir: &Path, port: u16) -> Result<Option<String>, ProcessError> {
    let arguments = [
        "clickhouse".to_owned(),
        format!("--path={}", config::data_dir(dir).display()),
        format!("--config-file={}", config::config_file(dir).display()),
        format!("--http_port={port}"),
        "--listen_host=127.0.0.1".to_owned(),
        // What HTTP clients get that name no format.
        "--output-format=TabSeparated".to_owned(),
        format!("--query=SYSTEM START LISTEN HTTP; {KEEP_ALIVE}"),
    ];
    let owned = arguments.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*mut c_char> = owned.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    let count =
        c_int::try_from(pointers.len()).map_err(|error| ProcessError::ClickHouse(error.to_string()))?;
    pointers.push(std::ptr::null_mut());
    // SAFETY: the checksum of the library is pinned; its initializers run on this, the main thread. It stays
    // loaded until the process ends: its threads outlive the call.
    let library = std::mem::ManuallyDrop::new(unsafe { libloading::Library::new(library) }?);
    // SAFETY: the types are those of chdb.h at the pinned version.
    let query_cmdline = unsafe { library.get::<QueryCmdline>(c"chdb_query_cmdline")? };
    // SAFETY: as above.
    let result_error = unsafe { library.get::<ResultError>(c"chdb_result_error")? };
    // SAFETY: argc strings that end with NUL, then a null pointer; all outlive the call.
    let result = unsafe { query_cmdline(count, pointers.as_mut_ptr()) };
    if result.is_null() {
        return Ok(None);
    }
    // SAFETY: the result is live, and is never destroyed: the process ends next.
    let error = unsafe { result_error(result) };
    if error.is_null() {
        return Ok(None);
    }
    // SAFETY: a string that ends with NUL and lives as long as the result.
    let text = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
    Ok(Some(text))
}
