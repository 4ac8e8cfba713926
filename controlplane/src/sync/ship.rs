//! A session that takes batches of usage events: each is stored, then acknowledged.
//!
//! Batches are stored one after the other. A batch that ClickHouse does not take is tried until it does, or
//! until the data plane has gone; it will send the batch again.

use wire::frame::{Frame, HEADER_BYTES, Hello, PAYLOAD_BYTES_MAX};

use super::framed::Framed;
use super::{Context, SessionError};
use crate::ingest::Batch;

const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

pub(super) async fn serve(framed: Framed, hello: Hello, context: &Context) -> Result<(), SessionError> {
    let Framed { mut reader, mut writer } = framed;
    let registry = context.hub.registry();
    let welcome = Frame::Welcome { registry: registry.id(), generation: registry.generation().await? };
    writer.write(&welcome).await?;
    loop {
        let (spool, batch, resent, events) = match reader.read(FRAME_BYTES_MAX).await? {
            Frame::Batch { spool, batch, resent, events } => (spool, batch, resent, events),
            Frame::Ping => {
                writer.write(&Frame::Pong).await?;
                continue;
            }
            Frame::Pong => continue,
            _ => return Err(SessionError::Unexpected("frame on a ship connection")),
        };
        let sent = Batch { node: hello.node, spool, batch, resent, events: &events };
        let refused = tokio::select! {
            refused = context.ingest.store(&sent) => refused,
            gone = reader.closed(FRAME_BYTES_MAX) => return Err(gone.into()),
        };
        writer.write(&Frame::Stored { spool, batch, refused }).await?;
    }
}
