//! A session in which a data plane reports where its usage events are, and which keys it refused.
//!
//! What ended is written into ClickHouse and noted; of what runs the numbers are written down now and then,
//! so that they are known even if the data plane's disk is not. When ClickHouse is there again (or for the
//! first time) the data plane is asked which acknowledged batches it still has, and sends again those that
//! ClickHouse does not: an unclean restart may lose what was acknowledged.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use wire::frame::{Frame, HEADER_BYTES, Hello, PAYLOAD_BYTES_MAX};
use wire::id::{BatchSeq, BootId};
use wire::key_use::KeyUse;
use wire::report::{Ended, Numbers, Report};

use super::framed::{FrameWriter, Framed};
use super::{Context, SessionError};
use crate::ingest::Batch;
use crate::ingest::key_uses::{self, KeyUsesError};
use crate::ingest::store::StoreError;

const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// How often the numbers of a running process are written down.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// A data plane reports every 10 s at the least. Whoever is silent for longer is gone, though nothing was
/// heard of the end of its connection.
const SILENCE_MAX: Duration = Duration::from_secs(35);
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// One insert a second is what a table takes well, of all data planes together.
const INSERT_INTERVAL_MS: u32 = 1000;

pub(super) async fn serve(framed: Framed, hello: Hello, context: &Context) -> Result<(), SessionError> {
    let Framed { mut reader, mut writer } = framed;
    let registry = context.hub.registry();
    let welcome = super::welcome(registry).await?;
    writer.write(&welcome).await?;
    let attached = context.accounts.attach(hello.node);
    let mut connected = context.accounts.connected();
    connected.mark_changed();
    let mut store = context.ingest.usage().clone();
    if store.is_ready() {
        writer.write(&Frame::Recall).await?;
    }
    let mut written = Written::default();
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE_MAX, reader.read(FRAME_BYTES_MAX)) => match frame {
                Ok(frame) => frame?,
                Err(_) => return Err(SessionError::Silent(SILENCE_MAX)),
            },
            () = store.changed() => {
                if store.is_ready() {
                    writer.write(&Frame::Recall).await?;
                }
                continue;
            }
            changed = connected.changed() => {
                if changed.is_ok() {
                    let interval_ms = (*connected.borrow_and_update()).max(1) * INSERT_INTERVAL_MS;
                    writer.write(&Frame::Pace { interval_ms }).await?;
                }
                continue;
            }
        };
        match frame {
            Frame::Report(report) => {
                written.keep(&mut writer, hello, context, &report).await?;
                attached.say(report);
            }
            Frame::Kept { spool, batches } => {
                let missing = tokio::select! {
                    missing = missing(context, spool, &batches) => missing,
                    gone = reader.closed(FRAME_BYTES_MAX) => return Err(gone.into()),
                };
                if let Some(missing) = missing
                    && !missing.is_empty()
                {
                    tracing::warn!(node = %hello.node, %spool, batches = missing.len(),
                        "clickhouse lost batches that it had acknowledged; the data plane sends them again");
                    writer.write(&Frame::Resend { spool, batches: missing }).await?;
                }
            }
            Frame::Batch { spool, batch, events, .. } => {
                let sent = Batch { node: hello.node, spool, batch, resent: true, events: &events };
                let refused = tokio::select! {
                    refused = context.ingest.store(&sent) => refused,
                    gone = reader.closed(FRAME_BYTES_MAX) => return Err(gone.into()),
                };
                writer.write(&Frame::Stored { spool, batch, refused }).await?;
            }
            Frame::KeyUses(uses) => {
                if is_kept(context, hello, &uses).await {
                    writer.write(&Frame::KeyUsesKept).await?;
                }
            }
            Frame::Ping | Frame::Pong => {}
            _ => return Err(SessionError::Unexpected("frame on an account connection")),
        }
    }
}

/// Keeps what is told of refused keys. What is not kept is told again.
async fn is_kept(context: &Context, hello: Hello, uses: &[KeyUse]) -> bool {
    let (registry, store) = (context.hub.registry(), context.ingest.usage());
    match key_uses::keep(registry, store, (hello.node, hello.boot), uses).await {
        Ok(()) => true,
        Err(KeyUsesError::Store(StoreError::Away)) => false,
        Err(error) => {
            tracing::warn!(node = %hello.node, %error, "uses of refused keys are not kept yet");
            false
        }
    }
}

/// What ClickHouse does not have; `None` where it went away, which will bring another question.
async fn missing(context: &Context, spool: BootId, batches: &[BatchSeq]) -> Option<Vec<BatchSeq>> {
    loop {
        match context.ingest.usage().missing(spool, batches).await {
            Ok(missing) => return Some(missing),
            Err(StoreError::Away) => return None,
            Err(error) => tracing::warn!(%error, "it is not known yet whether clickhouse lost batches"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

#[derive(Default)]
struct Written {
    at: Option<Instant>,
    numbers: Vec<Numbers>,
    noted: HashSet<BootId>,
}

impl Written {
    /// Writes down how far numbers have come.
    async fn keep(
        &mut self,
        writer: &mut FrameWriter,
        hello: Hello,
        context: &Context,
        report: &Report,
    ) -> Result<(), SessionError> {
        let is_due = self.at.is_none_or(|at| at.elapsed() >= WRITE_INTERVAL) && self.numbers != report.boots;
        let is_new =
            report.boots.iter().any(|one| one.ended != Ended::Runs && !self.noted.contains(&one.boot));
        if !is_due && !is_new {
            return Ok(());
        }
        match context.ingest.usage().record_boots(hello.node, report).await {
            Ok(()) => (self.at, self.numbers) = (Some(Instant::now()), report.boots.clone()),
            // Once ClickHouse is there again.
            Err(error) => {
                tracing::debug!(%error, "the numbers of a data plane are not written down yet");
                return Ok(());
            }
        }
        for ended in report.boots.iter().filter(|one| one.ended != Ended::Runs) {
            self.noted.insert(ended.boot);
            writer.write(&Frame::Noted { boot: ended.boot }).await?;
        }
        Ok(())
    }
}
