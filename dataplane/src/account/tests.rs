//! Accounting beside a real pipeline, towards a control plane that is a Unix listener of the test's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;
use wire::report::{Ended, Numbers};

use super::*;
use crate::refused;
use crate::spool::{Pipeline, PipelineConfig};

const NODE: NodeId = NodeId(7);
const BOOT: BootId = BootId(9);
const PATIENCE: Duration = Duration::from_secs(30);

struct Place {
    dir: TempDir,
    pipeline: Pipeline,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let control = Address::Unix(dir.path().join("pipeline.sock"));
        let (data, run) = (dir.path().join("data"), dir.path().join("run"));
        let config = PipelineConfig::new(data, run, control, NODE, BOOT);
        let (pipeline, _pools) = Pipeline::start(config).unwrap();
        Self { dir, pipeline }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn files(&self) -> NumberFiles {
        NumberFiles::open(&self.data(), &self.dir.path().join("run"), NODE, BOOT).unwrap()
    }

    fn account(&self, files: NumberFiles) -> Account {
        let control = Address::Unix(self.dir.path().join("account.sock"));
        let (_, refused) = refused::channel();
        Account::start((control, NODE, BOOT), &self.data(), (self.pipeline.watch(), refused), files).unwrap()
    }

    /// What the file of this process says.
    fn numbers(&self) -> Option<Numbers> {
        numbers::read(&self.data().join("numbers").join(BOOT.to_string()), BOOT)
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn on_a_full_disk_accounting_starts_and_reserves_once_there_is_room() {
    let place = Place::new();
    let files = place.files();
    let new = place.data().join("numbers").join(BOOT.to_string()).with_extension("new");
    symlink("/dev/full", &new).unwrap();
    let account = place.account(files);
    assert_eq!(place.numbers(), None);
    fs::remove_file(&new).unwrap();
    until("reserved", || place.numbers().is_some_and(|numbers| numbers.ended == Ended::Runs));
    account.stop();
    assert_eq!(place.numbers().unwrap().ended, Ended::Clean);
}
