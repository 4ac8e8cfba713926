//! The works that every subject does alike: what is sent, what the upstream answers, how it is counted.
//!
//! Requests are what an SDK sends: its headers, `model` as the last member, no word of usage in streams.
//! Answers are the scriptable upstream's, prepared once for each connection.

use std::net::SocketAddr;
use std::time::Duration;

use load_tests::client::Report;
use load_tests::client::load::{Amount, Plan, Template};
use load_tests::upstream::{Script, Upstream};
pub(crate) use pure::texts::request;

/// The model name that clients send.
pub(crate) const ALIAS: &str = "fast";
/// Bytes of a request's body.
const REQUEST_BYTES: usize = 1024;
/// Completion tokens of a whole answer: its body is then of about 600 bytes.
const WHOLE_TOKENS: usize = 67;
/// Events of a stream that come as fast as they can.
const FAST_EVENTS: usize = 200;
/// Events of a slow stream: it takes a second.
const SLOW_EVENTS: usize = 100;
/// Milliseconds between the events of a slow stream.
const SLOW_INTERVAL_MS: u64 = 10;
/// Comes back in the answer's id, and makes each event about 250 bytes long.
const USER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Where the upstream runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On the proxy's core, so that this core always has something to do.
    WithProxy,
    /// With the load generator.
    WithLoad,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Chat, answered whole.
    Whole,
    /// Streams, events as fast as they come.
    Fast,
    /// Streams, events at intervals.
    Slow,
}

/// One of the works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// What the JSON calls it.
    pub(crate) name: &'static str,
    /// What the table calls it.
    pub(crate) title: &'static str,
    /// Connections, each with one exchange at a time.
    pub(crate) connections: usize,
    /// Where the upstream runs.
    pub(crate) placement: Placement,
    kind: Kind,
}

/// All works.
pub(crate) const WORKS: [Work; 4] = [
    Work {
        name: "chat_saturated",
        title: "Non-streamed chat, 1 KiB request, 600 B answer, 64 connections, the proxy's core saturated",
        connections: 64,
        placement: Placement::WithProxy,
        kind: Kind::Whole,
    },
    Work {
        name: "chat",
        title: "The same, the upstream on the load generator's core",
        connections: 64,
        placement: Placement::WithLoad,
        kind: Kind::Whole,
    },
    Work {
        name: "streams_fast",
        title: "64 streams of 250 B events as fast as they come",
        connections: 64,
        placement: Placement::WithLoad,
        kind: Kind::Fast,
    },
    Work {
        name: "streams_slow",
        title: "256 streams, an event of 250 B every 10 ms each",
        connections: 256,
        placement: Placement::WithLoad,
        kind: Kind::Slow,
    },
];

impl Work {
    /// What is counted.
    pub(crate) fn unit(&self) -> &'static str {
        if self.kind == Kind::Whole { "exchange" } else { "event" }
    }

    /// What the latencies are of.
    pub(crate) fn latency_of(&self) -> &'static str {
        if self.kind == Kind::Whole { "exchange" } else { "first event" }
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
        let histogram = if self.kind == Kind::Whole { &report.latency } else { &report.first_byte };
        histogram.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Tells the upstream how to answer this work's requests.
    pub(crate) fn set_up(&self, upstream: &Upstream) {
        upstream.clear_scripts();
        if self.kind == Kind::Slow {
            upstream.script(Script { event_delay_ms: SLOW_INTERVAL_MS, ..Script::default() });
        }
    }

    /// What the load generator does for `time`.
    pub(crate) fn plan(&self, address: SocketAddr, keys: &[String], time: Duration) -> Plan {
        let body = self.body();
        let template = |key: &String| Template { label: String::new(), request: request(key, &body) };
        let templates = keys.iter().map(template).collect();
        let mut plan = Plan::new(address, self.connections, Amount::For(time), templates);
        plan.count_usage = false;
        plan
    }

    fn body(&self) -> String {
        let (tokens, stream) = match self.kind {
            Kind::Whole => (WHOLE_TOKENS, ""),
            Kind::Fast => (FAST_EVENTS, r#""stream":true,"#),
            Kind::Slow => (SLOW_EVENTS, r#""stream":true,"#),
        };
        let user = if self.kind == Kind::Whole { "bench" } else { USER };
        let front = r#"{"messages":[{"role":"user","content":""#;
        let back = format!(r#""}}],"max_tokens":{tokens},{stream}"user":"{user}","model":"{ALIAS}"}}"#);
        let content: String = ["Say it again. "; REQUEST_BYTES].concat();
        let room = REQUEST_BYTES.saturating_sub(front.len() + back.len());
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
    fn bodies_are_json_of_one_kibibyte_with_model_last() {
        for work in WORKS {
            let body = work.body();
            assert_eq!(body.len(), REQUEST_BYTES, "{}", work.name);
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(value["model"], ALIAS);
            assert!(body.ends_with(r#""model":"fast"}"#));
            assert_eq!(value["stream"].as_bool().unwrap_or(false), work.kind != Kind::Whole);
        }
    }
}
