//! ClickHouse for as long as a backup or a restore takes: the server that the configuration names, or the
//! embedded one, which is started where no control plane runs it.

use std::path::Path;
use std::time::Duration;

use super::BackupError;
use crate::clickhouse::Client;
use crate::clickhouse::engine::{self, EngineHandle, EngineOptions};
use crate::config::ClickHouse;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A ClickHouse that is there.
pub(super) struct Usage {
    pub(super) client: Client,
    engine: Option<EngineHandle>,
}

impl Usage {
    /// Reaches it; one that was started is stopped by `close`.
    pub(super) async fn open(config: &ClickHouse, data_dir: &Path) -> Result<Self, BackupError> {
        match config {
            ClickHouse::Server { url, user, password } => {
                let client = Client::new(url, user, password.reveal());
                client.ping(ANSWER_WITHIN).await?;
                Ok(Self { client, engine: None })
            }
            ClickHouse::Embedded { port } => {
                let dir = data_dir.join("clickhouse");
                if let Ok(endpoint) = engine::config::read(&dir, *port) {
                    let client = endpoint.client();
                    if client.ping(ANSWER_WITHIN).await.is_ok() {
                        return Ok(Self { client, engine: None });
                    }
                }
                let executable = std::env::current_exe()
                    .map_err(|source| BackupError::File { path: "/proc/self/exe".into(), source })?;
                // On any port: the configured one may be someone else's.
                let options = EngineOptions { port: 0, ..EngineOptions::new(executable, dir) };
                let engine = EngineHandle::start(&options).await?;
                Ok(Self { client: engine.endpoint().client(), engine: Some(engine) })
            }
        }
    }

    /// Lets it go; what was started ends in order.
    pub(super) async fn close(self) {
        if let Some(engine) = self.engine {
            // It has on its disk what it acknowledged, however it ends.
            let _ = engine.stop(STOP_WITHIN).await;
        }
    }
}
