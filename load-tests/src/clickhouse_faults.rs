//! A proxy in front of a real ClickHouse that fails as told: before a request is carried out, after it, with
//! ClickHouse's own error codes, late, or not at all.
//!
//! What a database does when a sender times out, a network breaks or a disk is full is always one of two
//! things: the request was carried out, or it was not. The proxy makes either happen at a chosen request, so
//! that whoever sends can be held to "not lost, not doubled". Rules are tried in the order they were given; a
//! request that none of them fits passes untouched. Every request is read whole before anything is decided,
//! and ClickHouse's answer is read whole before any of it goes back.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::message::{ChunkDecoder, Framing, framing, head_end};

const READ_BYTES: usize = 64 * 1024;
/// How much of a body is looked at for a rule's text: statements stand at its beginning.
const TEXT_BYTES: usize = 2000;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not reach ClickHouse; the connection ends without an answer.
    CutBefore,
    /// ClickHouse carries it out; the connection ends without an answer.
    CutAfter,
    /// It does not reach ClickHouse; the answer is an exception with this code.
    Refuse(u32),
    /// ClickHouse carries it out; the answer is an exception with this code all the same.
    RefuseAfter(u32),
    /// It is carried out so much later.
    Late(Duration),
    /// It is carried out, and its answer comes so much later.
    LateAnswer(Duration),
}

/// Which requests get a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What the decoded URL, or the beginning of the body, has in it.
    pub matching: String,
    /// How many fitting requests pass before.
    pub skip: u64,
    /// How many then get the fault.
    pub times: u64,
    /// The fault.
    pub fault: Fault,
}

impl Rule {
    /// The next `times` requests with this text get the fault.
    pub fn next(times: u64, matching: &str, fault: Fault) -> Self {
        Self { matching: matching.to_owned(), skip: 0, times, fault }
    }
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

/// A running proxy; it ends with this value.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultProxy {
    /// Starts a proxy on a free port of loopback, in front of `target`.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            rules: Mutex::default(),
            seen: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A peer that goes in the middle is what this is for.
                std::thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        Ok(Self { address, shared })
    }

    /// The proxy as a URL for ClickHouse's clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Points it to another server: one that was started again elsewhere.
    pub fn retarget(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Takes all rules away.
    pub fn heal(&self) {
        lock(&self.shared.rules).clear();
    }

    /// How many faults are still to come.
    pub fn faults_left(&self) -> u64 {
        lock(&self.shared.rules).iter().map(|rule| rule.times).sum()
    }

    /// How many requests with this text have come, whatever became of them.
    pub fn seen(&self, matching: &str) -> usize {
        lock(&self.shared.seen).iter().filter(|text| text.contains(matching)).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // It waits in accept.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request for each connection: the answer says that it is closed.
fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let Some((request, text)) = read_request(&mut client)? else { return Ok(()) };
    let fault = take_fault(shared, &text);
    lock(&shared.seen).push(text);
    let target = *lock(&shared.target);
    let answer = match fault {
        Some(Fault::CutBefore) => return Ok(()),
        Some(Fault::Refuse(code)) => exception(code),
        Some(Fault::CutAfter) => return ask(target, &request).map(drop),
        Some(Fault::RefuseAfter(code)) => {
            ask(target, &request)?;
            exception(code)
        }
        Some(Fault::Late(time)) => {
            std::thread::sleep(time);
            ask(target, &request)?
        }
        Some(Fault::LateAnswer(time)) => {
            let answer = ask(target, &request)?;
            std::thread::sleep(time);
            answer
        }
        None => ask(target, &request)?,
    };
    client.write_all(&answer)
}

fn take_fault(shared: &Shared, text: &str) -> Option<Fault> {
    let mut rules = lock(&shared.rules);
    for rule in rules.iter_mut().filter(|rule| rule.times > 0 && text.contains(&rule.matching)) {
        if rule.skip > 0 {
            rule.skip -= 1;
            continue;
        }
        rule.times -= 1;
        return Some(rule.fault);
    }
    None
}

/// A whole request with `connection: close` put in, and what rules look at.
fn read_request(client: &mut TcpStream) -> io::Result<Option<(Vec<u8>, String)>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = head_end(&bytes) {
            break end;
        }
        if !read_more(client, &mut bytes)? {
            return Ok(None);
        }
    };
    let mut body = Vec::new();
    match framing(&bytes[..head]).map_err(io::Error::other)? {
        Some(Framing::Chunked) => {
            let (mut chunks, mut at) = (ChunkDecoder::default(), head);
            loop {
                at += chunks.feed(&bytes[at..], &mut body).map_err(io::Error::other)?;
                if chunks.is_done() {
                    break;
                }
                if !read_more(client, &mut bytes)? {
                    return Ok(None);
                }
            }
        }
        Some(Framing::Length(length)) => {
            while bytes.len() < head + length {
                if !read_more(client, &mut bytes)? {
                    return Ok(None);
                }
            }
            body.extend_from_slice(&bytes[head..]);
        }
        Some(Framing::Close) | None => {}
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let url = decoded(&bytes[..line_end]);
    let text = String::from_utf8_lossy(&body[..body.len().min(TEXT_BYTES)]).into_owned();
    bytes.splice(line_end..line_end, *b"connection: close\r\n");
    Ok(Some((bytes, format!("{url}\n{text}"))))
}

fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = vec![0; READ_BYTES];
    let read = stream.read(&mut piece)?;
    bytes.extend_from_slice(&piece[..read]);
    Ok(read > 0)
}

fn ask(target: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(target)?;
    server.write_all(request)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}

fn exception(code: u32) -> Vec<u8> {
    let text = format!("Code: {code}. DB::Exception: made by the fault proxy. (SCRIPTED) (version 0)\n");
    format!(
        "HTTP/1.1 500 Internal Server Error\r\nX-ClickHouse-Exception-Code: {code}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

/// A URL's percent and plus signs taken back.
fn decoded(url: &[u8]) -> String {
    let mut out = Vec::with_capacity(url.len());
    let mut at = 0;
    while let Some(byte) = url.get(at) {
        let hex = url.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
