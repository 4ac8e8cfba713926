//! The numbers that each process gave out, on disk: a small file for each, so that none can be missing
//! unseen.
//!
//! ```text
//! DATA_DIR/numbers/<boot>   "liutong numbers 1 <ended>", then for each worker "<admitted> <reserved>"
//! ```
//!
//! While a process runs its file says how far it may have come: `reserved` is raised, and synced, well before
//! the numbers reach it. An orderly end writes the last numbers. After `kill -9` the next start reads them
//! from the slots, which survive. After a power cut they do not: then the file says at most how many were
//! given out.
//!
//! A file is replaced as a whole, and removed once the control plane has written its content down.
//!
//! On a full disk what is to be written waits. The price: of a process that ended meanwhile its file still
//! says what it may have given out at most, and that is all that is known if this one ends, too, when it has
//! taken over those slots and the control plane has not been told; and of what this one gives out beyond its
//! file, or without one, a power cut leaves no bound but the control plane's last note.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use wire::id::{BootId, NodeId};
use wire::report::{Ended, Numbers};

use crate::slots;
use crate::spool::host::{Host, Os, is_full};

const TITLE: &str = "liutong numbers 1";
/// The fewest numbers that are reserved at once.
const BLOCK_MIN: u64 = 64;

/// The files of a data directory, and what they say.
#[derive(Debug)]
pub struct NumberFiles {
    dir: PathBuf,
    own: BootId,
    reserved: Vec<u64>,
    admitted: Vec<u64>,
    /// Processes that ended, until the control plane has noted them.
    ended: BTreeMap<BootId, Numbers>,
    /// Those whose files do not say how they ended: there was no room.
    unwritten: BTreeSet<BootId>,
}

impl NumberFiles {
    /// Opens the files below `data_dir` and settles those of processes that are gone.
    ///
    /// It must come before their slots are taken over.
    pub fn open(data_dir: &Path, runtime_dir: &Path, node: NodeId, own: BootId) -> io::Result<Self> {
        let dir = data_dir.join("numbers");
        fs::create_dir_all(&dir)?;
        let (ended, unwritten) = (BTreeMap::new(), BTreeSet::new());
        let mut this = Self { dir, own, reserved: Vec::new(), admitted: Vec::new(), ended, unwritten };
        for entry in fs::read_dir(&this.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(boot) = BootId::parse(name).filter(|boot| *boot != own) else { continue };
            let Some(mut numbers) = read(&path, boot) else { continue };
            if numbers.ended == Ended::Runs {
                if !is_gone(data_dir, boot) {
                    continue;
                }
                numbers.ended = Ended::PowerCut;
                if let Some(admitted) = slots::adopt::admitted(runtime_dir, node, boot)? {
                    numbers.ended = Ended::Killed;
                    numbers.workers = admitted.into_iter().map(|last| (last, last)).collect();
                }
                match this.write(&numbers) {
                    Err(error) if is_full(&error) => _ = this.unwritten.insert(boot),
                    written => written?,
                }
            }
            this.ended.insert(boot, numbers);
        }
        Ok(this)
    }

    /// Keeps `reserved` ahead of `admitted`, which each worker has reached. Writes only when it must.
    ///
    /// `ahead` is how many numbers a worker may give out before this is called the next time but one.
    pub fn reserve(&mut self, admitted: &[u64], ahead: u64) -> io::Result<()> {
        while let Some(boot) = self.unwritten.first() {
            self.ended.get(boot).map_or(Ok(()), |numbers| self.write(numbers))?;
            self.unwritten.pop_first();
        }
        let block = ahead.max(BLOCK_MIN);
        let is_near = |(at, admitted): (usize, &u64)| {
            self.reserved.get(at).is_none_or(|reserved| admitted + block > *reserved)
        };
        if !admitted.iter().enumerate().any(is_near) {
            return Ok(());
        }
        let reserved: Vec<u64> = admitted.iter().map(|admitted| admitted + 4 * block).collect();
        let workers = admitted.iter().copied().zip(reserved.iter().copied()).collect();
        self.write(&Numbers { boot: self.own, ended: Ended::Runs, workers })?;
        self.reserved = reserved;
        self.admitted = admitted.to_vec();
        Ok(())
    }

    /// Writes down the last numbers of this process, whose workers have ended.
    pub fn end(&self, admitted: &[u64]) -> io::Result<()> {
        let workers = admitted.iter().map(|last| (*last, *last)).collect();
        self.write(&Numbers { boot: self.own, ended: Ended::Clean, workers })
    }

    /// What is to be reported: this process with `admitted`, and those that ended.
    pub fn report(&self, admitted: &[u64]) -> Vec<Numbers> {
        let reserved = self.reserved.iter().copied().chain(std::iter::repeat(0));
        let workers = admitted.iter().zip(reserved).map(|(at, reserved)| (*at, reserved.max(*at))).collect();
        let own = Numbers { boot: self.own, ended: Ended::Runs, workers };
        std::iter::once(own).chain(self.ended.values().cloned()).collect()
    }

    /// The control plane has what there is to know of `boot`.
    pub fn noted(&mut self, boot: BootId) -> io::Result<()> {
        self.unwritten.remove(&boot);
        match self.ended.remove(&boot) {
            Some(_) => fs::remove_file(self.path(boot)),
            None => Ok(()),
        }
    }

    fn path(&self, boot: BootId) -> PathBuf {
        self.dir.join(boot.to_string())
    }

