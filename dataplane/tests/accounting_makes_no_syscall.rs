//! What a usage event costs a worker is memory: no system call, and no futex, whatever the spool thread does
//! meanwhile.
//!
//! A data plane serves in this process below a seccomp filter that reports every system call but
//! `io_uring_enter` to the test, which counts them by thread and lets each go on. A warm worker then makes
//! one kind of call for an exchange, the `poll` that looks at the upstream's kept connection; its sweeps make
//! another each. The slot, the channel and the spool, which this data plane writes and syncs all the while,
//! add nothing.

// System calls are seen with unsafe code only.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::mem::{offset_of, zeroed};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dataplane::watch;
use in_process::exchange;

#[path = "serve/in_process.rs"]
mod in_process;
#[cfg(test)]
#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/plane.rs"]
mod plane;

/// Exchanges before those that are counted, and those.
const EXCHANGES: u64 = 1000;

/// Calls by thread and number.
type Calls = BTreeMap<(i32, i64), u64>;

/// Where calls are reported.
static LISTENER: AtomicI32 = AtomicI32::new(-1);

/// Waits until there is a place where calls are reported.
fn listener() -> RawFd {
    loop {
        match LISTENER.load(Ordering::Acquire) {
            -1 => std::thread::sleep(Duration::from_millis(1)),
            listener => return listener,
        }
    }
}

/// Reports the calls of this thread, and of all that it starts from now on.
fn filter() -> io::Result<RawFd> {
    let number = u32::try_from(offset_of!(libc::seccomp_data, nr)).unwrap();
    let enter = u32::try_from(libc::SYS_io_uring_enter).unwrap();
    let code = |code: u32| u16::try_from(code).unwrap();
    let statement = |what, k| libc::sock_filter { code: what, jt: 0, jf: 0, k };
    let mut program = [
        statement(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), number),
        libc::sock_filter { jt: 1, ..statement(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), enter) },
        statement(code(libc::BPF_RET | libc::BPF_K), libc::SECCOMP_RET_USER_NOTIF),
        statement(code(libc::BPF_RET | libc::BPF_K), libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the program lives beyond both calls, which read it.
    let listener = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program)
    };
    RawFd::try_from(listener).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}

/// Counts what comes, and lets it go on.
fn count(listener: RawFd, calls: &Mutex<Calls>) {
    loop {
        // SAFETY: both are structures of integers, for the kernel to read and write.
        let (mut call, mut answer): (libc::seccomp_notif, libc::seccomp_notif_resp) =
            unsafe { (zeroed(), zeroed()) };
        // SAFETY: as the request wants it, one structure that is zero.
        if unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } < 0 {
            continue;
        }
        let thread = i32::try_from(call.pid).unwrap();
        *calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((thread, call.data.nr.into()))
            .or_default() += 1;
        answer.id = call.id;
        answer.flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap();
        // SAFETY: the answer to that call. Where its thread has gone meanwhile there is nobody to answer.
        unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }
}

/// The thread called `name`.
fn thread(name: &str) -> i32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    let is_it = |comm: io::Result<String>| comm.is_ok_and(|comm| comm.trim_end() == name);
    let found = tasks.into_iter().find(|task| is_it(std::fs::read_to_string(task.path().join("comm"))));
    found.unwrap_or_else(|| panic!("no thread {name}")).file_name().to_str().unwrap().parse().unwrap()
}

/// How often `thread` made each call since `before`.
fn since(before: &Calls, now: &Calls, thread: i32) -> BTreeMap<i64, u64> {
    let of_thread = now.iter().filter(|((by, _), _)| *by == thread);
    let more = of_thread.map(|((by, call), times)| (*call, times - before.get(&(*by, *call)).unwrap_or(&0)));
    more.filter(|(_, times)| *times > 0).collect()
}

/// Whether it is the system that lets nobody watch: another watches this process, or nobody may.
fn is_not_to_be_had(error: &io::Error) -> bool {
    let known = [libc::EBUSY, libc::ENOSYS, libc::EPERM, libc::EACCES];
    error.raw_os_error().is_some_and(|code| known.contains(&code))
}

#[test]
fn a_usage_event_costs_a_worker_no_system_call() {
    let calls: Arc<Mutex<Calls>> = Arc::default();
    // The counting thread, as this one, is not under the filter: else nobody could answer for it.
    let (dir, counted) = (tempfile::tempdir().unwrap(), Arc::clone(&calls));
    let place = dir.path().to_owned();
    std::thread::spawn(move || count(listener(), &counted));
    let begun = std::thread::spawn(move || {
        // From here on each call waits for the counting thread, so it is told without one.
        let filtered = filter().inspect(|listener| LISTENER.store(*listener, Ordering::Release));
        filtered.map(|_| in_process::start(&place))
    });
    let mut client = match begun.join().unwrap() {
        Ok(client) => client,
        Err(error) if is_not_to_be_had(&error) => {
            // Not by a macro, whose words are kept back where a test does not fail.
            let said =
                "NOT TESTED: what system calls a usage event costs, which this system does not let us watch";
            return writeln!(io::stderr(), "{said}: {error}").unwrap();
        }
        Err(error) => panic!("system calls can't be watched: {error}"),
    };

    let key = plane::key(plane::GOOD);
    let now = || calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (0..EXCHANGES).for_each(|_| exchange(&mut client, &key));
    let (worker, spool) = (thread("worker 0"), thread("spool"));
    let (before, began) = (now(), Instant::now());
    // The events are written and synced meanwhile, by the thread whose job it is, and which does so now and
    // then.
    let mut exchanges = 0;
    let is_kept = || {
        let of_spool = since(&before, &now(), spool);
        [libc::SYS_pwrite64, libc::SYS_fdatasync].iter().all(|call| of_spool.contains_key(call))
    };
    while exchanges < EXCHANGES || !is_kept() {
        assert!(began.elapsed() < plane::PATIENCE, "{:?}", since(&before, &now(), spool));
        exchange(&mut client, &key);
        exchanges += 1;
    }
    let (after, took) = (now(), began.elapsed());

    let sweeps = watch::millis(took) / watch::millis(watch::SWEEP_INTERVAL) + 2;
    let mut of_worker = since(&before, &after, worker);
    let polls = of_worker.remove(&libc::SYS_poll).unwrap_or(0);
    assert!((exchanges..=exchanges + sweeps).contains(&polls), "{polls} polls, {exchanges}, {sweeps} sweeps");
    assert_eq!(of_worker, BTreeMap::new(), "beside polls, by number of the call");
}
