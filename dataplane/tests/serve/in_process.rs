//! A data plane with one worker in the test's own process, and a client of it: for tests that look at its
//! threads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use dataplane::config::Config;
use dataplane::server;

use crate::plane;

/// Starts it below `dir`, and connects.
pub(crate) fn start(dir: &Path) -> TcpStream {
    plane::write_snapshot(dir, vec![plane::deployment(1, upstream())]);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = dir.join("dataplane.toml");
    let path = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        "data_dir = '{}'\nworkers = 1\n[http]\nlisten = '{address}'\n[ops]\nlisten = '127.0.0.1:0'\n\
         [control]\nsocket = '{}'\n[limits]\nexchanges = 4096\n",
        path("data"),
        path("nobody.sock")
    );
    std::fs::write(&config, text).unwrap();
    std::thread::spawn(move || server::run(Config::load(&config).unwrap()).unwrap());

    let end = Instant::now() + plane::PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "the data plane does not listen: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
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

/// One exchange, answered 200.
pub(crate) fn exchange(stream: &mut TcpStream, key: &str) {
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
