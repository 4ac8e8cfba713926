//! A session that keeps a data plane's tables up to date.
//!
//! A data plane that holds tables of this registry gets what it missed; any other gets a snapshot. Its queues
//! fill from before the first read on, so nothing falls between the snapshot and the deltas after it.
//! Revocations go ahead of whatever is being sent, also between the parts of a snapshot; as such a snapshot
//! was read before them, it ends with the keys that they named as gone.
//!
//! A data plane says nothing while it takes a snapshot in, however long that takes on a slow line: then the
//! parts that leave are its word.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TryRecvError;
use wire::frame::{Frame, HEADER_BYTES, Hello, PART_CHANGES};
use wire::id::{Generation, KeyDigest, NodeId};
use wire::table::Change;

use super::SessionError;
use super::framed::{FrameReader, FrameWriter, Framed};
use crate::publish::{Attached, Hub};
use crate::registry::tables::{Delta, Since, Snapshot};

/// How often a data plane is asked whether it is there.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a data plane may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(35);
/// Confirmations are short.
const FRAME_BYTES_MAX: usize = 4096;
/// A frame of digests of buried keys.
const BURIED_BYTES_MAX: usize = HEADER_BYTES + PART_CHANGES * 32;

pub(super) async fn serve(framed: Framed, hello: Hello, hub: &Hub) -> Result<(), SessionError> {
    let ours = hello.registry == hub.registry().id();
    let Framed { mut reader, mut writer } = framed;
    let registry = hub.registry();
    let welcome = super::welcome(registry).await?;
    writer.write(&welcome).await?;
    if !ours {
        bury(&mut reader, hello.node, hub).await?;
    }
    let ours = ours && !hub.is_distrusted(hello.node);
    let held = if ours { hello.generation } else { Generation(0) };
    // A generation that we never reached is not one that anybody can have applied.
    let known = held <= hub.registry().generation().await?;
    let attached = hub.attach(hello.node, if known { held } else { Generation(0) });
    let (session, closed) = (attached.session, attached.closed.clone());
    let taken = Taken::within(SILENCE_MAX);
    let sender = Sender { hub, writer, attached, held: ours.then_some(held), taken: &taken };
    let ended = tokio::select! {
        () = closed.cancelled() => Ok(()),
        ended = sender.run() => ended,
        ended = receive(&mut reader, session, (hub, &taken)) => ended,
    };
    hub.detach(session);
    ended
}

/// Revokes what a data plane has seen revoked and this registry does not know of: it was restored from a
/// backup that is older. Before the data plane gets anything of ours, so that no crash comes in between.
async fn bury(reader: &mut FrameReader, node: NodeId, hub: &Hub) -> Result<(), SessionError> {
    loop {
        let frame = tokio::time::timeout(SILENCE_MAX, reader.read(BURIED_BYTES_MAX)).await;
        match frame.map_err(|_| SessionError::Silent(SILENCE_MAX))?? {
            Frame::Buried(digests) if digests.is_empty() => return Ok(()),
            Frame::Buried(digests) => {
                let revoked = hub.registry().bury(&digests).await?;
                if !revoked.is_empty() {
                    let keys = revoked.len();
                    tracing::warn!(%node, keys, "keys that a backup had brought back are revoked again");
                }
            }
            _ => return Err(SessionError::Unexpected("frame before the end of what is buried")),
        }
    }
}

/// When the last part of a snapshot left.
struct Taken {
    last: Mutex<Option<Instant>>,
    /// How long a data plane may be silent, and a part under way.
    silence_max: Duration,
}

impl Taken {
    fn within(silence_max: Duration) -> Self {
        Self { last: Mutex::default(), silence_max }
    }

    fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < self.silence_max)
    }
}

