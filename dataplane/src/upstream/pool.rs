//! Idle upstream connections of one worker.
//!
//! A connection comes here only after an exchange that ended in order: the request fully sent, the response
//! fully read to the end of its framing, no byte more, nothing cancelled. It is looked at before it is used
//! again, and dropped after a time that is shorter than what servers keep (uvicorn closes after 5 s), so that
//! a request is hardly ever spent on a connection that the upstream is closing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use wire::id::DeploymentId;

use crate::net::Stream;
use crate::upstream::target::{Target, Upstream};

/// How long a connection is kept without use, in milliseconds.
const IDLE_MS_MAX: u64 = 4_000;
/// How many a worker keeps for one deployment.
const IDLE_CONNECTIONS_MAX: usize = 1024;

struct Idle {
    stream: Stream,
    target: Arc<Target>,
    since_ms: u64,
}

/// Idle connections by deployment, last used first.
#[derive(Default)]
pub struct UpstreamPool {
    idle: RefCell<HashMap<DeploymentId, Vec<Idle>, RandomState>>,
}

impl UpstreamPool {
    /// A connection to `upstream` that can carry a request, if there is one.
    pub fn take(&self, upstream: &Upstream, now_ms: u64) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&upstream.spec.id)?;
        while let Some(found) = connections.pop() {
            let fresh = now_ms.saturating_sub(found.since_ms) < IDLE_MS_MAX;
            let same = Arc::ptr_eq(&found.target, &upstream.target);
            if fresh && same && found.stream.is_quiet() {
                return Some(found.stream);
            }
        }
        None
    }

    /// Keeps a connection whose exchange ended in order.
    pub fn give(&self, upstream: &Upstream, stream: Stream, now_ms: u64) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(upstream.spec.id).or_default();
        if connections.len() < IDLE_CONNECTIONS_MAX {
            connections.push(Idle { stream, target: upstream.target.clone(), since_ms: now_ms });
        }
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self, now_ms: u64) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| {
            // They are in the order of their last use.
            let old = connections.partition_point(|c| now_ms.saturating_sub(c.since_ms) >= IDLE_MS_MAX);
            connections.drain(..old);
            !connections.is_empty()
        });
    }
}
