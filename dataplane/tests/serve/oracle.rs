//! What goes upstream, read again by a strict reader that shares no code with the data plane, is exactly the
//! requests that clients meant: each once, none that was refused, cut or smuggled, and no byte between them.
//!
//! Clients are made up from a fixed seed: pipelined or one by one, in one piece or dripped, with lengths or
//! chunks, fields in any order and case, and hostile requests among the good ones.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::plane::{GOOD, Peer, Plane, UNKNOWN, deployment, key};
use crate::random::Random;
use crate::strict::{Sent, take};

/// Connections of clients.
const CONNECTIONS: u64 = 2_000;
/// How many of them at once.
const THREADS: usize = 8;
/// Where every hostile request says that it has been.
const SMUGGLED: &str = "smuggled";

/// Fields that are the client's own business, and go no further.
const DROPPED: [&str; 9] = [
    "Cookie: a=b; c=d",
    "X-Forwarded-For: 10.0.0.1",
    "X-Stainless-Lang: js",
    "Connection: keep-alive, Upgrade",
    "Upgrade: h2c",
    "TE: trailers",
    "Accept-Encoding: gzip, br",
    "User-Agent:\tcurl/8",
    "X-Host: evil\t",
];
/// Fields that are passed on.
const PASSED: [(&str, &str); 5] = [
    ("Accept", "*/*"),
    ("OpenAI-Beta", "assistants=v2"),
    ("Idempotency-Key", "Transfer-Encoding: chunked"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("anthropic-beta", "a,b"),
];

/// What is to become of a request.
enum Expect {
    /// It is answered with its marker.
    Served(String),
    /// It is refused, and the connection goes on.
    Refused(u16),
    /// It is refused, and nothing behind it is looked at.
    Closed,
    /// It is cut by its client.
    Nothing,
}

/// An upstream that keeps what the strict reader reads, and complains of what it can't.
struct Upstream {
    address: std::net::SocketAddr,
    sent: Arc<Mutex<(Vec<Sent>, Vec<String>)>>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, sent) = (listener.local_addr().unwrap(), Arc::default());
        let seen: Arc<Mutex<(Vec<Sent>, Vec<String>)>> = Arc::clone(&sent);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || {
                    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
                    while let Ok(len @ 1..) = stream.read(&mut piece) {
                        bytes.extend_from_slice(&piece[..len]);
                        let body = match take(&mut bytes) {
                            Ok(None) => continue,
                            Ok(Some(sent)) => {
                                let body = sent.body.clone();
                                seen.lock().unwrap().0.push(sent);
                                body
                            }
                            Err(why) => return seen.lock().unwrap().1.push(why),
                        };
                        if !bytes.is_empty() {
                            let more = String::from_utf8_lossy(&bytes).into_owned();
                            return seen.lock().unwrap().1.push(format!("behind a request: {more:?}"));
                        }
                        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
                        let _ = stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes());
                    }
                    if !bytes.is_empty() {
                        let part = String::from_utf8_lossy(&bytes).into_owned();
                        seen.lock().unwrap().1.push(format!("a part of a request: {part:?}"));
                    }
                });
            }
        });
        Self { address, sent }
    }
}

/// One client's requests: bytes, and what is to become of each.
struct Script {
    random: Random,
    number: u64,
    hostile: Arc<Vec<Vec<u8>>>,
    meant: Vec<Sent>,
}

