//! The socket that data planes connect to: one listener, two kinds of session.
//!
//! On one host it is a Unix socket that only our own user (and root) may open: its mode is 0600, and the
//! peer's user is checked besides. A node is enrolled when it first connects here.

/// Frames over a stream.
pub mod framed;
/// Batches of usage events in, acknowledgements out.
mod ship;
/// Snapshot, deltas and revocations out, confirmations in.
mod tables;

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::frame::{Frame, Hello, Role};

use self::framed::{Framed, FramedError};
use crate::ingest::Ingest;
use crate::publish::Hub;
use crate::registry::RegistryError;

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
}

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
        Ok(Self { inner, path: path.to_owned(), own_user: std::fs::metadata("/proc/self")?.uid() })
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
                    sessions.spawn(serve_one(stream, context.clone(), stop.clone()));
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

async fn serve_one(stream: UnixStream, context: Context, stop: CancellationToken) {
    let mut framed = Framed::new(stream);
    let hello = tokio::select! {
        () = stop.cancelled() => return,
        hello = tokio::time::timeout(HELLO_TIMEOUT, expect_hello(&mut framed)) => hello,
    };
    let hello = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return tracing::warn!(%error, "a connection was no data plane's"),
        Err(_) => return tracing::warn!("a connection said nothing"),
    };
    let (node, role) = (hello.node, hello.role);
    let session = async {
        context.hub.registry().see_node(node).await?;
        tracing::info!(%node, ?role, "data plane connected");
        match role {
            Role::Sync => tables::serve(framed, hello, &context.hub).await,
            Role::Ship => ship::serve(framed, hello, &context).await,
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
        Err(error) => tracing::warn!(%node, ?role, %error, "data plane disconnected"),
    }
    if let Err(error) = context.hub.registry().see_node(node).await {
        tracing::warn!(%node, %error, "when the data plane was last seen is not noted");
    }
}

async fn expect_hello(framed: &mut Framed) -> Result<Hello, SessionError> {
    match framed.read(HELLO_BYTES_MAX).await? {
        Frame::Hello(hello) => Ok(hello),
        _ => Err(SessionError::Unexpected("first frame, it must be hello")),
    }
}

#[cfg(test)]
mod tests;
