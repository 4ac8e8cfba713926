//! Disks, and the tmpfs of the slots.

use std::path::Path;

use rustix::fs::{statfs, statvfs};

use super::Finding;
use super::installation::Installation;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// `TMPFS_MAGIC`, statfs(2).
const TMPFS: i64 = 0x0102_1994;
/// Below this the spool soon stops, and then requests.
const FREE_MIN: u64 = GIB;
const FREE_PERCENT_GOOD: u64 = 10;
const INODES_MIN: u64 = 1000;
/// The slots of 65,536 exchanges, twice: a process that starts takes over those of the one before.
const SLOTS_FREE_MIN: u64 = 32 * MIB;

/// What is left on a file system.
#[derive(Clone, Copy, Debug)]
struct Room {
    free: u64,
    size: u64,
    /// `None` where the file system has no fixed number.
    inodes: Option<u64>,
}

pub(super) fn examine(installation: &Installation) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, plane) in installation.planes() {
        let check = format!("disk of the {name}");
        let Some(dir) = plane.data_dir() else {
            findings.push(Finding::skipped(check, "its configuration names no data_dir"));
            continue;
        };
        findings.push(match room(dir) {
            Ok(room) => disk(check, dir, room),
            Err(error) => missing(check, dir, &error),
        });
    }
    if let Some(plane) = &installation.dataplane
        && let Some(data_dir) = plane.data_dir()
    {
        let named = plane.text("runtime_dir").map(Path::new);
        let dir = named.map_or_else(|| data_dir.join("run"), Path::to_owned);
        let check = "slots of the data plane";
        findings.push(match (statfs(&dir), room(&dir)) {
            (Ok(stat), Ok(room)) => slots(&dir, stat.f_type == TMPFS, room),
            (Err(error), _) | (_, Err(error)) => missing(check.to_owned(), &dir, &error),
        });
    }
    findings
}

fn room(dir: &Path) -> rustix::io::Result<Room> {
    let stat = statvfs(dir)?;
    Ok(Room {
        free: stat.f_bavail * stat.f_frsize,
        size: stat.f_blocks * stat.f_frsize,
        inodes: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

fn missing(check: String, dir: &Path, error: &rustix::io::Errno) -> Finding {
    let mend = "start the plane once, which makes it, or run this as a user who may look into it";
    Finding::failed(check, format!("{}: {error}", dir.display()), mend)
}

fn disk(check: String, dir: &Path, room: Room) -> Finding {
    let percent = (room.free.saturating_mul(100)).checked_div(room.size).unwrap_or(0);
    let found = format!("{} MiB free, {percent} %, below {}", room.free / MIB, dir.display());
    let mend = "make room, or move data_dir: where the spool finds no room, requests are refused";
    if room.inodes.is_some_and(|inodes| inodes < INODES_MIN) {
        let found = format!("{found}; no room for more files");
        return Finding::failed(check, found, "remove files there: the file system has no inodes left");
    }
    if room.free < FREE_MIN {
        Finding::failed(check, found, mend)
    } else if percent < FREE_PERCENT_GOOD {
        Finding::warning(check, found, mend)
    } else {
        Finding::ok(check, found)
    }
}

fn slots(dir: &Path, is_tmpfs: bool, room: Room) -> Finding {
    let check = "slots of the data plane";
    let found = format!("{} MiB free in {}", room.free / MIB, dir.display());
    if room.free < SLOTS_FREE_MIN {
        return Finding::failed(check, found, "make room: each exchange under way has 128 bytes there");
    }
    if !is_tmpfs {
        let mend = "set runtime_dir to a directory on tmpfs, such as /run/liutong: elsewhere slots are written to a disk";
        return Finding::warning(check, format!("{found}, which is no tmpfs"), mend);
    }
    Finding::ok(check, format!("{found}, a tmpfs"))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Failed, Ok as Fine, Warning};
    use super::*;

    #[test]
    fn a_disk_with_little_room_is_found() {
        let verdict =
            |free, size, inodes| disk("d".into(), Path::new("/d"), Room { free, size, inodes }).verdict;
        assert_eq!(verdict(50 * GIB, 100 * GIB, Some(1_000_000)), Fine);
        assert_eq!(verdict(50 * GIB, 100 * GIB, None), Fine);
        assert_eq!(verdict(5 * GIB, 100 * GIB, None), Warning);
        assert_eq!(verdict(GIB - 1, 2 * GIB, None), Failed);
        assert_eq!(verdict(50 * GIB, 100 * GIB, Some(7)), Failed);
        assert_eq!(verdict(0, 0, None), Failed);
    }

    #[test]
    fn slots_belong_on_a_tmpfs_with_room() {
        let verdict =
            |is_tmpfs, free| slots(Path::new("/r"), is_tmpfs, Room { free, size: GIB, inodes: None }).verdict;
        assert_eq!(verdict(true, GIB), Fine);
        assert_eq!(verdict(false, GIB), Warning);
        assert_eq!(verdict(true, MIB), Failed);
    }

    #[test]
    fn a_directory_that_is_not_there_fails_and_one_that_is_has_room() {
        assert!(room(Path::new("/absent")).is_err());
        assert!(room(Path::new("/proc/self")).is_ok());
        let error = rustix::io::Errno::NOENT;
        assert_eq!(missing("d".into(), Path::new("/absent"), &error).verdict, Failed);
    }
}
