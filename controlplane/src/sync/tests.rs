//! Publishing and sync over a real socket, against a scripted data plane.

/// How often each of several data planes seals.
mod pace;
/// Whether data planes hold what the registry has, and what they have seen revoked.
mod compare;
/// Several control planes on one registry.
mod peers;
/// Revocations: receipts, and what they go ahead of.
mod revocation;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use wire::frame::{PART_CHANGES, VERSION};
use wire::id::{BatchSeq, BootId, Generation, KeyDigest, NodeId, RegistryId};
use wire::table::Change;
use wire::table_sum::TableSum;

use super::*;
use crate::ingest::store::UsageStore;
use crate::publish::{DELTAS_QUEUED_MAX, Waits};
use crate::registry::application::NewApplication;
use crate::registry::key::NewKey;
use crate::registry::organization::NewOrganization;
use crate::registry::team::NewTeam;
use crate::registry::{self, Registry};

/// How long a machine that has much else to do may take; what waits for it goes on as soon as it can.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is waited for in vain.
const IN_VAIN: Waits = Waits { revoke: Duration::from_secs(10), apply: Duration::from_secs(10) };

struct Plane {
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    publisher: tokio::task::JoinHandle<()>,
    socket: PathBuf,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn plane() -> Plane {
    plane_waiting(Waits { revoke: PATIENCE, apply: PATIENCE }).await
}

async fn plane_waiting(waits: Waits) -> Plane {
    let dir = tempfile::tempdir().unwrap();
    let place = registry::place(dir.path());
    let plane = plane_on(place, dir, waits).await;
    let registry = &plane.registry;
    let name = || "demo".to_owned();
    registry.create_organization(NewOrganization { name: name(), ..Default::default() }).await.unwrap();
    registry.create_team(NewTeam { name: name(), organization: name(), ..Default::default() }).await.unwrap();
    let application =
        NewApplication { name: name(), team: name(), models: vec!["*".into()], ..Default::default() };
    registry.create_application(application).await.unwrap();
    plane
}

/// A control plane on a registry that is there, or an empty one.
async fn plane_on(place: registry::Place, dir: tempfile::TempDir, waits: Waits) -> Plane {
    let registry = Arc::new(Registry::open(place).await.unwrap());
    let hub = Arc::new(Hub::waiting(registry.clone(), waits).await.unwrap());
    let (_, store) = UsageStore::new();
    let ingest = Arc::new(Ingest::new(registry.clone(), store));
    let socket = dir.path().join("run/control.sock");
    let listener = Listener::bind(&socket).await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(
        listener.serve(Context { hub: hub.clone(), ingest, accounts: Arc::default() }, stop.clone()),
    );
    let (publisher, publisher_stop) = (hub.clone(), stop.clone());
    let publisher = tokio::spawn(async move { publisher.run(publisher_stop).await });
    let (peers, peers_stop) = (hub.clone(), stop.clone());
    tokio::spawn(async move { peers.follow_peers(peers_stop).await });
    tokio::spawn(registry.clone().follow(stop.clone()));
    Plane { registry, hub, publisher, socket, stop, _dir: dir }
}

impl Plane {
    async fn new_key(&self, description: &str) -> KeyDigest {
        let new =
            NewKey { application: "demo".into(), description: description.into(), ..Default::default() };
        self.registry.create_key(new).await.unwrap().1.digest()
    }

    async fn connected(&self, node: u64) {
        let here = || self.hub.connected().iter().any(|one| one.node == NodeId(node));
        until(here).await;
    }
}

/// Waits for a condition that another task brings about.
async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the condition comes true");
}

/// A data plane that applies what it gets, as strictly as the protocol allows.
struct DataPlane {
    framed: Framed,
    registry: RegistryId,
    generation: Generation,
    sum: TableSum,
    keys: BTreeMap<KeyDigest, bool>,
    snapshots: usize,
}

impl DataPlane {
    async fn connect(plane: &Plane, node: u64) -> Self {
        Self::connect_with(plane, node, RegistryId(0), Generation(0)).await
    }

