//! Starting and ending the process.
//!
//! Start: listeners first (a port that is taken ends it before anything is touched), then the node's id, the
//! usage pipeline (which also finds what a former process left), the tables from disk, and at last the
//! workers. End: workers stop accepting and let streams finish, the last numbers are written down, then the
//! pipeline writes and ships what there is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crossbeam_channel::{Sender, bounded};
use socket2::{Domain, Protocol, Socket, Type};
use wire::id::{BootId, NodeId};

use crate::account::Account;
use crate::account::numbers::NumberFiles;
use crate::auth::unix_ms;
use crate::config::{Config, Control};
use crate::identity::{self, Identity};
use crate::link::{Address, Several};
use crate::log::{self, Entry};
use crate::metrics::Counters;
use crate::ops::{self, Ops};
use crate::refused;
use crate::slots::pool::SlotPool;
use crate::spool::host::Os;
use crate::spool::segment::list;
use crate::spool::{Pipeline, PipelineConfig};
use crate::sync::{self, SyncConfig};
use crate::sys::{self, Signal};
use crate::tables::disk::TableStore;
use crate::tables::{TableWriter, Tables};
use crate::tls::clients::{ClientTls, LOOK_INTERVAL};
use crate::upstream::tls;
use crate::worker::{self, BodyBudget, Shared, Worker};

/// How many connections may wait to be accepted; the kernel keeps it below `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How much of its answer the kernel holds for a slow client, beside what is in flight.
const UNSENT_BYTES_MAX: u32 = 256 * 1024;
/// A note of the tables' age may lie so far ahead of the clock, which is corrected by a little now and then.
const CLOCK_STEP_MS_MAX: u64 = 60_000;
/// How often the names of upstreams are looked up again.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(30);
/// How long the end of the process waits for the control plane to take what is left; it is on disk either
/// way.
const SHIP_LIMIT: Duration = Duration::from_secs(5);

/// Runs a data plane until the process is told to end; `sys::hold_signals` came before any thread.
pub fn run(mut config: Config) -> anyhow::Result<()> {
    sys::make_files_private();
    let listeners = bind_workers(config.http, config.workers)?;
    let http = listeners[0].local_addr()?;
    let ops_listener = TcpListener::bind(config.ops).with_context(|| format!("ops.listen {}", config.ops))?;
    let ops = ops_listener.local_addr()?;
    make_private(&config.data_dir)?;
    make_private(&config.runtime_dir)?;
    let node = node_id(&config.data_dir)?;
    let boot = BootId(random()?);

    // Before the slots of processes that are gone are taken over.
    let numbers = NumberFiles::open(&config.data_dir, &config.runtime_dir, node, boot)
        .with_context(|| format!("numbers in {}", config.data_dir.display()))?;
    let (control, identity) = control_address(&config, node)?;
    let (pipeline, pools) = Pipeline::start(pipeline_config(&config, &control, node, boot))
        .with_context(|| format!("usage pipeline in {}", config.data_dir.display()))?;
    let (refused_uses, refused) = refused::channel();
    let watched = (pipeline.watch(), refused);
    let mut account = Account::start((control.clone(), node, boot), &config.data_dir, watched, numbers)
        .with_context(|| format!("numbers in {}", config.data_dir.display()))?;
    let tables = Arc::new(Tables::with_stale_limit(config.stale_limit));
    let mut writer = TableWriter::new(tables.clone(), std::mem::take(&mut config.credentials));
    let tables_dir = config.data_dir.join("tables");
    let mut store = TableStore::open(&tables_dir).with_context(|| tables_dir.display().to_string())?;
    store.load(&mut writer).with_context(|| tables_dir.display().to_string())?;
    if tables.is_ready() {
        let age_ms = age_ms(unix_ms(), store.current_at_ms(writer.position()));
        tables.freshness.confirmed_before(Duration::from_millis(age_ms));
        log::log(&Entry::Resumed { generation: writer.position().1, keys: tables.key_count() });
    }

    let shared = Arc::new(Shared {
        upstream_tls: tls::client_config(config.upstream_ca_file.as_deref())?,
        client_tls: config.http_tls.map(Arc::new),
        bodies: BodyBudget::new(config.limits.bodies_bytes_max),
        limits: config.limits.clone(),
        usage: pipeline.watch(),
        refused_uses,
        draining: AtomicBool::new(false),
        tables: tables.clone(),
        boot,
    });
    let counters: Vec<Arc<Counters>> = (0..config.workers).map(|_| Arc::default()).collect();
    let workers = start_workers(&shared, listeners, pools, &counters)?;
    ops::start(ops_listener, Ops { shared: shared.clone(), counters })?;
    let stop_sync = Arc::new(AtomicBool::new(false));
    if let Some(identity) = identity.clone() {
        let stop = stop_sync.clone();
        std::thread::Builder::new().name("identity".into()).spawn(move || identity.keep_fresh(&stop))?;
    }
    let sync =
        sync::start(SyncConfig { control, node, boot }, writer, store, tables.clone(), stop_sync.clone())?;
    keep_looking_up(tables);
    let reload = keep_certificates_fresh(shared.client_tls.clone());
    log::log(&Entry::Started { http, ops, workers: config.workers });

    while sys::wait_for_signal() == Signal::Reload {
        // Full: it is going to look anyway.
        let _ = reload.try_send(());
    }
    log::log(&Entry::Draining);
    shared.draining.store(true, Ordering::Relaxed);
    for worker in workers {
        // A worker that panicked outside its tasks has said so on stderr; the others still end in order.
        let _ = worker.join();
    }
    account.end_numbers();
    pipeline.stop(Instant::now() + SHIP_LIMIT);
    account.stop();
    stop_sync.store(true, Ordering::Relaxed);
    let _ = sync.join();
    log::log(&Entry::Stopped);
    Ok(())
}

