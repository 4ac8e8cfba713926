//! Processes and the cores that they run on.
//!
//! The proxy has core 0 to itself; the load generator and the upstream run on core 1, or, where the proxy's
//! core is to be saturated, the upstream runs on core 0 too. A child ends with this process, also when that
//! is killed.
#![allow(
    unsafe_code,
    reason = "affinity and the parent-death signal are system calls that std does not wrap"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::Context;

/// The core of the proxy that is measured.
pub(crate) const PROXY_CORE: usize = 0;
/// The core of everything else.
pub(crate) const LOAD_CORE: usize = 1;

/// How long a child may take to end once it was told to.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Ties a thread to one core; 0 is the calling thread. What it starts later inherits that.
pub(crate) fn pin(tid: i32, core: usize) -> io::Result<()> {
    pin_to(tid, &[core])
}

/// Ties a thread to some cores.
fn pin_to(tid: i32, cores: &[usize]) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits, for which zeros are a value; cores here are below CPU_SETSIZE.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        set
    };
    // SAFETY: the pointer and the size describe `set`.
    let done = unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &raw const set) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ties all threads of a process to one core.
pub(crate) fn pin_process(pid: i32, core: usize) -> io::Result<()> {
    for tid in threads(pid)? {
        match pin(tid, core) {
            // It ended in between.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The threads of a process.
pub(crate) fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// This process's thread of that name.
pub(crate) fn thread_named(name: &str) -> anyhow::Result<i32> {
    let own = i32::try_from(std::process::id())?;
    threads(own)?
        .into_iter()
        .find(|tid| {
            let file = format!("/proc/self/task/{tid}/comm");
            std::fs::read_to_string(file).is_ok_and(|comm| comm.trim_end() == name)
        })
        .with_context(|| format!("no thread is called {name}"))
}

/// Whether this machine has a core for the proxy and one for the rest.
pub(crate) fn has_two_cores() -> bool {
    let allowed = dataplane::sys::allowed_cores();
    allowed.contains(&PROXY_CORE) && allowed.contains(&LOAD_CORE)
}

/// Lets this process, and what it starts, have `wanted` files open (connections are files), or as many as it
/// may; returns how many.
pub(crate) fn raise_file_limit(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    // Beyond the hard limit only who is privileged may go.
    for hard in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let files = wanted.min(hard).max(limit.rlim_cur);
        let raised = libc::rlimit { rlim_cur: files, rlim_max: hard };
        // SAFETY: `raised` is a valid limit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return files;
        }
    }
    limit.rlim_cur
}

/// A child that is stopped when this value is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a program on the proxy's core. Its output is thrown away but for errors.
    pub(crate) fn start(command: Command) -> anyhow::Result<Self> {
        Self::start_on(command, &[PROXY_CORE])
    }

    /// Starts a program on these cores.
    pub(crate) fn start_on(mut command: Command, cores: &'static [usize]) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                pin_to(0, cores)?;
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        Ok(Self(command.spawn().with_context(|| format!("{name} can't be started"))?))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap_or(i32::MAX)
    }

    /// What became of it, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.0.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            load_tests::harness::signal(self.pid(), libc::SIGTERM);
        }
        let told = Instant::now();
        while self.ended().is_none() {
            if told.elapsed() > STOP_LIMIT {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
