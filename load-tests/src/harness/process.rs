//! Signals, life and death of processes.
//!
//! No test may leave processes behind. A system that a test owns is stopped when it is dropped; one in a
//! static is stopped by a function that runs when the test program exits; and if the test program is killed,
//! the kernel sends SIGTERM (parent-death signal). That signal is sent when the *thread* that spawned the
//! child ends, so one thread that never ends spawns them all.
#![allow(unsafe_code, reason = "signals, exit functions and the parent-death signal are libc calls")]

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How much of each log a failed test prints.
const LOG_TAIL_BYTES: usize = 8 * 1024;

struct Watched {
    pid: i32,
    directory: PathBuf,
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static KEEPER: OnceLock<Sender<(Command, Sender<io::Result<Child>>)>> = OnceLock::new();
static HOOKS: Once = Once::new();

/// Spawns a process that ends with this one, and whose logs are printed when a test fails.
pub(crate) fn spawn_watched(command: Command, directory: &Path) -> io::Result<Child> {
    HOOKS.call_once(install_hooks);
    let child = spawn(command)?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.push(Watched { pid, directory: directory.to_owned() });
    Ok(child)
}

/// Spawns a process that gets SIGTERM when this one ends.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
    let keeper = KEEPER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<(Command, Sender<io::Result<Child>>)>();
        std::thread::spawn(move || {
            for (mut command, reply) in receiver {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, spawned) = mpsc::channel();
    keeper.send((command, reply)).map_err(io::Error::other)?;
    spawned.recv().map_err(io::Error::other)?
}

/// Forgets a process that has been stopped.
pub(crate) fn forget(pid: i32) {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|watched| watched.pid != pid);
}

/// Stops a child by SIGTERM and waits; after the limit it is killed. Returns whether it ended with success by
/// itself.
pub(crate) fn stop(child: &mut Child, limit: Duration) -> bool {
    let started = Instant::now();
    if let Ok(Some(status)) = child.try_wait() {
        return status.success();
    }
    signal(i32::try_from(child.id()).unwrap_or(i32::MAX), libc::SIGTERM);
    while started.elapsed() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Sends a signal to one process.
pub fn signal(pid: i32, signal: i32) {
    assert!(pid > 0 && pid != i32::MAX, "{pid} is no process");
    // SAFETY: a plain system call; `pid` is positive, so it reaches one process and no group.
    unsafe { libc::kill(pid, signal) };
}

/// Tells whether a process exists and has not ended (a zombie has).
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The state and the parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// All processes below this one.
pub fn descendants(pid: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<(i32, i32)> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.1)))
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        found.extend(all.iter().filter(|&&(_, parent)| parent == of).map(|&(pid, _)| pid));
        at += 1;
    }
    found.remove(0);
    found
}

/// The end of each log under a directory.
pub(crate) fn logs(directory: &Path) -> String {
    let mut text = String::new();
    for file in files(directory).into_iter().filter(|file| file.extension().is_some_and(|name| name == "log"))
    {
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
        text.push_str(&format!("--- {}\n{}\n", file.display(), String::from_utf8_lossy(tail)));
    }
    text
}

/// All regular files under a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn install_hooks() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        for watched in watched.iter() {
            // Through the test's own output, so that it stands with the failure.
            eprintln!("{}", logs(&watched.directory));
        }
    }));
    // SAFETY: the function is an `extern "C"` one without arguments that does not unwind.
    unsafe { libc::atexit(stop_all) };
}

/// Runs when the test program exits: statics are not dropped, so what they hold is stopped here.
extern "C" fn stop_all() {
    let Ok(watched) = WATCHED.try_lock() else { return };
    for watched in watched.iter() {
        signal(watched.pid, libc::SIGTERM);
    }
    let started = Instant::now();
    for watched in watched.iter() {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result; the process is our child or gone.
        while unsafe { libc::waitpid(watched.pid, &raw mut status, libc::WNOHANG) } == 0 {
            if started.elapsed() > super::STOP_LIMIT {
                signal(watched.pid, libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let temporary = watched.directory.starts_with(std::env::temp_dir());
        if temporary && std::env::var_os("LIUTONG_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&watched.directory);
        }
    }
}