/// Where the control planes are, and who this node is to those on other hosts.
fn control_address(config: &Config, node: NodeId) -> anyhow::Result<(Address, Option<Arc<Identity>>)> {
    let (mut all, identity): (Vec<Address>, _) = match &config.control {
        Control::Sockets(paths) => (paths.iter().cloned().map(Address::Unix).collect(), None),
        Control::Remote(addresses) => {
            let identity = Arc::new(Identity::open(&config.data_dir, addresses.clone(), node)?);
            let all = (0..addresses.len()).map(|at| Address::Tls(identity.clone(), at)).collect();
            (all, Some(identity))
        }
    };
    let address = if all.len() == 1 { all.remove(0) } else { Address::Several(Arc::new(Several::new(all))) };
    Ok((address, identity))
}

/// Gets this node its certificate for a control plane on another host.
pub fn enroll(data_dir: &Path, address: &str, token: &str) -> anyhow::Result<()> {
    sys::make_files_private();
    make_private(data_dir)?;
    let node = node_id(data_dir)?;
    identity::enroll(data_dir, address, node, token)?;
    println!("node {node} is enrolled");
    Ok(())
}

fn pipeline_config(config: &Config, control: &Address, node: NodeId, boot: BootId) -> PipelineConfig {
    PipelineConfig {
        workers: config.workers,
        slots_per_worker: u32::try_from(config.limits.exchanges_per_worker).unwrap_or(u32::MAX),
        sync: config.spool_sync,
        retention: config.spool_retention,
        ..PipelineConfig::new(
            config.data_dir.clone(),
            config.runtime_dir.clone(),
            control.clone(),
            node,
            boot,
        )
    }
}

/// A listener for each worker, all on one port. A plain bind comes first: a second instance on the port is an
/// error, not a silent share of the traffic.
fn bind_workers(address: SocketAddr, workers: u16) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |address: SocketAddr, share: bool| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let what = || format!("http.listen {address}");
    let probe =
        bind(address, false).and_then(|socket| socket.listen(1).map(|()| socket)).with_context(what)?;
    let address = TcpListener::from(probe).local_addr()?;
    (0..workers)
        .map(|_| {
            let socket = bind(address, true)?;
            sys::bound_unsent(socket.as_raw_fd(), UNSENT_BYTES_MAX)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect::<io::Result<_>>()
        .with_context(what)
}

fn start_workers(
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    pools: Vec<SlotPool>,
    counters: &[Arc<Counters>],
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let cores = sys::allowed_cores();
    let each = listeners.into_iter().zip(pools).zip(counters);
    let start =
        |(index, ((listener, pool), counters)): (usize, ((TcpListener, SlotPool), &Arc<Counters>))| {
            let (shared, counters, core) =
                (shared.clone(), counters.clone(), cores.get(index % cores.len().max(1)).copied());
            std::thread::Builder::new().name(format!("worker {index}")).spawn(move || {
                // A worker that can't be pinned still works.
                let _ = monoio::utils::bind_to_cpu_set(core);
                let worker = Worker::new(shared, u16::try_from(index).unwrap_or(u16::MAX), pool, counters);
                if let Err(refused) = worker::run(worker, listener) {
                    eprintln!("liutong-dataplane: worker {index}: {refused}");
                    sys::end_self();
                }
            })
        };
    Ok(each.enumerate().map(start).collect::<io::Result<_>>()?)
}

/// Looks the names of upstreams up again from time to time, on a thread of its own: a lookup blocks.
fn keep_looking_up(tables: Arc<Tables>) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK_UP_INTERVAL);
            let routes = tables.routes();
            routes.aliases.values().flat_map(|alias| &alias.upstreams).for_each(|u| u.target.look_up());
        }
    });
}