impl Script {
    fn body(&mut self, model: &str, marker: &str) -> String {
        let mut members = vec![
            format!(r#""model":{}"{model}""#, self.random.pick(&["", " ", "\n"])),
            format!(r#""marker":"{marker}""#),
            // To a careless reader the next request.
            r#""text":"\r\n\r\nPOST /v1/completions HTTP/1.1\r\nhost: h\r\n\r\n""#.to_owned(),
            format!(r#""pad":"{}""#, "x".repeat(self.random.below(600))),
            format!(r#""{}":[{{"model":"inner"}},1e2,null]"#, "k".repeat(self.random.below(40))),
        ];
        self.random.shuffle(&mut members);
        let space = self.random.pick(&["", " ", "\r\n"]);
        format!("{space}{{{}{space}}}{space}", members.join(self.random.pick(&[",", " , ", ",\t"])))
    }

    /// Field lines in any order and case; gives also what is passed on of them.
    fn fields(&mut self, framing: &str) -> (String, Vec<(String, String)>) {
        let (credential, type_) = (format!("API-Key: {}", key(GOOD)), "Content-Type: application/json");
        let mut lines: Vec<String> = [framing, "HOST: h", &credential, type_].map(str::to_owned).into();
        lines.extend(DROPPED.iter().filter(|_| self.random.below(4) == 0).map(|line| (*line).to_owned()));
        for (name, value) in PASSED {
            if self.random.below(3) == 0 {
                lines.push(format!("{name}:{}{value}", self.random.pick(&["", " ", "\t "])));
            }
        }
        self.random.shuffle(&mut lines);
        let passed = lines.iter().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_passed = name == "Content-Type" || PASSED.iter().any(|(known, _)| *known == name);
            is_passed.then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        let passed = passed.collect();
        (lines.into_iter().map(|line| self.random.any_case(&line) + "\r\n").collect(), passed)
    }

    /// A body in chunks of any size.
    fn chunks(&mut self, body: &str) -> String {
        let (mut out, mut rest) = (String::new(), body);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(1 + self.random.below(rest.len()));
            let extension = self.random.pick(&["", ";a", ";a=b", ";a=\"\\\"0\""]);
            out += &format!("{}{:x}{extension}\r\n{chunk}\r\n", self.random.pick(&["", "00"]), chunk.len());
            rest = after;
        }
        out + "0" + self.random.pick(&["\r\n\r\n", ";x\r\n\r\n", "\r\nhost: evil\r\n\r\n"])
    }

    fn request(&mut self, index: usize) -> (Vec<u8>, Expect) {
        let marker = format!("m{}-{index}", self.number);
        let kind = self.random.below(12);
        if kind == 0 {
            let hostile = self.random.pick(&self.hostile);
            return (hostile, Expect::Closed);
        }
        let unknown = kind == 1;
        let body = self.body(if unknown { "unknown" } else { "fast" }, &marker);
        let (framing, framed) = match self.random.below(2) {
            0 => (format!("Content-Length: {}", body.len()), body.clone()),
            _ => ("Transfer-Encoding: Chunked".to_owned(), self.chunks(&body)),
        };
        let (fields, passed) = self.fields(&framing);
        let end = self.random.pick(&["chat/completions", "completions", "embeddings"]);
        let path = format!("/v1/{end}");
        let query = self.random.pick(&["", "?api-version=1", "?", "?/v1/files"]);
        let bytes = format!("POST {path}{query} HTTP/1.1\r\n{fields}\r\n{framed}").into_bytes();
        if kind == 2 {
            let cut = self.random.below(bytes.len());
            return (bytes[..cut].to_vec(), Expect::Nothing);
        }
        if unknown {
            return (bytes, Expect::Refused(404));
        }
        let body = body.replacen("\"fast\"", "\"upstream-model\"", 1);
        self.meant.push(Sent { path, fields: passed, body });
        (bytes, Expect::Served(marker))
    }
}

/// Requests that are refused for what they are, some with a good request hidden in them.
fn hostile() -> Vec<Vec<u8>> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let read = |folder: &str| {
        let mut files: Vec<_> =
            std::fs::read_dir(here.join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let mut all: Vec<Vec<u8>> = read("request").iter().map(|file| std::fs::read(file).unwrap()).collect();
    let key = key(GOOD);
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\napi-key: {key}\r\n");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    for file in read("chunked") {
        if !file.display().to_string().ends_with(".Truncated") {
            all.push([chunked.as_bytes(), &std::fs::read(file).unwrap()].concat());
        }
    }
    let body = format!(r#"{{"model":"fast","marker":"{SMUGGLED}"}}"#);
    let hidden = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    for framing in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "content-length: 0\r\ncontent-length: 3",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: x\r\ntransfer-encoding: chunked",
        "transfer-encoding\t: chunked",
        "content-length: 0 \n",
    ] {
        all.push(format!("{head}{framing}\r\n\r\n0\r\n\r\n{hidden}").into_bytes());
    }
    all
}

/// Plays one client; gives what it meant to be sent upstream.
fn play(plane: &Plane, number: u64, hostile: &Arc<Vec<Vec<u8>>>) -> Vec<Sent> {
    let mut script =
        Script { random: Random::new(number), number, hostile: hostile.clone(), meant: Vec::new() };
    let count = 1 + script.random.below(6);
    let mut requests: Vec<(Vec<u8>, Expect)> = Vec::new();
    for index in 0..count {
        requests.push(script.request(index));
        if matches!(requests.last(), Some((_, Expect::Closed | Expect::Nothing))) {
            break;
        }
    }
    let mut peer = plane.connect();
    let pipelined = script.random.below(2) == 0;
    let piece = script.random.pick(&[1, 7, 100, usize::MAX, usize::MAX]);
    let send = |peer: &mut Peer, bytes: &[u8]| bytes.chunks(piece).for_each(|part| peer.send(part));
    if pipelined {
        let all = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<_>>();
        send(&mut peer, &all);
    }
    for (bytes, expect) in &requests {
        if !pipelined {
            send(&mut peer, bytes);
        }
        match expect {
            Expect::Nothing => return script.meant,
            Expect::Served(marker) => {
                let answer = peer.answer();
                let marked = format!("\"marker\":\"{marker}\"");
                let body = String::from_utf8(answer.body).unwrap();
                assert_eq!(answer.status, 200, "client {number}: {body}");
                assert!(body.contains(&marked), "client {number} got another's answer: {body}");
            }
            Expect::Refused(status) => assert_eq!(peer.answer().status, *status, "client {number}"),
            Expect::Closed => {
                // What comes behind it is read by nobody.
                peer.send(b"GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n");
                let answer = peer.answer();
                let sent = bytes.escape_ascii();
                assert!((400..=431).contains(&answer.status), "client {number}: {answer:?}\n{sent}");
                while peer.more() {}
                assert!(peer.unread().is_empty(), "client {number}: a second answer\n{sent}");
            }
        }
    }
    script.meant
}

#[test]
fn upstreams_get_exactly_the_requests_that_were_meant() {
    let upstream = Upstream::start();
    // As many slots as there are requests: none is refused while the disk of this machine stalls.
    let roomy = |text: String| text.replace("exchanges = 1024", "exchanges = 8192");
    let plane = Plane::start_edited(vec![deployment(1, upstream.address)], roomy);
    let hostile = Arc::new(hostile());
    let mut meant: Vec<Sent> = std::thread::scope(|scope| {
        let play_some = |first: u64| {
            let numbers = (first..CONNECTIONS).step_by(THREADS);
            numbers.flat_map(|number| play(&plane, number, &hostile)).collect::<Vec<_>>()
        };
        let threads: Vec<_> =
            (0..THREADS as u64).map(|first| scope.spawn(move || play_some(first))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(meant.len() > 3_000, "hardly any good request: {}", meant.len());
    let (mut sent, complaints) = upstream.sent.lock().unwrap().clone();
    assert_eq!(complaints, Vec::<String>::new());
    meant.sort();
    sent.sort();
    for (sent, meant) in sent.iter().zip(&meant) {
        assert_eq!(sent, meant);
    }
    assert_eq!(sent.len(), meant.len());
    assert!(!sent.iter().any(|sent| sent.body.contains(SMUGGLED)));
    // The plane is as it was.
    let answer = plane.ask(&crate::plane::post_as(&key(UNKNOWN), "/v1/completions", "{}"));
    assert_eq!(answer.status, 401);
}
