//! The works that every subject does alike: what is sent, what the upstream answers, how it is counted.
//!
//! Requests are what an SDK sends: its headers, `model` as the last member, no word of usage in streams.
//! Answers are the scriptable upstream's, prepared once for each connection.

use std::net::SocketAddr;
use std::time::Duration;

use load_tests::client::Report;
use load_tests::client::load::{Amount, Order, Pace, Plan, Template};
use load_tests::upstream::{Script, Upstream};
pub(crate) use pure::texts::request;

use crate::tls::Tls;

/// The model name that clients send.
pub(crate) const ALIAS: &str = "fast";
/// Bytes of a request's body.
pub(crate) const REQUEST_BYTES: usize = 1024;
/// Completion tokens of a whole answer: its body is then of about 600 bytes.
const WHOLE_TOKENS: usize = 67;
/// How long a work is done before it is measured: connections and caches are as in the middle of a day.
const WARM_UP: Duration = Duration::from_millis(300);
/// Comes back in the answer's id, and makes each event about 250 bytes long.
const USER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// What the time in an event takes more than a token: so much shorter is then the user.
const STAMP_BYTES: usize = 17;

/// Where the upstream runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On the proxy's core, so that this core always has something to do.
    WithProxy,
    /// With the load generator.
    WithLoad,
}

/// What is sent, and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Chat, answered whole.
    Whole,
    /// Streams of so many events as fast as they come.
    Fast {
        /// Events of a stream.
        events: usize,
    },
    /// Streams of events at intervals, each with the time in it at which it was sent.
    Slow {
        /// Events of a stream.
        events: usize,
        /// Milliseconds between them.
        interval_ms: u64,
    },
}

/// One of the works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// What the JSON calls it.
    pub(crate) name: &'static str,
    /// What the table calls it.
    pub(crate) title: &'static str,
    /// What a chart calls it.
    pub(crate) short: &'static str,
    /// Connections, each with one exchange at a time.
    pub(crate) connections: usize,
    /// Where the upstream runs.
    pub(crate) placement: Placement,
    /// Whether requests come at half of the rate that nginx reaches, whatever the responses do.
    pub(crate) half_load: bool,
    /// Whether what a proxy adds to the latency is told: neither core is full.
    pub(crate) adds_latency: bool,
    /// Whether it is also measured with the control plane running.
    pub(crate) shipping: bool,
    /// Whether clients speak TLS, and how often they shake hands.
    pub(crate) tls: Tls,
    /// What is sent.
    pub(crate) kind: Kind,
    /// Whether a connection is one client, with one key and one head, or carries all clients' requests.
    pub(crate) order: Order,
    /// Bytes of a request's body.
    pub(crate) request_bytes: usize,
}

const CHAT: Work = Work {
    name: "chat_saturated",
    title: "Non-streamed chat, 1 KiB request, 600 B answer, 64 connections, the proxy's core saturated",
    short: "chat, saturated, 64 connections",
    connections: 64,
    placement: Placement::WithProxy,
    half_load: false,
    adds_latency: false,
    shipping: true,
    tls: Tls::Off,
    kind: Kind::Whole,
    order: Order::OneEach,
    request_bytes: REQUEST_BYTES,
};

/// All works.
pub(crate) const WORKS: [Work; 8] = [
    CHAT,
    Work {
        name: "chat_saturated_512",
        title: "The same, 512 connections",
        short: "chat, saturated, 512 connections",
        connections: 512,
        shipping: false,
        ..CHAT
    },
    Work {
        name: "chat_half",
        title: "The same, 64 connections, half load",
        short: "chat, half load, 64 connections",
        placement: Placement::WithLoad,
        half_load: true,
        adds_latency: true,
        ..CHAT
    },
    Work {
        name: "chat_mixed",
        title: "The same, 64 connections, saturated, each with the requests of all clients, as behind a balancer",
        short: "chat, saturated, 64 connections that mix clients",
        order: Order::InTurn,
        shipping: false,
        ..CHAT
    },
    Work {
        name: "streams_fast",
        title: "64 streams of 250 B events as fast as they come",
        short: "64 streams, as fast as they come",
        placement: Placement::WithLoad,
        shipping: false,
        kind: Kind::Fast { events: 200 },
        ..CHAT
    },
    Work {
        name: "streams_slow_512",
        title: "512 streams, an event of 250 B every 10 ms each",
        short: "512 streams, an event every 10 ms",
        connections: 512,
        placement: Placement::WithLoad,
        shipping: false,
        kind: Kind::Slow { events: 50, interval_ms: 10 },
        ..CHAT
    },
    Work {
        name: "streams_half",
        title: "256 streams, an event of 250 B every 10 ms each: the machine half loaded",
        short: "256 streams, an event every 10 ms",
        connections: 256,
        placement: Placement::WithLoad,
        adds_latency: true,
        shipping: false,
        kind: Kind::Slow { events: 50, interval_ms: 10 },
        ..CHAT
    },
    Work {
        name: "https_saturated",
        title: "https, TLS 1.3: non-streamed chat, 64 connections, the proxy's core saturated",
        short: "chat over https, saturated",
        shipping: false,
        tls: Tls::Kept,
        ..CHAT
    },
];

impl Work {
    /// Non-streamed chat of 64 connections that saturate the proxy's core.
    pub(crate) fn chat() -> Self {
        CHAT
    }

