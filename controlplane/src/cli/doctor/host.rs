//! The kernel, io_uring, and the limits of processes.
#![allow(unsafe_code, reason = "io_uring_setup, to see whether it is allowed")]

use std::path::Path;

use rustix::io::Errno;
use rustix::io_uring::{IoringSetupFlags, io_uring_params, io_uring_setup};

use super::Finding;
use super::installation::Installation;

/// The oldest kernel whose io_uring has what the data plane uses.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Two descriptors for each exchange, and the spool.
const NOFILE_GOOD: u64 = 65_536;
const NOFILE_MIN: u64 = 4096;
/// What a ring's memory was counted against before Linux 5.12, and registered buffers still are.
const MEMLOCK_MIN: u64 = 64 * 1024;
const DATAPLANE: &str = "liutong-dataplane";

pub(super) fn examine(installation: &Installation) -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut findings = vec![kernel(&release)];
    if installation.dataplane.is_none() {
        findings.push(Finding::skipped("io_uring", "there is no data plane on this machine"));
        return findings;
    }
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    findings.push(io_uring(setting.as_deref().map(str::trim), try_io_uring()));
    let running = process(DATAPLANE);
    let pid = running.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let whose = running.map_or_else(|| "this shell".to_owned(), |pid| format!("{DATAPLANE} {pid}"));
    match std::fs::read_to_string(format!("/proc/{pid}/limits")) {
        Ok(text) => {
            findings.push(nofile(&whose, limit(&text, "Max open files")));
            findings.push(memlock(&whose, limit(&text, "Max locked memory")));
        }
        Err(error) => findings.push(Finding::skipped("limits", format!("/proc/{pid}/limits: {error}"))),
    }
    findings
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = KERNEL_MIN;
    let mend = format!("run the data plane on Linux {major}.{minor} or later");
    match (numbers.next(), numbers.next()) {
        (Some(a), Some(b)) if (a, b) >= KERNEL_MIN => Finding::ok("kernel", format!("Linux {release}")),
        (Some(_), Some(_)) => Finding::failed("kernel", format!("Linux {release}"), mend),
        _ => Finding::warning("kernel", format!("Linux {release}, a version that can't be read"), mend),
    }
}

/// Sets up a ring as the workers do, and lets go of it.
fn try_io_uring() -> Result<(), Errno> {
    let flags = IoringSetupFlags::SINGLE_ISSUER | IoringSetupFlags::DEFER_TASKRUN;
    let mut params = io_uring_params::default();
    params.flags = flags;
    // SAFETY: the parameters name no descriptor and no memory; the ring's is dropped at once.
    unsafe { io_uring_setup(8, &mut params) }.map(drop)
}

fn io_uring(setting: Option<&str>, tried: Result<(), Errno>) -> Finding {
    let says = match setting {
        Some(value) => format!("kernel.io_uring_disabled = {value}"),
        None => "the kernel has no kernel.io_uring_disabled".to_owned(),
    };
    let Err(error) = tried else {
        return Finding::ok("io_uring", format!("allowed; {says}"));
    };
    let mend = match (setting, error) {
        (Some("1"), _) => {
            "`sysctl kernel.io_uring_disabled=0`, or put the data plane's group into kernel.io_uring_group"
        }
        (Some("2"), _) => "`sysctl kernel.io_uring_disabled=0`, and the same in /etc/sysctl.d to keep it",
        (_, Errno::PERM) => {
            "something here forbids it, such as a container's seccomp profile: allow io_uring_setup, \
                             io_uring_enter and io_uring_register"
        }
        (_, Errno::NOMEM) => "raise the limit of locked memory: LimitMEMLOCK= in the unit, or `ulimit -l`",
        _ => "the kernel must have CONFIG_IO_URING, and be 6.1 or later",
    };
    Finding::failed("io_uring", format!("refused ({error}); {says}"), mend)
}

/// The first process whose program has this name.
fn process(name: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let runs = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let program = String::from_utf8_lossy(program);
        Path::new(&*program).file_name().is_some_and(|file| file == name)
    };
    pids.filter(runs).min()
}

/// The soft limit in a line of `/proc/PID/limits`; the largest number where there is none.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

fn nofile(whose: &str, limit: Option<u64>) -> Finding {
    let check = "limit of open files";
    let Some(limit) = limit else { return Finding::skipped(check, "it can't be read") };
    let found = format!("{} ({whose})", shown(limit));
    let mend =
        "LimitNOFILE=1048576 in the unit, or `ulimit -n 65536` before the start: each exchange takes two";
    match limit {
        NOFILE_GOOD.. => Finding::ok(check, found),
        NOFILE_MIN.. => Finding::warning(check, found, mend),
        _ => Finding::failed(check, found, mend),
    }
}

fn memlock(whose: &str, limit: Option<u64>) -> Finding {
    let check = "limit of locked memory";
    let Some(limit) = limit else { return Finding::skipped(check, "it can't be read") };
    let found = format!("{} bytes ({whose})", shown(limit));
    if limit >= MEMLOCK_MIN {
        return Finding::ok(check, found);
    }
    Finding::warning(check, found, "LimitMEMLOCK=8M in the unit, or `ulimit -l 8192` before the start")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Failed, Ok as Fine, Skipped, Warning};
    use super::*;

    #[test]
    fn old_kernels_fail() {
        for (release, verdict) in
            [("6.1.0-42-amd64", Fine), ("7.0", Fine), ("6.0.9", Failed), ("5.15.0", Failed), ("odd", Warning)]
        {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn io_uring_that_is_refused_fails_and_the_setting_tells_how_to_mend_it() {
        assert_eq!(io_uring(Some("0"), Ok(())).verdict, Fine);
        assert_eq!(io_uring(None, Ok(())).verdict, Fine);
        for (setting, error, mend) in [
            (Some("2"), Errno::PERM, "io_uring_disabled=0"),
            (Some("1"), Errno::PERM, "io_uring_group"),
            (Some("0"), Errno::PERM, "seccomp"),
            (None, Errno::NOMEM, "LimitMEMLOCK"),
            (None, Errno::NOSYS, "CONFIG_IO_URING"),
        ] {
            let finding = io_uring(setting, Err(error));
            assert_eq!(finding.verdict, Failed);
            assert!(finding.mend.unwrap().contains(mend), "{setting:?} {error}");
            assert_eq!(finding.found.contains("kernel.io_uring_disabled = "), setting.is_some());
        }
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(text, "Max open files"), Some(1024));
        assert_eq!(limit(text, "Max locked memory"), Some(u64::MAX));
        assert_eq!(limit(text, "Max core"), None);
    }

    #[test]
    fn low_limits_are_found() {
        for (limit, verdict) in
            [(Some(1_048_576), Fine), (Some(10_000), Warning), (Some(1024), Failed), (None, Skipped)]
        {
            assert_eq!(nofile("x", limit).verdict, verdict, "{limit:?}");
        }
        assert_eq!(memlock("x", Some(u64::MAX)).verdict, Fine);
        assert_eq!(memlock("x", Some(1)).verdict, Warning);
    }
}
