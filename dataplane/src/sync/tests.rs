//! Pings: what they confirm, and what becomes of a session whose disk or process fails.

use std::collections::HashMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::*;

/// A thread's state on a directory, without the thread; the tables are two hours old.
fn sync_in(dir: &Path) -> Sync {
    let tables = Arc::new(Tables::with_stale_limit(Some(Duration::from_secs(3600))));
    tables.freshness.confirmed_before(Duration::from_secs(7200));
    let config =
        SyncConfig { control: Address::Unix(dir.join("control.sock")), node: NodeId(1), boot: BootId(2) };
    Sync {
        config,
        writer: TableWriter::new(tables.clone(), HashMap::new()),
        store: TableStore::open(&dir.join("tables")).unwrap(),
        tables,
        stop: Arc::default(),
        whole_wanted: false,
        incoming: None,
        unnoted: false,
    }
}

#[test]
fn a_ping_is_answered_though_it_can_not_be_noted_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut sync = sync_in(dir.path());
    // Neither root nor anybody else can write to a directory.
    std::fs::create_dir(dir.path().join("tables/current")).unwrap();
    assert!(sync.tables.freshness.is_stale());
    for _ in 0..2 {
        assert!(matches!(sync.take(Frame::Ping), Ok(Some(Frame::Pong))));
        assert!(sync.unnoted, "told once");
    }
    assert!(!sync.tables.freshness.is_stale());
    std::fs::remove_dir(dir.path().join("tables/current")).unwrap();
    sync.take(Frame::Ping).unwrap();
    assert!(!sync.unnoted);
    assert!(sync.store.current_at_ms(sync.writer.position()) > 0);
}

#[test]
fn what_comes_behind_a_long_silence_is_of_the_past() {
    let now = Instant::now();
    assert!(heard_again(now, now + SILENCE_MAX).is_ok());
    let late = heard_again(now, now + SILENCE_MAX + Duration::from_millis(1));
    assert!(matches!(late, Err(SessionError::Silent)));
}

#[test]
fn neither_a_delta_nor_a_snapshot_makes_tables_fresh_and_a_ping_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut sync = sync_in(dir.path());
    let (registry, generation) = (RegistryId(7), Generation(5));
    sync.take(Frame::SnapshotBegin { registry, generation }).unwrap();
    sync.take(Frame::SnapshotEnd { generation, changes: 0 }).unwrap();
    sync.take(Frame::Delta { from: generation, to: Generation(6), changes: Vec::new() }).unwrap();
    // More may be on its way.
    assert_eq!(sync.writer.position(), (registry, Generation(6)));
    assert!(sync.tables.freshness.is_stale());
    sync.take(Frame::Ping).unwrap();
    assert!(!sync.tables.freshness.is_stale());
}

#[test]
fn a_session_goes_on_over_a_disk_that_takes_no_note() {
    use std::io::{Read as _, Write as _};
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let mut sync = sync_in(dir.path());
    std::fs::create_dir(dir.path().join("tables/current")).unwrap();
    let frame = |stream: &mut UnixStream| {
        let mut bytes = Vec::new();
        loop {
            if let Some((frame, _)) = Frame::decode(&bytes).unwrap() {
                return frame;
            }
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
    };
    let plane = std::thread::spawn(move || sync.session());
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(matches!(frame(&mut stream), Frame::Hello(_)));
    let welcome =
        Frame::Welcome { registry: RegistryId(7), generation: Generation(1), takes_key_uses: false };
    stream.write_all(&welcome.to_bytes()).unwrap();
    assert!(matches!(frame(&mut stream), Frame::Buried(_)));
    for _ in 0..3 {
        stream.write_all(&Frame::Ping.to_bytes()).unwrap();
        assert!(matches!(frame(&mut stream), Frame::Pong));
    }
    drop(stream);
    assert!(matches!(plane.join().unwrap(), Err(SessionError::Link(_))));
}
