//! An HTTP/2 stream as a connection that carries one exchange: what is read from it is an HTTP/1.1 request,
//! what is written to it an HTTP/1.1 answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request};

use crate::client::Client;
use crate::http::head_write::{CHUNK_END, CHUNK_SIZE_LINE_BYTES_MAX, LAST_CHUNK, chunk_size_line};
use crate::http2::answer::{self, AnswerBody};
use crate::http2::request::append_head;
use crate::http2::shared::{OpenStream, Shared};
use crate::net::{Done, Stream};
use crate::serve;
use crate::watch::Departure;

/// What a chunk takes beside its data.
const CHUNK_FRAMING_BYTES: usize = CHUNK_SIZE_LINE_BYTES_MAX + CHUNK_END.len();

/// How far the answer is.
enum Answer {
    Due(SendResponse<Bytes>),
    Begun(SendStream<Bytes>),
    /// END_STREAM was sent.
    Whole,
    /// The client has reset the stream, or its connection is gone.
    Unwanted,
}

/// A stream.
pub struct Http2Stream {
    head: Vec<u8>,
    head_read: usize,
    body: RecvStream,
    piece: Bytes,
    /// Until the last chunk was read.
    chunked: bool,
    to_head: bool,
    answer: Rc<RefCell<Answer>>,
    answer_body: Option<AnswerBody>,
    shared: Rc<Shared>,
}

/// Serves the one exchange of a stream.
pub async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Rc<Shared>,
    open: OpenStream,
) {
    let (parts, body) = request.into_parts();
    let mut head = Vec::with_capacity(1024);
    let Ok(chunked) = append_head(&mut head, &parts, !body.is_end_stream()) else {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    };
    shared.add_payload(head.len());
    let answer = Rc::new(RefCell::new(Answer::Due(respond)));
    let worker = shared.worker.clone();
    let stream = Http2Stream {
        head,
        head_read: 0,
        body,
        piece: Bytes::new(),
        chunked,
        to_head: parts.method == Method::HEAD,
        answer: answer.clone(),
        answer_body: None,
        shared,
    };
    let mut client = Client::new(Stream::Http2(Box::new(stream)), worker);
    let departure = client.watch.departure();
    let serving = Box::pin(serve::connection(&mut client));
    Wanted { serving, answer, departure, open }.await;
}

/// Serves for as long as the client wants the answer: where a departure ends the wait for an upstream, a
/// reset of the stream is one.
struct Wanted<F> {
    serving: Pin<Box<F>>,
    answer: Rc<RefCell<Answer>>,
    departure: Departure,
    open: OpenStream,
}

impl<F: Future<Output = ()>> Future for Wanted<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.serving.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            if self.answer.borrow_mut().poll_wanted(context) {
                return Poll::Pending;
            }
            self.open.cancelled();
            // Once more where that ends what it waits for.
            if !self.departure.tell() {
                return Poll::Pending;
            }
        }
    }
}

impl Answer {
    /// Whether the client still wants it; the task is woken when that changes.
    fn poll_wanted(&mut self, context: &mut Context<'_>) -> bool {
        let reset = match self {
            Self::Due(respond) => respond.poll_reset(context).is_ready(),
            Self::Begun(stream) => stream.poll_reset(context).is_ready(),
            Self::Whole => return true,
            Self::Unwanted => return false,
        };
        if reset {
            *self = Self::Unwanted;
        }
        !reset
    }

