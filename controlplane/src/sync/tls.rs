//! The listener for data planes on other hosts: TLS 1.3, and certificates of the built-in authority.
//!
//! Plain connections are not served here: their first bytes are no handshake. Who shows no certificate may do
//! one thing, ask for one with a token; who shows one of another authority gets no further than the
//! handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::framed::Framed;
use super::{ACCEPT_RETRY_AFTER, Context, Peer, serve_one};
use crate::authority::Authority;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections there may be that have not shown a certificate yet.
const UNKNOWN_MAX: usize = 256;

/// A bound listener.
#[derive(Debug)]
pub struct TlsListener {
    inner: TcpListener,
    authority: Arc<Authority>,
}

impl TlsListener {
    /// Binds it.
    pub async fn bind(address: SocketAddr, authority: Arc<Authority>) -> io::Result<Self> {
        Ok(Self { inner: TcpListener::bind(address).await?, authority })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Serves data planes until it is told to stop, and lets the sessions end.
    pub async fn serve(self, context: Context, stop: CancellationToken) {
        let sessions = TaskTracker::new();
        let unknown = Arc::new(Semaphore::new(UNKNOWN_MAX));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.inner.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(%error, "accepting a data plane failed");
                    tokio::time::sleep(ACCEPT_RETRY_AFTER).await;
                    continue;
                }
            };
            // Beyond the limit a connection is closed at once; a data plane tries again soon.
            let Ok(place) = unknown.clone().try_acquire_owned() else { continue };
            let (authority, context, stop) = (self.authority.clone(), context.clone(), stop.clone());
            sessions.spawn(async move {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(stream, &authority)).await {
                    Ok(Ok((framed, peer @ Peer::Certified(_)))) => {
                        drop(place);
                        serve_one(framed, peer, context, stop).await;
                    }
                    // It keeps its place: it has one frame to send and is gone.
                    Ok(Ok((framed, peer))) => serve_one(framed, peer, context, stop).await,
                    Ok(Err(error)) => tracing::warn!(%error, "a tls handshake with a data plane failed"),
                    Err(_) => tracing::warn!("a tls handshake with a data plane took too long"),
                }
            });
        }
        sessions.close();
        sessions.wait().await;
    }
}

async fn shake_hands(stream: TcpStream, authority: &Authority) -> io::Result<(Framed, Peer)> {
    stream.set_nodelay(true)?;
    let config = authority.server_config().map_err(io::Error::other)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = certificate.map_or(Peer::Unknown, |one| Peer::Certified(one.clone().into_owned()));
    Ok((Framed::over_tls(stream), peer))
}
