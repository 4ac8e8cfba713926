//! Counters of one worker, and of all: plain atomics that only their worker writes and the ops thread adds
//! up.
//!
//! Labels come from closed sets; no key, caller or alias is one.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $metric:literal, $help:literal;)*) => {
        /// Counters of one worker; on a cache line that no other worker writes.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Name, help and value of each.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($metric, $help, self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted: "liutong_connections_accepted_total", "Client connections accepted.";
    /// Connections closed again.
    connections_closed: "liutong_connections_closed_total", "Client connections closed.";
    /// Connections turned away at the limit.
    connections_refused: "liutong_connections_refused_total", "Client connections refused at the limit.";
    /// TLS handshakes with clients.
    tls_handshakes: "liutong_tls_handshakes_total", "TLS handshakes with clients that were completed.";
    /// Those of them that took up an earlier session.
    tls_resumed: "liutong_tls_handshakes_resumed_total", "Completed TLS handshakes that resumed a session.";
    /// TLS handshakes that failed.
    tls_failed: "liutong_tls_handshakes_failed_total", "TLS handshakes with clients that failed or took too long.";
    /// HTTP/2 connections.
    http2_connections: "liutong_http2_connections_total", "Client connections that speak HTTP/2.";
    /// HTTP/2 streams.
    http2_streams: "liutong_http2_streams_total", "HTTP/2 streams taken up.";
    /// HTTP/2 streams turned away at the limit of connections.
    http2_streams_refused: "liutong_http2_streams_refused_total", "HTTP/2 streams refused at the limit of connections.";
    /// HTTP/2 connections ended since their client only kept us busy.
    http2_floods: "liutong_http2_floods_total", "HTTP/2 connections ended since their client only kept us busy.";
    /// Requests whose key was accepted.
    admitted: "liutong_exchanges_admitted_total", "Exchanges admitted: their key was accepted.";
    /// Requests answered without being admitted.
    not_admitted: "liutong_requests_not_admitted_total", "Requests answered before a key was accepted.";
    /// Keys refused.
    keys_refused: "liutong_keys_refused_total", "Requests whose key was malformed, unknown, revoked or expired.";
    /// Of those, the keys that were revoked.
    revoked_key_uses: "liutong_refused_key_uses_total{reason=\"revoked\"}", "Requests with a known, refused key.";
    /// Of those, the keys whose time is over.
    expired_key_uses: "liutong_refused_key_uses_total{reason=\"expired\"}", "Requests with a known, refused key.";
    /// Exchanges answered with 2xx.
    answered_ok: "liutong_exchanges_ok_total", "Exchanges answered with a status below 400.";
    /// Exchanges answered with 4xx.
    answered_client_error: "liutong_exchanges_client_error_total", "Exchanges answered with a status from 400 to 499.";
    /// Exchanges answered with 5xx.
    answered_server_error: "liutong_exchanges_server_error_total", "Exchanges answered with a status of 500 or more.";
    /// Clients that left before their answer was complete.
    clients_left: "liutong_clients_left_total", "Exchanges whose client left before the answer was complete.";
    /// New connections to upstreams.
    upstream_connects: "liutong_upstream_connects_total", "Connections made to upstreams.";
    /// Requests sent to upstreams.
    upstream_attempts: "liutong_upstream_attempts_total", "Requests sent to upstreams, retries included.";
    /// Upstream connections or answers that failed.
    upstream_failures: "liutong_upstream_failures_total", "Attempts that failed: no connection, broken or late answer.";
    /// Upstreams that refused our credential.
    upstream_credential_refused: "liutong_upstream_credential_refused_total", "Answers 401 or 403 to our own credential: see to it.";
    /// Answers of 2xx to a metered request that carried no usage.
    usage_missing: "liutong_usage_missing_total", "Answers with status 200 without any usage.";
    /// Tokens of prompts.
    prompt_tokens: "liutong_prompt_tokens_total", "Prompt tokens recorded.";
    /// Tokens of completions.
    completion_tokens: "liutong_completion_tokens_total", "Completion tokens recorded.";
    /// Tasks that panicked.
    panics: "liutong_panics_total", "Connection tasks that panicked.";
}

/// Adds to a counter. Only its worker writes it, so there is nothing to contend for.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// Appends one metric in Prometheus's text format. Those that differ by a label alone come one after the
/// other.
pub fn append(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    use std::fmt::Write as _;
    let family = name.split('{').next().unwrap_or(name);
    let last = out.lines().next_back().unwrap_or_default();
    // Writing into a String does not fail.
    if family == name || last.split('{').next() != Some(family) {
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }
    let _ = writeln!(out, "{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_differ_by_a_label_have_one_head() {
        let mut out = String::new();
        append(&mut out, "a_total", "counter", "A.", 1);
        append(&mut out, "b_total{x=\"1\"}", "counter", "B.", 2);
        append(&mut out, "b_total{x=\"2\"}", "counter", "B.", 3);
        let b = "# HELP b_total B.\n# TYPE b_total counter\nb_total{x=\"1\"} 2\nb_total{x=\"2\"} 3\n";
        assert_eq!(out, format!("# HELP a_total A.\n# TYPE a_total counter\na_total 1\n{b}"));
    }
}