    /// What is counted.
    pub(crate) fn unit(&self) -> &'static str {
        if self.kind == Kind::Whole { "exchange" } else { "event" }
    }

    /// What the latencies are of.
    pub(crate) fn latency_of(&self) -> &'static str {
        match self.kind {
            Kind::Whole => "exchange",
            Kind::Fast { .. } => "first event",
            Kind::Slow { .. } => "event",
        }
    }

    /// How many units a report tells of.
    pub(crate) fn units(&self, report: &Report) -> u64 {
        match self.kind {
            Kind::Whole => report.responses(),
            _ => report.labels.values().map(|totals| totals.events).sum(),
        }
    }

    /// Microseconds at a quantile of what `latency_of` names.
    pub(crate) fn latency_us(&self, report: &Report, quantile: f64) -> f64 {
        let histogram = match self.kind {
            Kind::Whole => &report.latency,
            Kind::Fast { .. } => &report.first_byte,
            Kind::Slow { .. } => &report.event,
        };
        histogram.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Tells the upstream how to answer this work's requests.
    pub(crate) fn set_up(&self, upstream: &Upstream) {
        upstream.clear_scripts();
        self.script().into_iter().for_each(|script| upstream.script(script));
    }

    /// How the upstream answers, where not as it would anyway.
    pub(crate) fn script(&self) -> Option<Script> {
        let Kind::Slow { interval_ms, .. } = self.kind else { return None };
        Some(Script { event_delay_ms: interval_ms, stamp: true, ..Script::default() })
    }

    /// What the load generator does for `time`; `half` is the rate of half load.
    pub(crate) fn plan(&self, address: SocketAddr, keys: &[String], time: Duration, half: f64) -> Plan {
        let body = self.body();
        let template = |key: &String| Template { label: String::new(), request: self.request(key, &body) };
        let templates = keys.iter().map(template).collect();
        let mut plan = Plan::new(address, self.connections, Amount::For(time), templates);
        plan.order = self.order;
        plan.count_usage = false;
        plan.warm_up = WARM_UP;
        if self.half_load {
            plan.pace = Pace::Rate(half);
        }
        if let Kind::Slow { interval_ms, .. } = self.kind {
            // Otherwise all streams would be in step.
            plan.ramp = Duration::from_millis(10 * interval_ms);
        }
        plan
    }

    fn request(&self, key: &str, body: &str) -> Vec<u8> {
        let request = request(key, body);
        if !self.tls.is_once() {
            return request;
        }
        let text = String::from_utf8_lossy(&request);
        text.replacen("connection: keep-alive\r\n", "connection: close\r\n", 1).into_bytes()
    }

    fn body(&self) -> String {
        let (tokens, stream, user) = match self.kind {
            Kind::Whole => (WHOLE_TOKENS, "", "bench"),
            Kind::Fast { events } => (events, r#""stream":true,"#, USER),
            Kind::Slow { events, .. } => (events, r#""stream":true,"#, &USER[STAMP_BYTES..]),
        };
        let front = r#"{"messages":[{"role":"user","content":""#;
        let back = format!(r#""}}],"max_tokens":{tokens},{stream}"user":"{user}","model":"{ALIAS}"}}"#);
        let content = "Say it again. ".repeat(self.request_bytes / 14 + 1);
        let room = self.request_bytes.saturating_sub(front.len() + back.len());
        format!("{front}{}{back}", &content[..room])
    }
}

/// A small request, to see whether a subject answers.
pub(crate) fn probe(key: &str) -> Vec<u8> {
    request(key, &format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"model":"{ALIAS}"}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_their_length_with_model_last() {
        let large = Work { request_bytes: 10 << 20, ..CHAT };
        for work in WORKS.into_iter().chain([large]) {
            let body = work.body();
            assert_eq!(body.len(), work.request_bytes, "{}", work.name);
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(value["model"], ALIAS);
            assert!(body.ends_with(r#""model":"fast"}"#));
            assert_eq!(value["stream"].as_bool().unwrap_or(false), work.kind != Kind::Whole);
        }
    }

    #[test]
    fn only_who_connects_for_each_exchange_asks_to_close() {
        for (tls, closes) in [(Tls::Off, false), (Tls::Kept, false), (Tls::Full, true), (Tls::Resumed, true)]
        {
            let request = Work { tls, ..CHAT }.request("key", "{}");
            let head = String::from_utf8(request).unwrap();
            assert_eq!(head.contains("\r\nconnection: close\r\n"), closes, "{tls:?}");
            assert_eq!(head.matches("connection: ").count(), 1);
        }
    }

    #[test]
    fn events_are_of_the_same_length_with_a_stamp_and_without() {
        let plain = WORKS.iter().find(|work| work.name == "streams_fast").unwrap();
        let stamped = WORKS.iter().find(|work| work.name == "streams_half").unwrap();
        let event = |work: &Work| {
            let upstream = Upstream::start(load_tests::upstream::Options::default()).unwrap();
            work.set_up(&upstream);
            let request = request("key", &work.body());
            let mut connection = load_tests::client::Connection::open(upstream.address()).unwrap();
            let response = connection.exchange(&request).unwrap();
            let events = response.events();
            events[30].len()
        };
        let (plain, stamped) = (event(plain), event(stamped));
        assert_eq!(plain, stamped);
        assert!((230..270).contains(&plain), "{plain} bytes");
    }
}
