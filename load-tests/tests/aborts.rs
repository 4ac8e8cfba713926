//! Clients and upstreams that leave at any byte. Every answer that arrives is that of its request; what was
//! cut never ends as a whole answer; exchanges that nobody disturbs are answered, whatever happens beside
//! them; and in the end each admitted exchange is one row.
//!
//! `LIUTONG_ABORT_EXCHANGES` says how many exchanges (`make aborts`: a hundred thousand).
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::Duration;

use load_tests::client::raw::End;
use load_tests::client::{Connection, Response, post};
use load_tests::harness::ask::Tenant;
use load_tests::harness::{SOON, Setup, System, wait_until};
use load_tests::random::Random;
use load_tests::upstream::{After, Answer, Cut, Delimiter, Options, Script, Upstream};
use socket2::SockRef;

const EXCHANGES_DEFAULT: usize = 4_000;
const CLIENTS: usize = 24;
/// The gateway's own answers, and the bytes of any answer's head, are at least so long.
const HEAD_BYTES_MIN: usize = 60;
/// A streamed token takes at least so many bytes, framing included.
const EVENT_BYTES_MIN: usize = 120;

/// What a client has of an exchange that was answered whole, by its number.
struct Whole {
    number: usize,
    team: String,
    tokens: usize,
}

/// One exchange: what is asked, and what goes wrong.
struct Exchange {
    number: usize,
    tokens: usize,
    streamed: bool,
    script: Option<Script>,
    /// The client leaves after so many bytes of its request, or of the answer.
    leaves: Option<(bool, usize)>,
    /// By a reset.
    resets: bool,
}

impl Exchange {
    fn make_up(number: usize, random: &mut Random) -> Self {
        let tokens = 1 + random.below(30);
        let streamed = random.once_in(2);
        // So that the cut is before the answer's end.
        let shortest = if streamed { EVENT_BYTES_MIN * tokens } else { 3 * HEAD_BYTES_MIN };
        let script = random.once_in(3).then(|| fault(random, shortest));
        let leaves = random.once_in(4).then(|| (random.once_in(2), random.below(900)));
        Self { number, tokens, streamed, script, leaves, resets: random.once_in(2) }
    }

    fn marker(&self) -> String {
        format!("n{}n", self.number)
    }

