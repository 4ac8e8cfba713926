//! Where data planes connect: three kinds of session, over a Unix socket or TLS.
//!
//! On one host it is a Unix socket that only our own user (and root) may open: its mode is 0600, and the
//! peer's user is checked besides. A node is enrolled when it first connects there. From other hosts it is
//! TLS (`tls`), where a node shows the certificate that it got with a token. There is no listener without
//! either.

/// Certificates for nodes on other hosts.
mod enroll;
/// What data planes say of their usage events, and what ClickHouse lost.
mod account;
/// Frames over a stream.
pub mod framed;
/// Batches of usage events in, acknowledgements out.
mod ship;
/// Snapshot, deltas and revocations out, confirmations in.
mod tables;
/// The listener for other hosts.
pub mod tls;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::frame::{Frame, Hello, Role};
use wire::id::NodeId;

use self::framed::{Framed, FramedError};
use crate::accounts::Accounts;
use crate::authority::{Authority, AuthorityError};
use crate::ingest::Ingest;
use crate::publish::Hub;
use crate::registry::{Registry, RegistryError};

const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest first frame: a `Hello` and what a later version may add.
const HELLO_BYTES_MAX: usize = 1024;
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// Reading or writing failed, or what came was no frame.
    #[error(transparent)]
    Framed(#[from] FramedError),
    /// The registry could not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something other than the protocol allows.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// It may not come in.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// No certificate could be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Nothing came for too long.
    #[error("no frame for {0:?}")]
    Silent(Duration),
}

/// What sessions work with.
#[derive(Clone)]
pub struct Context {
    /// Publishes the registry.
    pub hub: Arc<Hub>,
    /// Takes the batches.
    pub ingest: Arc<Ingest>,
    /// Takes the reports.
    pub accounts: Arc<Accounts>,
}

/// Who is at the other end, as far as the transport knows.
enum Peer {
    /// A process of our own user on this host.
    Local,
    /// Whoever has the key of this certificate, which is one of ours.
    Certified(CertificateDer<'static>),
    /// Anybody.
    Unknown,
}

/// Why a removed node is refused.
const REMOVED: &str = "the node was removed; a token of `liutong node enroll` takes it back";

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    path: PathBuf,
    own_user: u32,
}

impl Listener {
    /// Binds the socket; a file that a dead process left behind is replaced, one that is served is an error.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another control plane serves this socket"));
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // Under another name until its mode is right: between bind and chmod anyone could open it.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        let inner = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, path)?;
        Ok(Self { inner, path: path.to_owned(), own_user: rustix::process::geteuid().as_raw() })
    }

    /// Serves data planes until it is told to stop, and lets the sessions end.
    pub async fn serve(self, context: Context, stop: CancellationToken) {
        let sessions = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.inner.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if self.is_ours(&stream) => {
                    let framed = Framed::new(stream);
                    sessions.spawn(serve_one(framed, Peer::Local, context.clone(), stop.clone()));
                }
                Ok(_) => tracing::warn!("a process of another user was refused on the sync socket"),
                Err(error) => {
                    tracing::error!(%error, "accepting a data plane failed");
                    tokio::time::sleep(ACCEPT_RETRY_AFTER).await;
                }
            }
        }
        let _ = std::fs::remove_file(&self.path);
        sessions.close();
        sessions.wait().await;
    }

    fn is_ours(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.own_user || peer.uid() == 0)
    }
}

async fn serve_one(mut framed: Framed, peer: Peer, context: Context, stop: CancellationToken) {
    let first = tokio::select! {
        () = stop.cancelled() => return,
        first = tokio::time::timeout(HELLO_TIMEOUT, framed.read(HELLO_BYTES_MAX)) => first,
    };
    match first {
        Ok(Ok(Frame::Hello(hello))) => serve_node(framed, &peer, hello, &context, stop).await,
        Ok(Ok(Frame::Enroll(enroll))) => {
            let node = enroll.node;
            match enroll::serve(&mut framed, &enroll, &peer, &context.hub).await {
                Ok(()) => {
                    tracing::info!(%node, renewed = enroll.token.is_empty(), "a node got a certificate")
                }
                Err(error) => tracing::warn!(%node, %error, "a node got no certificate"),
            }
        }
        Ok(Ok(_)) => tracing::warn!("a connection began with another frame than hello"),
        Ok(Err(error)) => tracing::warn!(%error, "a connection was no data plane's"),
        Err(_) => tracing::warn!("a connection said nothing"),
    }
}

