//! `pids.json`: which processes the children are at present.
//!
//! Replaced by a rename whenever one is started, so that a reader never sees half of it. A child that has
//! exited stays in it until its successor runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::data_dir::replace;

/// The ids, as they are in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PidTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dataplane: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) controlplane: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) clickhouse: Option<u32>,
}

/// The file and what is in it; clones are the same.
#[derive(Clone)]
pub(super) struct Pids {
    path: PathBuf,
    table: Arc<Mutex<PidTable>>,
}

impl Pids {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, table: Arc::default() }
    }

    /// Notes that the child `name` is `pid` from now on.
    pub(super) fn set(&self, name: &str, pid: u32) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            "dataplane" => table.dataplane = Some(pid),
            "controlplane" => table.controlplane = Some(pid),
            _ => table.clickhouse = Some(pid),
        }
        let text = serde_json::to_string(&*table).expect("numbers become JSON");
        // The children run, whether their numbers can be written down or not.
        if let Err(error) = replace(&self.path, format!("{text}\n").as_bytes(), 0o644) {
            eprintln!("liutong: {error}");
        }
    }

    pub(super) fn table(&self) -> PidTable {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing runs any more.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_and_never_written_in_place() {
        use std::os::unix::fs::MetadataExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pids.json");
        let pids = Pids::new(path.clone());
        pids.set("clickhouse", 11);
        // An open file keeps the inode in use: the next file must have another.
        let open = std::fs::File::open(&path).unwrap();
        pids.set("dataplane", 12);
        assert_ne!(path.metadata().unwrap().ino(), open.metadata().unwrap().ino());
        let read = |file: &mut dyn std::io::Read| -> PidTable { serde_json::from_reader(file).unwrap() };
        assert_eq!(read(&mut &open), PidTable { clickhouse: Some(11), ..PidTable::default() });
        let now = read(&mut std::fs::File::open(&path).unwrap());
        assert_eq!((now.dataplane, now.clickhouse), (Some(12), Some(11)));
        assert_eq!(now, pids.table());
    }
}