    fn write(&self, numbers: &Numbers) -> io::Result<()> {
        let path = self.path(numbers.boot);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        writeln!(file, "{TITLE} {}", word(numbers.ended))?;
        for (admitted, reserved) in &numbers.workers {
            writeln!(file, "{admitted} {reserved}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &path)?;
        Os.sync_dir(&self.dir)
    }
}

/// Whether nobody holds the lock of a process's spool.
fn is_gone(data_dir: &Path, boot: BootId) -> bool {
    match File::open(data_dir.join("spool").join(boot.to_string()).join("lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn word(ended: Ended) -> &'static str {
    match ended {
        Ended::Runs => "runs",
        Ended::Clean => "clean",
        Ended::Killed => "killed",
        Ended::PowerCut => "power-cut",
    }
}

/// Reads a file; `None` for one that is none of ours.
pub(super) fn read(path: &Path, boot: BootId) -> Option<Numbers> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let state = lines.next()?.strip_prefix(TITLE)?.trim();
    let all = [Ended::Runs, Ended::Clean, Ended::Killed, Ended::PowerCut];
    let ended = all.into_iter().find(|ended| word(*ended) == state)?;
    let pair = |line: &str| {
        let (admitted, reserved) = line.split_once(' ')?;
        Some((admitted.parse().ok()?, reserved.parse().ok()?))
    };
    Some(Numbers { boot, ended, workers: lines.map(pair).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::{Slots, SlotsConfig};
    use wire::event::UsageEvent;

    const NODE: NodeId = NodeId(7);

    fn open(dir: &Path, boot: u64) -> NumberFiles {
        NumberFiles::open(dir, &dir.join("run"), NODE, BootId(boot)).unwrap()
    }

    fn of(files: &NumberFiles, boot: u64) -> Option<Numbers> {
        files.report(&[]).into_iter().find(|numbers| numbers.boot == BootId(boot))
    }

    #[test]
    fn after_an_orderly_end_a_kill_and_a_power_cut_it_is_known_what_was_given_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let mut clean = open(dir.path(), 1);
        clean.reserve(&[0, 0], 10).unwrap();
        clean.end(&[12, 3]).unwrap();

        let mut killed = open(dir.path(), 2);
        killed.reserve(&[0], 10).unwrap();
        let config = SlotsConfig { node: NODE, boot: BootId(2), workers: 1, per_worker: 4 };
        let (slots, mut pools, _lanes) = Slots::create(&dir.path().join("run"), config).unwrap();
        (0..3).for_each(|_| drop(pools[0].open(&UsageEvent::default()).unwrap()));
        drop((slots, pools));

        let mut cut = open(dir.path(), 3);
        cut.reserve(&[100], 1000).unwrap();

        let next = open(dir.path(), 4);
        let expected = |boot, ended, workers| Some(Numbers { boot: BootId(boot), ended, workers });
        assert_eq!(of(&next, 1), expected(1, Ended::Clean, vec![(12, 12), (3, 3)]));
        assert_eq!(of(&next, 2), expected(2, Ended::Killed, vec![(3, 3)]));
        assert_eq!(of(&next, 3), expected(3, Ended::PowerCut, vec![(100, 4100)]));
        // Whoever starts after it says the same, though the slots are gone by then.
        fs::remove_dir_all(dir.path().join("run")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let mut next = open(dir.path(), 5);
        assert_eq!(of(&next, 2), expected(2, Ended::Killed, vec![(3, 3)]));
        next.noted(BootId(2)).unwrap();
        assert_eq!(of(&open(dir.path(), 6), 2), None);
    }

    /// Until what is returned is removed the file of a process can't be written: there is no room.
    fn fill_disk(dir: &Path, boot: u64) -> PathBuf {
        let new = dir.join("numbers").join(BootId(boot).to_string()).with_extension("new");
        std::os::unix::fs::symlink("/dev/full", &new).unwrap();
        new
    }

    #[test]
    fn on_a_full_disk_a_start_goes_on_and_writes_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        open(dir.path(), 1).reserve(&[5], 1).unwrap();
        let full = [1, 2].map(|boot| fill_disk(dir.path(), boot));
        let cut = Numbers { boot: BootId(1), ended: Ended::PowerCut, workers: vec![(5, 261)] };

        let mut files = open(dir.path(), 2);
        assert_eq!(of(&files, 1), Some(cut.clone()));
        assert!(is_full(&files.reserve(&[0], 1).unwrap_err()));
        full.iter().for_each(|new| fs::remove_file(new).unwrap());
        files.reserve(&[0], 1).unwrap();
        let on_disk = |boot| read(&files.path(BootId(boot)), BootId(boot));
        assert_eq!((on_disk(1), on_disk(2).map(|own| own.ended)), (Some(cut), Some(Ended::Runs)));
    }

    #[test]
    fn numbers_stay_behind_what_is_reserved_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let mut files = open(dir.path(), 1);
        for admitted in (0..5000).step_by(7) {
            files.reserve(&[admitted, 1], 50).unwrap();
            let on_disk = read(&files.path(BootId(1)), BootId(1)).unwrap();
            assert!(on_disk.workers[0].1 >= admitted + 50 && on_disk.workers[1].1 > 1, "{admitted}");
        }
    }

    #[test]
    fn a_process_that_lives_beside_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        open(dir.path(), 1).reserve(&[5], 1).unwrap();
        let spool = dir.path().join("spool").join(BootId(1).to_string());
        fs::create_dir_all(&spool).unwrap();
        let lock = File::create(spool.join("lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(of(&open(dir.path(), 2), 1), None);
        drop(lock);
        assert!(of(&open(dir.path(), 2), 1).is_some());
    }
}
