//! Frames over a stream: whole ones in, whole ones out, none longer than its reader allows.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use wire::codec::DecodeError;
use wire::frame::Frame;

const READ_BYTES: usize = 64 * 1024;

/// Why no frame came or went.
#[derive(Debug, Error)]
pub enum FramedError {
    /// The other side closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The system failed.
    #[error("reading or writing: {0}")]
    Io(#[from] io::Error),
    /// What came is no frame.
    #[error("not a frame: {0}")]
    Decode(#[from] DecodeError),
    /// A frame is longer than it may be at this point.
    #[error("a frame of {len} bytes, {max} is the most here")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
}

/// Both halves of a connection.
pub struct Framed {
    /// What comes in.
    pub reader: FrameReader,
    /// What goes out.
    pub writer: FrameWriter,
}

/// Reads frames.
pub struct FrameReader {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: Vec<u8>,
}

/// Writes frames.
pub struct FrameWriter {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    buffer: Vec<u8>,
}

impl Framed {
    /// Frames over `stream`.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self::over(Box::new(reader), Box::new(writer))
    }

    /// Frames over TLS.
    #[must_use]
    pub fn over_tls(stream: TlsStream<TcpStream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self::over(Box::new(reader), Box::new(writer))
    }

    fn over(reader: Box<dyn AsyncRead + Send + Unpin>, writer: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self {
            reader: FrameReader { stream: reader, buffer: Vec::new() },
            writer: FrameWriter { stream: writer, buffer: Vec::new() },
        }
    }

    /// Reads a frame of at most `max` bytes.
    pub async fn read(&mut self, max: usize) -> Result<Frame, FramedError> {
        self.reader.read(max).await
    }
}

impl FrameReader {
    /// Reads a frame of at most `max` bytes. What was read stays when the future is dropped.
    pub async fn read(&mut self, max: usize) -> Result<Frame, FramedError> {
        loop {
            if let Some(len) = Frame::len_of(&self.buffer)?
                && len > max
            {
                return Err(FramedError::TooLong { len, max });
            }
            if let Some((frame, used)) = Frame::decode(&self.buffer)? {
                self.buffer.drain(..used);
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Reads what there is into the buffer. What was read stays when the future is dropped.
    async fn fill(&mut self) -> Result<(), FramedError> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(FramedError::Closed),
            Ok(_) => Ok(()),
            Err(error) if is_close(&error) => Err(FramedError::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns once the other side has closed, reading ahead up to `max` bytes to notice it.
    pub async fn closed(&mut self, max: usize) -> FramedError {
        loop {
            if self.buffer.len() >= max {
                // It sends on, so it is there; whoever waits for this future has something else to wait for.
                std::future::pending::<()>().await;
            }
            if let Err(error) = self.fill().await {
                return error;
            }
        }
    }
}

impl FrameWriter {
    /// Writes a frame, and returns once the system has taken all of it.
    pub async fn write(&mut self, frame: &Frame) -> Result<(), FramedError> {
        self.buffer.clear();
        frame.encode(&mut self.buffer);
        let written = match self.stream.write_all(&self.buffer).await {
            // TLS may still hold some of it.
            Ok(()) => self.stream.flush().await,
            error => error,
        };
        match written {
            Ok(()) => Ok(()),
            Err(error) if is_close(&error) => Err(FramedError::Closed),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the other side is gone. Over TLS one that is killed says no goodbye; frames have their lengths, so
/// that nothing can be cut off unnoticed.
fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