    /// Takes how many of `wanted` bytes may be sent now.
    fn poll_capacity(&mut self, wanted: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self::Begun(stream) = self else { return Poll::Ready(Err(gone())) };
        stream.reserve_capacity(wanted);
        match stream.capacity() {
            0 => match stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(capacity))) => Poll::Ready(Ok(capacity.min(wanted))),
                Poll::Ready(_) => Poll::Ready(Err(gone())),
                Poll::Pending => Poll::Pending,
            },
            capacity => Poll::Ready(Ok(capacity.min(wanted))),
        }
    }

    fn send(&mut self, data: Bytes, last: bool) -> io::Result<()> {
        let Self::Begun(stream) = self else { return Err(gone()) };
        stream.send_data(data, last).map_err(io::Error::other)?;
        if last {
            *self = Self::Whole;
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Http2Stream {
    /// `Stream::read`: the head, then the body, in chunks where its length was not stated.
    pub async fn read(&mut self, mut buffer: Vec<u8>, at: usize) -> Done<usize> {
        buffer.truncate(at);
        let rest = &self.head[self.head_read..];
        if !rest.is_empty() {
            let len = rest.len().min(buffer.capacity() - at);
            buffer.extend_from_slice(&rest[..len]);
            self.head_read += len;
            return (Ok(len), buffer);
        }
        match poll_fn(|context| self.poll_piece(context)).await {
            Some(Ok(())) => self.append_piece(&mut buffer),
            Some(Err(error)) => return (Err(error), buffer),
            None if self.chunked => {
                self.chunked = false;
                buffer.extend_from_slice(LAST_CHUNK);
            }
            None => {}
        }
        (Ok(buffer.len() - at), buffer)
    }

    /// Waits until there is a piece of the body; `None` at its end. Trailers say nothing here.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<()>>> {
        while self.piece.is_empty() {
            match self.body.poll_data(context) {
                Poll::Ready(Some(Ok(piece))) => self.piece = piece,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Some(Ok(())))
    }

    /// Moves what there is room for, and lets the client send as much again.
    fn append_piece(&mut self, buffer: &mut Vec<u8>) {
        buffer.reserve(CHUNK_FRAMING_BYTES + 1);
        let room = buffer.capacity() - buffer.len() - CHUNK_FRAMING_BYTES;
        let data = self.piece.split_to(self.piece.len().min(room));
        if self.chunked {
            let (line, len) = chunk_size_line(data.len());
            buffer.extend_from_slice(&line[..len]);
        }
        buffer.extend_from_slice(&data);
        if self.chunked {
            buffer.extend_from_slice(CHUNK_END);
        }
        self.shared.add_payload(data.len());
        // Fails only for more than was received.
        let _ = self.body.flow_control().release_capacity(data.len());
    }

    /// `Stream::write_all`: waits until the client's flow control has let all of it pass.
    pub async fn write_all(&mut self, mut buffer: Vec<u8>, range: Range<usize>) -> Done<()> {
        let result = match self.begin(&buffer[range.clone()]) {
            Ok(head) => self.send(&mut buffer[range.start + head..range.end]).await,
            Err(error) => Err(error),
        };
        (result, buffer)
    }

    /// Sends the head if it is still due; how many of the bytes it takes.
    fn begin(&mut self, written: &[u8]) -> io::Result<usize> {
        if self.answer_body.is_some() {
            return Ok(0);
        }
        let head = answer::head(written).ok_or(io::ErrorKind::InvalidData)?;
        let (body, interim, end) = (head.body(self.to_head), head.is_interim(), head.end);
        let mut answer = self.answer.borrow_mut();
        let Answer::Due(respond) = &mut *answer else { return Err(gone()) };
        if interim {
            respond.send_informational(head.response).map_err(io::Error::other)?;
            return Ok(end);
        }
        let stream = respond.send_response(head.response, body.is_done()).map_err(io::Error::other)?;
        *answer = if body.is_done() { Answer::Whole } else { Answer::Begun(stream) };
        self.answer_body = Some(body);
        self.shared.add_payload(end);
        Ok(end)
    }

    async fn send(&mut self, written: &mut [u8]) -> io::Result<()> {
        let Some(body) = &mut self.answer_body else { return Ok(()) };
        if written.is_empty() {
            return Ok(());
        }
        let (range, done) = body.take(written).ok_or(io::ErrorKind::InvalidData)?;
        let mut data = &written[range];
        self.shared.add_payload(data.len());
        while !data.is_empty() {
            let answer = &self.answer;
            let capacity = poll_fn(|context| answer.borrow_mut().poll_capacity(data.len(), context)).await?;
            let (now, later) = data.split_at(capacity);
            answer.borrow_mut().send(Bytes::copy_from_slice(now), done && later.is_empty())?;
            data = later;
        }
        let unfinished = done && matches!(*self.answer.borrow(), Answer::Begun(_));
        if unfinished { self.answer.borrow_mut().send(Bytes::new(), true) } else { Ok(()) }
    }

    /// `Stream::close`: where the answer broke off, lets what was sent go ahead of the reset.
    pub async fn close(&mut self) {
        let broken = matches!(*self.answer.borrow(), Answer::Begun(_));
        if broken {
            self.shared.rested().await;
        }
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        match &mut *self.answer.borrow_mut() {
            Answer::Due(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answer::Begun(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            Answer::Whole | Answer::Unwanted => {}
        }
    }
}