/// Reads the certificates again when they change, or when what is returned says so, on a thread of its own.
fn keep_certificates_fresh(tls: Option<Arc<ClientTls>>) -> Sender<()> {
    let (reload, now) = bounded(1);
    if let Some(tls) = tls {
        std::thread::spawn(move || tls.keep_fresh(&now, LOOK_INTERVAL));
    }
    reload
}

/// How long ago the tables were current. A time that lies ahead was noted by a clock that was set back since:
/// it says nothing, and tables of which nothing is known are as old as can be.
fn age_ms(now_ms: u64, current_at_ms: u64) -> u64 {
    if current_at_ms > now_ms + CLOCK_STEP_MS_MAX { u64::MAX } else { now_ms.saturating_sub(current_at_ms) }
}

/// The node's id, made on the first start.
fn node_id(data_dir: &Path) -> anyhow::Result<NodeId> {
    let path = data_dir.join("node-id");
    match fs::read_to_string(&path) {
        Ok(text) => NodeId::parse(text.trim()).with_context(|| {
            format!("{}: not 16 hex digits; restore it, or remove it with the spool", path.display())
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let spools = data_dir.join("spool");
            if has_segments(&spools).with_context(|| spools.display().to_string())? {
                // Under another id all of it would lie there for ever, neither shipped nor missed.
                bail!(
                    "{} is gone, and {} has usage of the node that it named: put the file back, or move the \
                     spool away, which is not shipped then",
                    path.display(),
                    spools.display()
                );
            }
            let node = NodeId(random()?);
            let new = path.with_extension("new");
            let mut file = File::create(&new)?;
            writeln!(file, "{node}")?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(data_dir)?.sync_all()?;
            Ok(node)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Whether a spool has a segment.
fn has_segments(spools: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(spools) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() && !list(&Os, &entry.path())?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn random() -> anyhow::Result<u64> {
    getrandom::u64().map_err(|error| anyhow::anyhow!("no random numbers: {error}"))
}

/// Makes a directory that only this user can read.
fn make_private(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_no_other_id_while_it_has_usage_of_the_one_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let node = node_id(dir.path()).unwrap();
        assert_eq!(node_id(dir.path()).unwrap(), node);
        let spool = dir.path().join("spool").join(BootId(1).to_string());
        fs::create_dir_all(&spool).unwrap();
        fs::write(dir.path().join("spool/start.lock"), "").unwrap();
        let file = dir.path().join("node-id");
        fs::remove_file(&file).unwrap();
        assert_ne!(node_id(dir.path()).unwrap(), node, "there is nothing to lose");

        fs::rename(&file, dir.path().join("away")).unwrap();
        fs::write(spool.join("0000000000000000.seg"), "").unwrap();
        let error = node_id(dir.path()).unwrap_err().to_string();
        assert!(error.contains("put the file back, or move the spool away"), "{error}");
        assert!(!file.exists());
        fs::rename(dir.path().join("away"), &file).unwrap();
        node_id(dir.path()).unwrap();
    }

    #[test]
    fn tables_noted_by_a_clock_that_was_set_back_are_of_no_known_age() {
        let hour = 60 * 60 * 1000;
        assert_eq!(age_ms(2 * hour, hour), hour);
        assert_eq!(age_ms(hour, hour + 1000), 0, "clocks are corrected by a little all the time");
        assert_eq!(age_ms(hour, 2 * hour), u64::MAX);
    }
}