    fn request(&self, key: &str) -> Vec<u8> {
        let script = self.script.as_ref().map(|script| serde_json::to_string(script).unwrap());
        let script = script.map_or_else(String::new, |script| format!(r#","script":{script}"#));
        let (seed, tokens, user) = (self.number, self.tokens, self.marker());
        let members = format!(r#""seed":{seed},"max_tokens":{tokens},"user":"{user}""#);
        let body = format!(r#"{{"model":"small",{members},"stream":{}{script}}}"#, self.streamed);
        post("/v1/chat/completions", key, &body)
    }

    /// Whether it may fail, or be cut: for others to do so would be a fault of ours.
    fn may_break(&self) -> bool {
        self.script.as_ref().is_some_and(|script| script.cut.is_some() || is_garbage(script))
    }
}

fn is_garbage(script: &Script) -> bool {
    matches!(script.answer, Answer::Raw(_))
}

/// What an upstream does to one answer.
fn fault(random: &mut Random, shortest: usize) -> Script {
    let usual = Script::default();
    let at = random.below(shortest);
    match random.below(7) {
        0..3 => {
            let after = if random.once_in(2) { After::Close } else { After::Abort };
            Script { cut: Some(Cut { at, after }), ..usual }
        }
        3 => {
            let garbage = ["", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "\0\n"];
            let answer = Answer::Raw(garbage[random.below(3)].into());
            Script { answer, after: After::Close, ..usual }
        }
        // None of these harms the answer.
        4 => Script { delimiter: Delimiter::Chunked, chunk_bytes: Some(1 + at), ..usual },
        5 => Script { delimiter: Delimiter::Close, ..usual },
        _ => Script { surplus: "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen".into(), ..usual },
    }
}

/// One client, with a connection that it keeps for as long as it lasts.
struct Client<'a> {
    system: &'a System,
    tenant: &'a Tenant,
    connection: Option<Connection>,
    random: Random,
}

impl Client<'_> {
    /// Carries out one exchange; gives what is known of it if it was answered whole.
    fn exchange(&mut self, number: usize) -> Option<Whole> {
        let exchange = Exchange::make_up(number, &mut self.random);
        let request = exchange.request(&self.tenant.secret);
        let mut connection = self.connection.take().unwrap_or_else(|| self.system.connection());
        if let Some((true, bytes)) = exchange.leaves {
            // An error is the plane's right: it may have left as well.
            let _ = connection.stream().write_all(&request[..bytes.min(request.len())]);
            leave(&connection, exchange.resets);
            return None;
        }
        connection.send(&request).unwrap();
        let mut response = Response::of(&request);
        let enough = exchange.leaves.map_or(usize::MAX, |(_, bytes)| bytes);
        let read = connection.read(&mut response, |response| response.body().len() >= enough);
        read.unwrap_or_else(|error| panic!("exchange {number}: {:?}: {error}", error.kind()));
        let whole = check(&exchange, &response);
        if response.end == End::Open {
            leave(&connection, exchange.resets);
        } else if response.end == End::Framed && response.header("connection") != "close" {
            self.connection = Some(connection);
        }
        whole.then(|| Whole { number, team: self.tenant.team.clone(), tokens: exchange.tokens })
    }
}

/// Leaves by a reset, or in order.
fn leave(connection: &Connection, resets: bool) {
    if resets {
        SockRef::from(connection.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    } else if let Err(error) = connection.stream().shutdown(Shutdown::Both) {
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    }
}

/// Holds a response against its request; true if it is the whole answer.
fn check(exchange: &Exchange, response: &Response) -> bool {
    let (number, text) = (exchange.number, response.text());
    // Ours to say: that the upstream broke.
    if response.status() == 502 && exchange.may_break() {
        assert!(response.is_complete(), "exchange {number}: {text}");
        assert_eq!(response.json()["error"]["code"], "upstream_error", "exchange {number}");
        return false;
    }
    if response.end == End::Open {
        assert!(matches!(response.status(), 0 | 200), "exchange {number}: {text}");
        return false;
    }
    assert_eq!(response.status(), 200, "exchange {number}: {:?}: {text}", exchange.script);
    let whose = format!("\"id\":\"chatcmpl-{}\"", exchange.marker());
    for at in text.match_indices("\"id\":\"chatcmpl-").map(|(at, _)| at) {
        let rest = &text[at..];
        assert!(rest.starts_with(&whose) || whose.starts_with(rest), "exchange {number} got {text}");
    }
    assert!(!text.contains("stolen"), "exchange {number} got surplus bytes");
    if !response.is_complete() {
        assert!(exchange.may_break(), "exchange {number} was cut: {:?}", exchange.script);
        assert!(!text.contains("[DONE]"), "exchange {number}");
        return false;
    }
    let cut = exchange.script.as_ref().and_then(|script| script.cut);
    assert!(cut.is_none(), "exchange {number} was cut by {cut:?}, and ended as if it were whole: {text}");
    if exchange.streamed {
        assert_eq!(response.events().len(), exchange.tokens + 2, "exchange {number}: {text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "exchange {number}: {text}");
    } else {
        let usage = &response.json()["usage"];
        assert_eq!(usage["completion_tokens"], exchange.tokens, "exchange {number}: {text}");
    }
    true
}

fn metric(system: &System, name: &str) -> u64 {
    let text = system.ops("/metrics").unwrap().text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn whoever_leaves_takes_nothing_from_others_and_every_exchange_is_one_row() {
    let exchanges =
        std::env::var("LIUTONG_ABORT_EXCHANGES").map_or(EXCHANGES_DEFAULT, |n| n.parse().unwrap());
    let upstream = Upstream::start(Options { record: 16, ..Options::default() }).unwrap();
    let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
    let tenants = ["alpha", "beta", "gamma"].map(|name| system.tenant(name));
    let whole: Vec<Whole> = std::thread::scope(|scope| {
        let (system, tenants) = (&system, &tenants);
        let play = |client: usize| {
            let tenant = &tenants[client % tenants.len()];
            let random = Random::new(client as u64);
            let mut playing = Client { system, tenant, connection: None, random };
            (1 + client..=exchanges).step_by(CLIENTS).filter_map(|n| playing.exchange(n)).collect::<Vec<_>>()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || play(client))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(whole.len() > exchanges / 3, "hardly any whole answer: {} of {exchanges}", whole.len());

    let settled =
        ["ok", "client_error", "server_error"].map(|class| format!("liutong_exchanges_{class}_total"));
    let admitted = wait_until("every exchange to be settled", SOON, || {
        let admitted = metric(&system, "liutong_exchanges_admitted_total");
        let left = metric(&system, "liutong_clients_left_total");
        let settled: u64 = settled.iter().map(|name| metric(&system, name)).sum();
        (admitted == settled + left).then_some(admitted)
    });
    system.wait_for_rows("true", admitted);
    assert_eq!(system.count("SELECT uniqExact(node, boot, seq) FROM usage_events"), admitted);
    // The prompt's tokens are the exchange's number.
    let columns = "prompt_tokens, team_id, completion_tokens";
    let rows = system.clickhouse(&format!("SELECT {columns} FROM usage_events WHERE status = 200"));
    let mut by_number: HashMap<&str, Vec<&str>> = HashMap::new();
    for row in rows.lines() {
        let (number, rest) = row.split_once('\t').unwrap();
        by_number.entry(number).or_default().push(rest);
    }
    for Whole { number, team, tokens } in &whole {
        let rows = &by_number[number.to_string().as_str()];
        assert_eq!(*rows, [format!("{team}\t{tokens}")], "exchange {number}");
    }
    assert_eq!(metric(&system, "liutong_panics_total"), 0);
    println!("{exchanges} exchanges, {admitted} admitted, {} answered whole", whole.len());
}
