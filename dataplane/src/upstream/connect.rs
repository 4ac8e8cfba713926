//! Connecting to an upstream, with the limits of its deployment.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::net::Stream;
use crate::runtime::{self, TcpStream};
use crate::tls::TlsStream;
use crate::upstream::target::Upstream;
use crate::upstream::tls::Connector;

/// Why there is no connection. Nothing of the request was sent, so another deployment may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host's name has never been resolved.
    #[error("its host name can't be resolved")]
    NoAddress,
    /// It took too long.
    #[error("connecting took longer than its limit")]
    Timeout,
    /// The system's error.
    #[error("connecting failed: {0}")]
    Io(#[from] io::Error),
}

/// Connects to `upstream`: to each of its addresses in turn, within one limit for all. Of what is left of it
/// each has its share, so that one that does not answer leaves some to the others.
pub async fn connect(upstream: &Upstream, tls: &Connector) -> Result<Stream, ConnectError> {
    let limit = Duration::from_millis(upstream.spec.connect_timeout_ms.max(1).into());
    let (began, mut failed) = (Instant::now(), ConnectError::NoAddress);
    let addresses = upstream.target.addresses.load_full();
    for (address, others) in addresses.iter().zip((0..addresses.len()).rev()) {
        let left = limit.saturating_sub(began.elapsed());
        let share = left / u32::try_from(others + 1).unwrap_or(u32::MAX);
        match runtime::timeout(share, connect_to(*address, upstream, tls)).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failed = error.into(),
            None => failed = ConnectError::Timeout,
        }
    }
    Err(failed)
}

async fn connect_to(address: SocketAddr, upstream: &Upstream, tls: &Connector) -> io::Result<Stream> {
    let tcp = TcpStream::connect_addr(address).await?;
    // Without it the kernel holds back what follows a small write (Nagle), 40 ms at a time.
    tcp.set_nodelay(true)?;
    if !upstream.target.tls {
        return Ok(Stream::Plain(tcp));
    }
    let (config, buffers) = (tls.config.clone(), tls.buffers.clone());
    let stream = TlsStream::connect(tcp, config, &upstream.target.host, buffers).await?;
    Ok(Stream::Tls(Box::new(stream)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use socket2::{Domain, Socket, Type};
    use wire::id::DeploymentId;
    use wire::table::{Deployment, Dialect, OnDisconnect};

    use super::*;
    use crate::net::BufferPool;
    use crate::upstream::tls::client_config;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn connect_among(scheme: &str, addresses: Vec<SocketAddr>) -> Result<Stream, ConnectError> {
        let spec = Deployment {
            id: DeploymentId(1),
            name: String::new(),
            base_url: format!("{scheme}://several.example/v1"),
            dialect: Dialect::Openai,
            upstream_model: String::new(),
            credential: String::new(),
            api_version: String::new(),
            weight: 1,
            on_disconnect: OnDisconnect::Cancel,
            replay_safe: false,
            connect_timeout_ms: 2_000,
            first_byte_timeout_ms: 1,
            idle_timeout_ms: 1,
        };
        let upstream = Upstream::new(spec, None, None).unwrap();
        upstream.target.addresses.store(Arc::new(addresses));
        let buffers = Rc::new(BufferPool::new(16 * 1024, 1));
        let connector = Connector { config: client_config(None).unwrap(), buffers };
        runtime::block_on(connect(&upstream, &connector)).unwrap()
    }

    #[test]
    fn an_address_that_does_not_answer_leaves_time_for_the_next_one() {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&silent, Duration::from_millis(200)).ok();
        // Once no more may wait, nobody is answered.
        let _waiting: Vec<_> = std::iter::from_fn(connect).collect();
        let (_listener, good) = listener();
        let began = Instant::now();
        assert!(connect_among("http", vec![silent, good]).is_ok());
        assert!(began.elapsed() < Duration::from_millis(1_900), "{:?}", began.elapsed());
        assert!(matches!(connect_among("http", vec![good, silent]), Ok(Stream::Plain(_))));
        assert!(matches!(connect_among("http", vec![silent, silent]), Err(ConnectError::Timeout)));
        assert!(matches!(connect_among("http", vec![]), Err(ConnectError::NoAddress)));
    }

    #[test]
    fn an_address_that_fails_its_handshake_is_not_the_last_one_tried() {
        let ((listener, address), connections) = (listener(), Arc::new(AtomicUsize::new(0)));
        let counted = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        assert!(matches!(connect_among("https", vec![address, address]), Err(ConnectError::Io(_))));
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }
}