    async fn connect_with(plane: &Plane, node: u64, registry: RegistryId, generation: Generation) -> Self {
        let mut framed = Framed::new(UnixStream::connect(&plane.socket).await.unwrap());
        let hello = Hello { role: Role::Sync, node: NodeId(node), boot: BootId(1), registry, generation };
        framed.writer.write(&Frame::Hello(hello)).await.unwrap();
        let Frame::Welcome { registry: welcomed, .. } = framed.read(1 << 24).await.unwrap() else { panic!() };
        assert_eq!(welcomed, plane.registry.id());
        if registry != welcomed {
            framed.writer.write(&Frame::Buried(vec![])).await.unwrap();
        }
        let sum = TableSum::default();
        Self { framed, registry: welcomed, generation, sum, keys: BTreeMap::new(), snapshots: 0 }
    }

    async fn frame(&mut self) -> Frame {
        let read = self.framed.read(1 << 24);
        tokio::time::timeout(PATIENCE, read).await.expect("a frame comes").unwrap()
    }

    async fn write(&mut self, frame: Frame) {
        self.framed.writer.write(&frame).await.unwrap();
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Key(key) => self.keys.insert(key.digest, true),
                Change::NoKey(digest) => self.keys.insert(digest, false),
                _ => None,
            };
        }
    }

    /// Applies frames, without confirming anything, until it stands at a generation.
    async fn read_to(&mut self, generation: Generation) {
        let mut begun = None;
        while self.generation < generation {
            match self.frame().await {
                Frame::SnapshotBegin { registry, .. } => {
                    assert_eq!(registry, self.registry);
                    (begun, self.snapshots) = (Some(0u64), self.snapshots + 1);
                    self.keys.clear();
                }
                Frame::SnapshotPart(changes) => {
                    *begun.as_mut().expect("a part is inside a snapshot") += changes.len() as u64;
                    self.apply(changes);
                }
                Frame::SnapshotEnd { generation, changes } => {
                    assert_eq!(begun, Some(changes));
                    self.generation = generation;
                }
                Frame::Delta { from, to, changes } => {
                    assert_eq!(from, self.generation, "deltas are contiguous");
                    assert!(to > from);
                    self.generation = to;
                    self.apply(changes);
                }
                Frame::Ping => self.write(Frame::Pong).await,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn confirm(&mut self) {
        let (registry, generation, sum) = (self.registry, self.generation, self.sum);
        self.write(Frame::Applied { registry, generation, sum }).await;
    }

    /// Reads on until a revocation comes.
    async fn revocation(&mut self) -> (u64, Vec<KeyDigest>) {
        loop {
            match self.frame().await {
                Frame::Revoke { revocation, digests, .. } => return (revocation, digests),
                Frame::Ping | Frame::Delta { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_fresh_data_plane_gets_a_snapshot_and_then_deltas_in_order() {
    let plane = plane().await;
    let before = plane.new_key("a").await;
    let mut data_plane = DataPlane::connect(&plane, 1).await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    assert_eq!((data_plane.snapshots, data_plane.keys.get(&before)), (1, Some(&true)));
    for n in 0..20 {
        let digest = plane.new_key(&n.to_string()).await;
        if n % 3 == 0 {
            data_plane.read_to(plane.registry.generation().await.unwrap()).await;
            assert_eq!(data_plane.keys.get(&digest), Some(&true));
        }
    }
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    assert_eq!((data_plane.snapshots, data_plane.keys.len()), (1, 21));
}

#[tokio::test]
async fn a_ping_comes_after_all_that_the_registry_has_also_where_nobody_has_published_it() {
    let plane = plane().await;
    let mut data_plane = DataPlane::connect(&plane, 1).await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    assert!(matches!(data_plane.frame().await, Frame::Ping));
    plane.publisher.abort();
    let digest = plane.new_key("next").await;
    let now = plane.registry.generation().await.unwrap();
    // A data plane takes its tables for current at each ping.
    while data_plane.generation < now {
        match data_plane.frame().await {
            Frame::Delta { to, changes, .. } => {
                data_plane.generation = to;
                data_plane.apply(changes);
            }
            other => panic!("{other:?} before the change"),
        }
    }
    assert_eq!(data_plane.keys.get(&digest), Some(&true));
    assert!(matches!(data_plane.frame().await, Frame::Ping));
}

#[tokio::test]
async fn a_data_plane_that_was_away_gets_what_it_missed_and_no_snapshot() {
    let plane = plane().await;
    plane.new_key("a").await;
    let held = plane.registry.generation().await.unwrap();
    let (b, c) = (plane.new_key("b").await, plane.new_key("c").await);
    plane.registry.revoke_key("c").await.unwrap();
    let mut data_plane = DataPlane::connect_with(&plane, 1, plane.registry.id(), held).await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    assert_eq!(data_plane.snapshots, 0);
    assert_eq!(data_plane.keys, BTreeMap::from([(b, true), (c, false)]));
}

#[tokio::test]
async fn tables_of_another_registry_or_of_the_future_are_replaced_by_a_snapshot() {
    let plane = plane().await;
    let now = plane.registry.generation().await.unwrap();
    let other = RegistryId(plane.registry.id().0 ^ 1);
    for (registry, generation) in [(other, now), (plane.registry.id(), Generation(now.0 + 100))] {
        let mut data_plane = DataPlane::connect_with(&plane, 1, registry, generation).await;
        data_plane.generation = Generation(0);
        data_plane.read_to(now).await;
        assert_eq!(data_plane.snapshots, 1);
        assert_eq!(data_plane.generation, now);
    }
}

#[tokio::test]
async fn a_session_that_does_not_keep_up_gets_what_it_missed() {
    let plane = plane().await;
    let mut data_plane = DataPlane::connect(&plane, 7).await;
    plane.connected(7).await;
    // Nobody reads: the socket is full soon, and the queue then.
    let made = 5 * DELTAS_QUEUED_MAX;
    for number in 0..made {
        plane.new_key(&number.to_string()).await;
    }
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    assert_eq!((data_plane.keys.len(), data_plane.snapshots), (made, 1));
    // And from then on each as it comes.
    plane.new_key("last").await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    assert_eq!(data_plane.keys.len(), made + 1);
}

#[tokio::test]
async fn a_newer_session_of_a_node_replaces_the_older() {
    let plane = plane().await;
    let mut older = DataPlane::connect(&plane, 7).await;
    plane.connected(7).await;
    let _newer = DataPlane::connect(&plane, 7).await;
    let ended = async { while older.framed.read(1 << 24).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the older session ends");
    plane.connected(7).await;
    assert_eq!(plane.hub.connected().len(), 1);
}

#[tokio::test]
async fn waiting_for_a_generation_ends_when_every_connected_data_plane_has_it() {
    let plane = plane().await;
    assert!(plane.hub.wait_applied(Generation(1)).await, "nobody is connected");
    let mut data_plane = DataPlane::connect(&plane, 7).await;
    plane.connected(7).await;
    let generation = plane.registry.generation().await.unwrap();
    let hub = plane.hub.clone();
    let waiting = tokio::spawn(async move { hub.wait_applied(generation).await });
    data_plane.read_to(generation).await;
    data_plane.confirm().await;
    assert!(waiting.await.unwrap());
    assert_eq!(plane.hub.connected()[0].applied, generation);
}

#[tokio::test]
async fn nodes_are_enrolled_when_they_first_connect() {
    let plane = plane().await;
    assert!(plane.registry.nodes().await.unwrap().is_empty());
    let _one = DataPlane::connect(&plane, 7).await;
    let nodes = plane.registry.nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.node).collect::<Vec<_>>(), [NodeId(7)]);
}

#[tokio::test]
async fn what_is_no_data_plane_is_closed_and_the_rest_is_served_on() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let plane = plane().await;
    let long = {
        let mut bytes = 5000u32.to_le_bytes().to_vec();
        bytes.extend([0; 100]);
        bytes
    };
    let stored = Frame::Stored { spool: BootId(1), batch: BatchSeq(1), refused: vec![] }.to_bytes();
    let mut other_version = Frame::Ping.to_bytes();
    other_version[8] = VERSION + 1;
    for garbage in
        [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 64], vec![255; 64], long, stored, other_version]
    {
        let mut stream = UnixStream::connect(&plane.socket).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok() && answer.is_empty(), "{garbage:?}");
    }
    DataPlane::connect(&plane, 7).await;
}

#[tokio::test]
async fn the_socket_is_for_our_user_alone() {
    let plane = plane().await;
    assert_eq!(std::fs::metadata(&plane.socket).unwrap().mode() & 0o777, 0o600);
    assert!(Listener::bind(&plane.socket).await.is_err(), "a served socket is not taken over");
}

#[tokio::test]
async fn a_socket_that_a_dead_process_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Listener::bind(&path).await.unwrap();
}
