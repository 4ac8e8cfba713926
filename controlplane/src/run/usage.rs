//! ClickHouse: a server that is reached, or one that is started. Either way its tables are brought up to date
//! before anything uses it, and what fails is tried again for as long as the control plane runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clickhouse::client::{Client, Life};
use crate::clickhouse::engine::{EngineHandle, EngineOptions};
use crate::clickhouse::rollup::{Rollup, RollupOptions};
use crate::config::{ClickHouse, Config};
use crate::ingest::store::Connection;

const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
const ENGINE_STOP_MAX: Duration = Duration::from_secs(20);
/// An engine that ran this long was well; its next start waits for nothing.
const ENGINE_WELL_AFTER: Duration = Duration::from_secs(60);

/// How often the server is asked how long it has been up.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

type Connections = watch::Sender<Option<Connection>>;

/// Keeps ClickHouse until it is told to stop.
pub(super) async fn run(config: Config, connections: Connections, stop: CancellationToken) {
    match &config.clickhouse {
        ClickHouse::Server { url, user, password } => {
            let client = Client::new(url, user, password.reveal());
            serve(client, config.raw_days, &connections, &stop).await;
        }
        ClickHouse::Embedded { port } => {
            embedded(&config.data_dir, *port, config.raw_days, &connections, &stop).await;
        }
    }
}

/// Brings the tables up to date, lets the connection be used, and rolls up until it is told to stop.
async fn serve(client: Client, raw_days: u32, connections: &Connections, stop: &CancellationToken) {
    let mut pause = RETRY_MIN;
    loop {
        let migrated = tokio::select! {
            () = stop.cancelled() => return,
            migrated = client.migrate(raw_days) => migrated,
        };
        match migrated {
            Ok(files) => break tracing::info!(files, "clickhouse ready"),
            Err(error) => tracing::warn!(%error, "clickhouse is not ready, trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
        }
    }
    let rollup = Arc::new(Rollup::new(client.clone(), RollupOptions::default()));
    let connection = Connection { client, rollup: rollup.clone() };
    connections.send_replace(Some(connection.clone()));
    tokio::join!(rollup.run(stop.clone()), notice_restarts(&connection, raw_days, connections, stop));
}

/// Looks whether the server was started again, or is another one behind the same name. It may have lost what
/// it acknowledged, or all: its tables are brought up to date, and everybody who uses it hears of it as of a
/// new one.
async fn notice_restarts(
    connection: &Connection,
    raw_days: u32,
    connections: &Connections,
    stop: &CancellationToken,
) {
    let mut known = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let Ok(life) = connection.client.life().await else { continue };
        let same = known.is_none_or(|known: Life| known.is_continued_by(life));
        if same && life.has_tables {
            known = Some(life);
            continue;
        }
        // Tried again at the next look.
        match connection.client.migrate(raw_days).await {
            Ok(files) => {
                tracing::warn!(
                    files,
                    "clickhouse was started again or replaced; data planes are asked what it lacks"
                );
                connections.send_replace(Some(connection.clone()));
                known = Some(Life { has_tables: true, ..life });
            }
            Err(error) => tracing::warn!(%error, "clickhouse is back, and its tables can't be made"),
        }
    }
}

/// Starts the engine, and starts it again whenever it has ended.
async fn embedded(
    data_dir: &Path,
    port: u16,
    raw_days: u32,
    connections: &Connections,
    stop: &CancellationToken,
) {
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return tracing::error!(%error, "the engine can't be started: where is this program?"),
    };
    let mut options = EngineOptions::new(executable, data_dir.join("clickhouse"));
    options.port = port;
    let mut pause = RETRY_MIN;
    loop {
        let begun = tokio::time::Instant::now();
        let started = tokio::select! {
            () = stop.cancelled() => return,
            started = EngineHandle::start(&options) => started,
        };
        match started {
            Ok(engine) => {
                if engine_life(engine, raw_days, connections, stop).await {
                    return;
                }
            }
            Err(error) => tracing::error!(%error, "the clickhouse engine did not start"),
        }
        if begun.elapsed() > ENGINE_WELL_AFTER {
            pause = RETRY_MIN;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
        }
    }
}

/// One life of the engine; returns whether it ended because it was to stop.
async fn engine_life(
    mut engine: EngineHandle,
    raw_days: u32,
    connections: &Connections,
    stop: &CancellationToken,
) -> bool {
    tracing::info!(pid = engine.pid(), url = engine.endpoint().url, "clickhouse engine started");
    let client = engine.endpoint().client();
    let life = stop.child_token();
    let served = serve(client, raw_days, connections, &life);
    tokio::pin!(served);
    let ended = tokio::select! {
        () = &mut served => None,
        ended = engine.wait() => Some(ended),
    };
    connections.send_replace(None);
    match ended {
        Some(ended) => {
            life.cancel();
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::error!(status, "the clickhouse engine ended, starting it again");
            false
        }
        None => {
            if let Err(error) = engine.stop(ENGINE_STOP_MAX).await {
                tracing::warn!(%error, "how the clickhouse engine ended is not known");
            }
            true
        }
    }
}