async fn receive(
    reader: &mut FrameReader,
    session: u64,
    (hub, taken): (&Hub, &Taken),
) -> Result<(), SessionError> {
    loop {
        let frame = match tokio::time::timeout(taken.silence_max, reader.read(FRAME_BYTES_MAX)).await {
            Ok(frame) => frame?,
            Err(_) if taken.is_recent() => continue,
            Err(_) => return Err(SessionError::Silent(taken.silence_max)),
        };
        match frame {
            Frame::Applied { registry, generation, sum } if registry == hub.registry().id() => {
                hub.applied(session, generation, sum);
            }
            Frame::Revoked { revocation } => hub.revoked(session, revocation),
            // Tables of another registry say nothing about ours.
            Frame::Pong | Frame::Applied { .. } => hub.heard(session),
            _ => return Err(SessionError::Unexpected("frame on a sync connection")),
        }
    }
}

struct Sender<'h> {
    hub: &'h Hub,
    writer: FrameWriter,
    attached: Attached,
    /// The generation that the data plane will stand at once it has applied what was sent; none before a
    /// snapshot.
    held: Option<Generation>,
    taken: &'h Taken,
}

impl Sender<'_> {
    async fn run(mut self) -> Result<(), SessionError> {
        self.catch_up().await?;
        let mut pings = tokio::time::interval(PING_INTERVAL);
        loop {
            tokio::select! {
                biased;
                urgent = self.attached.urgent.recv() => match urgent {
                    Some(frame) => self.writer.write(&frame).await?,
                    None => return Ok(()),
                },
                // Ahead of the deltas, which may never run out: a data plane without pings takes itself for
                // cut off.
                _ = pings.tick() => self.ping().await?,
                delta = self.attached.deltas.recv() => match delta {
                    Some(delta) => self.delta(&delta).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// Says that all until now was sent: by a ping a data plane knows that its tables are current. So what
    /// the registry has and the queue has not yet goes before it. Where the registry does not answer there is
    /// no ping, and the data plane leaves for another control plane.
    async fn ping(&mut self) -> Result<(), SessionError> {
        self.catch_up().await?;
        Ok(self.writer.write(&Frame::Ping).await?)
    }

    /// Sends a queued delta, less what the data plane got by other ways.
    async fn delta(&mut self, delta: &Delta) -> Result<(), SessionError> {
        match self.held {
            Some(held) if delta.to <= held => Ok(()),
            Some(held) if delta.from <= held => {
                let frame = Frame::Delta { from: held, to: delta.to, changes: delta.changes.clone() };
                self.held = Some(delta.to);
                self.writer.write(&frame).await?;
                // Those behind the last one in the queue may have found no room in it.
                match self.attached.deltas.is_empty() && self.hub.published() > delta.to {
                    true => self.catch_up().await,
                    false => Ok(()),
                }
            }
            _ => self.catch_up().await,
        }
    }

    async fn catch_up(&mut self) -> Result<(), SessionError> {
        loop {
            let Some(held) = self.held else {
                self.snapshot().await?;
                continue;
            };
            match self.hub.registry().since(held).await? {
                Since::Current => return Ok(()),
                Since::Delta(delta) => {
                    self.urgent_first().await?;
                    self.held = Some(delta.to);
                    let (from, to) = (delta.from, delta.to);
                    self.writer.write(&Frame::Delta { from, to, changes: delta.changes }).await?;
                }
                Since::Unknown => self.held = None,
            }
        }
    }

    async fn snapshot(&mut self) -> Result<(), SessionError> {
        let mut snapshot = self.begin_snapshot().await?;
        let (registry, generation) = (self.hub.registry().id(), snapshot.generation());
        self.writer.write(&Frame::SnapshotBegin { registry, generation }).await?;
        let (mut changes, mut revoked) = (0u64, Vec::new());
        let mut next = snapshot.next_part().await?;
        while let Some(part) = next {
            revoked.extend(self.urgent_first().await?);
            changes += part.len() as u64;
            let frame = Frame::SnapshotPart(part);
            // The database reads on while the data plane takes what it has read.
            let (written, read) = tokio::join!(self.writer.write(&frame), snapshot.next_part());
            written?;
            self.taken.note();
            next = read?;
        }
        revoked.extend(self.urgent_first().await?);
        for part in revoked.chunks(PART_CHANGES) {
            changes += part.len() as u64;
            let part = part.iter().copied().map(Change::NoKey).collect();
            self.writer.write(&Frame::SnapshotPart(part)).await?;
        }
        self.writer.write(&Frame::SnapshotEnd { generation, changes }).await?;
        self.held = Some(generation);
        Ok(())
    }

    /// Waits for its turn to read a snapshot, and sends what is urgent meanwhile: the data plane may serve by
    /// older tables. A ping would tell it that these are current; that the two are there they say by a
    /// revocation of nothing, which is answered.
    async fn begin_snapshot(&mut self) -> Result<Snapshot, SessionError> {
        let begun = self.hub.registry().snapshot();
        tokio::pin!(begun);
        let mut words = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
        loop {
            let frame = tokio::select! {
                snapshot = &mut begun => return Ok(snapshot?),
                Some(frame) = self.attached.urgent.recv() => frame,
                _ = words.tick() => Frame::Revoke { revocation: 0, cut_streams: false, digests: Vec::new() },
            };
            self.writer.write(&frame).await?;
        }
    }

    /// Sends what goes ahead of everything else; returns the keys that it revokes.
    async fn urgent_first(&mut self) -> Result<Vec<KeyDigest>, SessionError> {
        let mut revoked = Vec::new();
        loop {
            match self.attached.urgent.try_recv() {
                Ok(frame) => {
                    self.writer.write(&frame).await?;
                    if let Frame::Revoke { digests, .. } = frame {
                        revoked.extend(digests);
                    }
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(revoked),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::UnixStream;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::registry::organization::NewOrganization;
    use crate::registry::{self, Registry};

    #[tokio::test]
    async fn what_found_no_room_behind_the_last_delta_of_the_queue_is_sent_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::open(registry::place(dir.path())).await.unwrap());
        let hub = Arc::new(Hub::new(registry.clone()).await.unwrap());
        let (publisher, stop) = (hub.clone(), CancellationToken::new());
        let stopping = stop.clone();
        let publishing = tokio::spawn(async move { publisher.run(stopping).await });
        let held = registry.generation().await.unwrap();
        let mut attached = hub.attach(NodeId(2), held);
        let (mut first, mut last) = (None, held);
        for name in ["one", "two"] {
            let new = NewOrganization { name: name.to_owned(), ..Default::default() };
            registry.create_organization(new).await.unwrap();
            let delta = attached.deltas.recv().await.unwrap();
            last = delta.to;
            first.get_or_insert(delta);
        }
        // The queue is empty, and had no room for the second.
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (writer, taken) = (Framed::new(ours).writer, Taken::within(SILENCE_MAX));
        let mut sender = Sender { hub: &hub, writer, attached, held: Some(held), taken: &taken };
        sender.delta(&first.unwrap()).await.unwrap();
        drop(sender);
        let (mut at, mut theirs) = (held, Framed::new(theirs));
        while let Ok(Frame::Delta { from, to, .. }) = theirs.read(FRAME_BYTES_MAX).await {
            assert_eq!(from, at);
            at = to;
        }
        assert_eq!(at, last);
        stop.cancel();
        publishing.await.unwrap();
    }

    #[tokio::test]
    async fn a_data_plane_is_not_silent_as_long_as_parts_of_a_snapshot_leave() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(registry::place(dir.path())).await.unwrap();
        let hub = Hub::new(registry.into()).await.unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut framed = Framed::new(ours);
        let taken = Taken::within(Duration::from_secs(1));
        let began = Instant::now();
        let parts = async {
            while began.elapsed() < Duration::from_secs(3) {
                taken.note();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = parts => {}
            ended = receive(&mut framed.reader, 1, (&hub, &taken)) => {
                assert!(matches!(ended, Err(SessionError::Silent(_))), "{ended:?}");
            }
        }
        assert!(began.elapsed() >= Duration::from_secs(3), "it was given up amid the snapshot");
    }
}
