//! Health and metrics, on a listener of their own and a thread of their own.
//!
//! `/healthz` answers while the process lives; `/readyz` is 200 once there are tables to check keys by, usage
//! can be written, and the process is not ending; `/metrics` is Prometheus's text format.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::metrics::{self, Counters};
use crate::worker::{ACCEPT_REST, Shared};

/// How long a caller of this listener may take for its request and its answer: others wait.
const PATIENCE: Duration = Duration::from_secs(2);
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// What is shown.
pub struct Ops {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// Counters of each worker.
    pub counters: Vec<Arc<Counters>>,
}

/// Answers on `listener` until the process ends.
pub fn start(listener: TcpListener, ops: Ops) -> io::Result<()> {
    std::thread::Builder::new()
        .name("ops".into())
        .spawn(move || {
            for caller in listener.incoming() {
                // A caller that leaves or dawdles is its own trouble.
                let answered = caller.map(|caller| ops.answer(caller));
                if answered.is_err() {
                    // Without a descriptor accepting fails at once, and again at once.
                    std::thread::sleep(ACCEPT_REST);
                }
            }
        })
        .map(drop)
}

/// How long it is until `end`, which has not come yet.
fn left_until(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    // The system takes a limit of nothing for none.
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

impl Ops {
    fn answer(&self, mut caller: TcpStream) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut head = Vec::new();
        let mut piece = [0; 1024];
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            caller.set_read_timeout(Some(left_until(end)?))?;
            match caller.read(&mut piece)? {
                0 => return Ok(()),
                len => head.extend_from_slice(&piece[..len]),
            }
            if head.len() > HEAD_BYTES_MAX {
                return Ok(());
            }
        }
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let (status, body) = match path {
            b"/healthz" => ("200 OK", "ok\n".to_owned()),
            b"/readyz" => match self.unready() {
                None => ("200 OK", "ready\n".to_owned()),
                Some(why) => ("503 Service Unavailable", format!("not ready: {why}\n")),
            },
            b"/metrics" => ("200 OK", self.metrics()),
            _ => ("404 Not Found", "here are /healthz, /readyz and /metrics\n".to_owned()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let answer = [head.as_bytes(), body.as_bytes()].concat();
        let mut unsent = answer.as_slice();
        while !unsent.is_empty() {
            caller.set_write_timeout(Some(left_until(end)?))?;
            let len = caller.write(unsent)?;
            unsent = &unsent[len..];
        }
        Ok(())
    }

    fn unready(&self) -> Option<&'static str> {
        if self.shared.draining.load(Ordering::Relaxed) {
            Some("ending")
        } else if !self.shared.tables.is_ready() {
            Some("no snapshot of the registry yet; is the control plane running?")
        } else if self.shared.tables.freshness.is_stale() {
            Some("cut off from the control plane for longer than control.stale_limit_seconds allows")
        } else if self.shared.usage.figures().opening {
            Some("usage of an earlier process can't be taken over yet; is the disk full?")
        } else if self.shared.usage.is_full() {
            Some("usage can't be written; is the disk full?")
        } else {
            None
        }
    }

    fn metrics(&self) -> String {
        let mut out = String::new();
        let workers: Vec<Vec<_>> = self.counters.iter().map(|counters| counters.each().collect()).collect();
        for (at, (name, help, _)) in workers.first().into_iter().flatten().enumerate() {
            let sum = workers.iter().map(|worker| worker[at].2).sum();
            metrics::append(&mut out, name, "counter", help, sum);
        }
        let tables = &self.shared.tables;
        for (name, help, value) in tables.delta_times.each() {
            metrics::append(&mut out, name, "counter", help, value);
        }
        let mut gauge = |name, help, value| metrics::append(&mut out, name, "gauge", help, value);
        gauge("liutong_ready", "Whether requests are served.", u64::from(self.unready().is_none()));
        gauge(
            "liutong_registry_generation",
            "The generation that the tables stand for.",
            tables.generation(),
        );
        gauge(
            "liutong_registry_age_seconds",
            "How long ago the tables were known to be the control plane's; small while it is reached.",
            tables.freshness.age().as_secs(),
        );
        gauge("liutong_keys", "Keys in the tables.", tables.key_count() as u64);
        gauge(
            "liutong_body_bytes_held",
            "Bytes of request bodies held, beyond small ones.",
            self.shared.bodies.held() as u64,
        );
        if let Some(tls) = &self.shared.client_tls {
            gauge(
                "liutong_tls_certificate_end_seconds",
                "When the first of the certificates in use ends, in seconds since 1970.",
                tls.not_after_s(),
            );
        }
        self.append_usage(&mut out);
        out
    }

    /// Where every usage event is. `admitted = in_flight + appended` and `appended + adopted + found = acked
    /// + pending + set_aside + lost` hold whenever nothing is on the move.
    fn append_usage(&self, out: &mut String) {
        let figures = self.shared.usage.figures();
        let counters = [
            ("admitted", "Exchanges admitted by this process.", figures.admitted),
            ("appended", "Usage events of this process written to its spool.", figures.appended),
            ("adopted", "Usage events taken over from processes that are gone.", figures.adopted),
            ("found", "Usage events in batches that earlier processes left unacknowledged.", figures.found),
            ("sealed", "Usage events in batches of this process's spool.", figures.sealed),
            ("acked", "Usage events that are stored.", figures.acked),
            ("set_aside", "Usage events that can never be stored, kept in set_aside.", figures.set_aside),
            ("lost", "Usage events that were in a batch and can't be read any more.", figures.lost),
            ("lost_slots", "Slots whose usage event could not be read.", figures.lost_slots),
            ("damaged_bytes", "Bytes of damaged spool that were stepped over.", figures.damaged_bytes),
            ("batches", "Batches that are stored.", figures.batches),
            ("resent", "Batches that were sent again.", figures.resent),
            ("disk_errors", "Errors of writing or syncing the spool.", figures.disk_errors),
        ];
        for (name, help, value) in counters {
            metrics::append(out, &format!("liutong_usage_{name}_total"), "counter", help, value);
        }
        let gauges = [
            ("in_flight", "Exchanges admitted and not yet in the spool.", figures.in_flight),
            ("pending", "Usage events on disk and not acknowledged.", figures.pending),
            ("segments", "Segments of the spool.", figures.segments),
            ("bytes", "Bytes of the spool.", figures.bytes),
            ("full", "Whether usage can't be written now.", u64::from(figures.full)),
            ("control_connected", "Whether the control plane takes batches.", u64::from(figures.connected)),
        ];
        for (name, help, value) in gauges {
            metrics::append(out, &format!("liutong_usage_{name}"), "gauge", help, value);
        }
    }
}
