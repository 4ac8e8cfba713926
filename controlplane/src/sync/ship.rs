//! A session that takes batches of usage events: each is stored, then acknowledged.
//!
//! A few are stored at once, and acknowledged in whatever order they are done. A batch that ClickHouse does
//! not take is tried until it does, or until the data plane has gone; it will send the batch again.

use tokio::task::JoinSet;
use wire::frame::{Frame, HEADER_BYTES, Hello, PAYLOAD_BYTES_MAX};

use super::framed::Framed;
use super::{Context, SessionError};
use crate::ingest::Batch;

const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// How many batches of one data plane are stored at once: while ClickHouse writes one, the next is made
/// ready.
const BATCHES_MAX: usize = 2;

pub(super) async fn serve(framed: Framed, hello: Hello, context: &Context) -> Result<(), SessionError> {
    let Framed { mut reader, mut writer } = framed;
    let registry = context.hub.registry();
    let welcome = super::welcome(registry).await?;
    writer.write(&welcome).await?;
    // Dropped with the session: what is not acknowledged comes again.
    let mut storing = JoinSet::new();
    loop {
        let is_full = storing.len() >= BATCHES_MAX;
        let next = async {
            // Reads ahead for as long as there is no room, to notice that the data plane has gone.
            if is_full {
                Err(reader.closed(FRAME_BYTES_MAX).await)
            } else {
                reader.read(FRAME_BYTES_MAX).await
            }
        };
        let frame = tokio::select! {
            Some(stored) = storing.join_next() => {
                let stored: Frame = stored.map_err(|_| SessionError::Unexpected("end of storing a batch"))?;
                writer.write(&stored).await?;
                continue;
            }
            frame = next => frame?,
        };
        match frame {
            Frame::Batch { spool, batch, resent, events } => {
                let ingest = context.ingest.clone();
                storing.spawn(async move {
                    let sent = Batch { node: hello.node, spool, batch, resent, events: &events };
                    Frame::Stored { spool, batch, refused: ingest.store(&sent).await }
                });
            }
            Frame::Ping => writer.write(&Frame::Pong).await?,
            Frame::Pong => {}
            _ => return Err(SessionError::Unexpected("frame on a ship connection")),
        }
    }
}