/// Serves a node's connection, once it may come in.
async fn serve_node(
    mut framed: Framed,
    peer: &Peer,
    hello: Hello,
    context: &Context,
    stop: CancellationToken,
) {
    let (node, role) = (hello.node, hello.role);
    let session = async {
        // From before the check: a removal after it is seen.
        let mut changed = context.hub.nodes_changed();
        if let Err(error) = admit(&context.hub, peer, node).await {
            return refuse(&mut framed, error).await;
        }
        tracing::info!(%node, ?role, "data plane connected");
        let served = async {
            match role {
                Role::Sync => tables::serve(framed, hello, &context.hub).await,
                Role::Ship => ship::serve(framed, hello, context).await,
                Role::Account => account::serve(framed, hello, context).await,
            }
        };
        tokio::select! {
            ended = removal(&context.hub, peer, node, &mut changed) => ended,
            ended = served => ended,
        }
    };
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = session => ended,
    };
    match ended {
        Ok(()) | Err(SessionError::Framed(FramedError::Closed)) => {
            tracing::info!(%node, ?role, "data plane disconnected");
        }
        Err(error @ SessionError::Refused(_)) => {
            return tracing::warn!(%node, ?role, %error, "data plane refused");
        }
        Err(error) => tracing::warn!(%node, ?role, %error, "data plane disconnected"),
    }
    if let Err(error) = context.hub.registry().see_node(node).await {
        tracing::warn!(%node, %error, "when the data plane was last seen is not noted");
    }
}

/// Lets a node in that is who it says it is and was not removed.
async fn admit(hub: &Hub, peer: &Peer, node: NodeId) -> Result<(), SessionError> {
    check_identity(hub, peer, node).await?;
    if hub.registry().see_node(node).await? { Ok(()) } else { Err(SessionError::Refused(REMOVED)) }
}

/// Whether the peer may speak for a node.
async fn check_identity(hub: &Hub, peer: &Peer, node: NodeId) -> Result<(), SessionError> {
    match peer {
        Peer::Local => Ok(()),
        Peer::Unknown => Err(SessionError::Refused("no certificate; enrol the node first")),
        Peer::Certified(certificate) => match hub.registry().enrolment(node).await? {
            Some(enrolment) if Authority::is_for(certificate, node, enrolment) => Ok(()),
            Some(_) => {
                Err(SessionError::Refused("the certificate is another node's, or an older enrolment's"))
            }
            None => Err(SessionError::Refused(REMOVED)),
        },
    }
}

/// What every session begins with.
async fn welcome(registry: &Registry) -> Result<Frame, SessionError> {
    let generation = registry.generation().await?;
    Ok(Frame::Welcome { registry: registry.id(), generation, takes_key_uses: true })
}

/// Tells the other side why, as far as it listens.
async fn refuse(framed: &mut Framed, error: SessionError) -> Result<(), SessionError> {
    if let SessionError::Refused(why) = &error {
        let frame = Frame::Refused { why: (*why).to_owned() };
        let _ = tokio::time::timeout(HELLO_TIMEOUT, framed.writer.write(&frame)).await;
    }
    Err(error)
}

/// Returns once a node was removed, or enrolled anew by someone else; its sessions end then.
async fn removal(
    hub: &Hub,
    peer: &Peer,
    node: NodeId,
    changed: &mut watch::Receiver<()>,
) -> Result<(), SessionError> {
    loop {
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
        check_identity(hub, peer, node).await?;
        if !hub.registry().is_enrolled(node).await? {
            return Err(SessionError::Refused(REMOVED));
        }
    }
}

#[cfg(test)]
mod tests;
