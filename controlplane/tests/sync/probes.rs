//! Probes: connections to every worker that ask with one key, again and again, until it is refused.
//!
//! `GET /v1/models` is answered by the data plane alone, so what is seen is the check of the key.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use load_tests::client::{Connection, request};

/// Connections to each data plane: two workers both have some of them, but for once in 128 runs.
const CONNECTIONS: usize = 8;

/// What probes saw of one revocation at one data plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// From the call to the refusal of the last connection.
    pub(crate) refused: Duration,
    /// From the call to its return.
    pub(crate) receipt: Duration,
    /// Requests that were sent after the call had returned and were accepted all the same.
    pub(crate) accepted_after: u64,
}

/// Probes with one key.
pub(crate) struct Probes {
    connections: Vec<Vec<Connection>>,
}

impl Probes {
    pub(crate) fn open(planes: &[SocketAddr]) -> Self {
        let each =
            |address: &SocketAddr| (0..CONNECTIONS).map(|_| Connection::open(*address).unwrap()).collect();
        Self { connections: planes.iter().map(each).collect() }
    }

    /// Revokes by a call while the probes ask, and returns what was seen at each data plane.
    pub(crate) fn watch<T>(&mut self, key: &str, revoke: impl FnOnce() -> T) -> (T, Vec<Seen>) {
        let asked = request("GET", "/v1/models", &[("authorization", &format!("Bearer {key}"))], b"");
        for connection in self.connections.iter_mut().flatten() {
            assert_eq!(connection.exchange(&asked).unwrap().status(), 200, "the key is good at first");
        }
        let planes = self.connections.len();
        let (began, returned_us) = (Instant::now(), AtomicU64::new(u64::MAX));
        let accepted: Vec<AtomicU64> = (0..planes).map(|_| AtomicU64::new(0)).collect();
        let refused_us: Vec<AtomicU64> = (0..planes).map(|_| AtomicU64::new(0)).collect();
        let called_us = AtomicU64::new(0);
        // One thread for each data plane, so that the threads that measure are not what is measured.
        let ready = Barrier::new(planes + 1);
        let outcome = std::thread::scope(|scope| {
            for (plane, connections) in self.connections.iter_mut().enumerate() {
                let (accepted, refused_us) = (&accepted[plane], &refused_us[plane]);
                let (ready, returned_us, asked) = (&ready, &returned_us, &asked);
                scope.spawn(move || {
                    ready.wait();
                    let mut open: Vec<_> = connections.iter_mut().map(|connection| (connection, 0)).collect();
                    while !open.is_empty() {
                        // All ask at once: one that waited for the others would measure their answers, too.
                        for (connection, sent) in &mut open {
                            *sent = micros(began);
                            connection.send(asked).unwrap();
                        }
                        open.retain_mut(|(connection, sent)| {
                            let status = connection.response().unwrap().status();
                            match status {
                                200 if *sent > returned_us.load(Ordering::Acquire) => {
                                    accepted.fetch_add(1, Ordering::Relaxed);
                                    true
                                }
                                200 => true,
                                401 => {
                                    refused_us.fetch_max(micros(began), Ordering::Relaxed);
                                    false
                                }
                                other => panic!("a probe was answered {other}"),
                            }
                        });
                    }
                });
            }
            ready.wait();
            called_us.store(micros(began), Ordering::Relaxed);
            let outcome = revoke();
            returned_us.store(micros(began), Ordering::Release);
            outcome
        });
        let (called, returned) = (called_us.into_inner(), returned_us.into_inner());
        let seen = accepted.into_iter().zip(refused_us).map(|(accepted, refused)| Seen {
            refused: Duration::from_micros(refused.into_inner().saturating_sub(called)),
            receipt: Duration::from_micros(returned - called),
            accepted_after: accepted.into_inner(),
        });
        (outcome, seen.collect())
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap()
}

/// The figure that `percent` of all are not above.
pub(crate) fn percentile(figures: &[Duration], percent: usize) -> Duration {
    let mut figures = figures.to_vec();
    figures.sort_unstable();
    figures[(figures.len() * percent).div_ceil(100).clamp(1, figures.len()) - 1]
}
