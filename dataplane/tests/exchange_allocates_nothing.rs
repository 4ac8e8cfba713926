//! A worker allocates nothing for an exchange, once its connections and buffers are warm: a data plane serves
//! in this process, under an allocator that counts by thread.

// A global allocator can only be written with unsafe code; this one passes every call on.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "all of it is a test, which ends at what it does not expect")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use dataplane::config::Config;
use dataplane::{server, watch};

#[cfg(test)]
#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/plane.rs"]
mod plane;

/// More than this process ever has.
const THREADS_MAX: usize = 256;
/// Exchanges before those that are counted, and those.
const EXCHANGES: usize = 2000;

static THREADS: AtomicUsize = AtomicUsize::new(0);
static TIDS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static COUNTS: [AtomicU64; THREADS_MAX] = [const { AtomicU64::new(0) }; THREADS_MAX];

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Counting;

impl Counting {
    fn count() {
        let index = INDEX.get();
        let index = if index < THREADS_MAX { index } else { Self::new_thread() };
        COUNTS[index].fetch_add(1, Ordering::Relaxed);
    }

    fn new_thread() -> usize {
        let index = THREADS.fetch_add(1, Ordering::Relaxed).min(THREADS_MAX - 1);
        INDEX.set(index);
        // SAFETY: takes nothing, and can't fail.
        TIDS[index].store(unsafe { libc::gettid() }, Ordering::Relaxed);
        index
    }
}

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the thread called `name` has allocated.
fn allocations_of(name: &str) -> u64 {
    let known = THREADS.load(Ordering::Relaxed).min(THREADS_MAX);
    let index = (0..known).find(|index| {
        let tid = TIDS[*index].load(Ordering::Relaxed);
        let comm = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    });
    COUNTS[index.expect("the thread has allocated something")].load(Ordering::Relaxed)
}

/// An upstream that gives every request the same answer, and keeps its connections.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let usage = r#""usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#;
    let body =
        format!(r#"{{"id":"x","choices":[{{"message":{{"content":"{}"}}}}],{usage}}}"#, "word ".repeat(90));
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), [head.as_bytes(), body.as_bytes()].concat());
            std::thread::spawn(move || {
                while read_message(&mut stream).is_some_and(|_| stream.write_all(&answer).is_ok()) {}
            });
        }
    });
    address
}

/// Reads one message that is delimited by its length.
fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut message, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let head_end = message.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = head_end {
            let head = String::from_utf8(message[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            if message.len() >= end + length.parse::<usize>().unwrap() {
                return Some(message);
            }
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => message.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

fn exchange(stream: &mut TcpStream, key: &str) {
    let body = r#"{"messages":[{"role":"user","content":"hello"}],"model":"fast"}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\
         content-type: application/json\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_message(stream).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_warm_worker_allocates_nothing_for_an_exchange() {
    let dir = tempfile::tempdir().unwrap();
    plane::write_snapshot(&dir, vec![plane::deployment(1, upstream())]);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = dir.path().join("dataplane.toml");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = format!(
        "data_dir = '{}'\nworkers = 1\n[http]\nlisten = '{address}'\n[ops]\nlisten = '127.0.0.1:0'\n\
         [control]\nsocket = '{}'\n[limits]\nexchanges = 1024\n",
        path("data"),
        path("nobody.sock")
    );
    std::fs::write(&config, text).unwrap();
    std::thread::spawn(move || server::run(Config::load(&config).unwrap()).unwrap());

    let end = Instant::now() + plane::PATIENCE;
    let mut client = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < end, "the data plane does not listen: {error}"),
        }
    };
    let key = plane::key(plane::GOOD);
    (0..EXCHANGES).for_each(|_| exchange(&mut client, &key));
    let (before, began) = (allocations_of("worker 0"), Instant::now());
    (0..EXCHANGES).for_each(|_| exchange(&mut client, &key));
    let allocated = allocations_of("worker 0") - before;

    // The worker's sweep has a timer, which monoio allocates.
    let sweeps = watch::millis(began.elapsed()) / watch::millis(watch::SWEEP_INTERVAL) + 2;
    let allowed = 4 * sweeps;
    assert!(allowed < EXCHANGES as u64, "too slow a machine to tell: {:?}", began.elapsed());
    assert!(allocated <= allowed, "{allocated} allocations in {EXCHANGES} exchanges and {sweeps} sweeps");
}
