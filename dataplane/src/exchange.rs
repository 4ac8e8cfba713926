//! One admitted exchange, from the acceptance of its key to settlement: its slot, and the usage event in the
//! making.
//!
//! Invariant: every exchange that was opened is settled exactly once, and before the bytes that complete its
//! answer are submitted. Dropping one settles it too, whatever dropped it: a panic, a cancelled task, the end
//! of the process.

use std::rc::Rc;
use std::time::Instant;

use wire::event::{Endpoint, Tokens, UsageEvent, UsageSource};
use wire::request_id::REQUEST_ID_BYTES;

use crate::auth::Admitted;
use crate::error::{Overload, RequestError};
use crate::metrics;
use crate::prices::{Feature, without};
use crate::slots::pool::Slot;
use crate::watch::millis;
use crate::worker::Worker;

/// What is recorded of a client that left before its answer was complete.
pub const CLIENT_LEFT: u16 = 499;

/// An exchange under way.
pub struct Exchange {
    worker: Rc<Worker>,
    slot: Option<Slot>,
    event: UsageEvent,
    began: Instant,
    request_id: [u8; REQUEST_ID_BYTES],
}

impl Exchange {
    /// Takes a slot and the next number. Fails where there is no slot; no number is used up then.
    pub fn open(worker: &Rc<Worker>, admitted: &Admitted, began: Instant) -> Result<Self, RequestError> {
        let mut event = UsageEvent {
            boot: worker.boot,
            attribution: admitted.caller.attribution,
            ts_ms: worker.watches.unix_ms(began),
            ..UsageEvent::default()
        };
        let mut slot = None;
        if !without(Feature::UsageEvents) {
            let open =
                worker.slots.borrow_mut().open(&event).ok_or(RequestError::Overloaded(Overload::Slots))?;
            event.seq = open.seq();
            slot = Some(open);
        }
        metrics::add(&worker.counters.admitted, 1);
        let request_id = worker.routes().request_ids.text(event.boot, event.seq);
        Ok(Self { worker: worker.clone(), slot, event, began, request_id })
    }

    /// What `x-request-id` says.
    pub fn request_id(&self) -> &[u8] {
        &self.request_id
    }

    /// What is known so far.
    pub fn event(&self) -> &UsageEvent {
        &self.event
    }

    /// What is asked for.
    pub fn set_request(&mut self, endpoint: Endpoint, stream: bool) {
        self.event.endpoint = endpoint;
        self.event.stream = stream;
    }

    /// The alias asked for.
    pub fn set_alias(&mut self, alias: wire::id::AliasId) {
        self.event.alias = alias;
    }

    /// The request goes to `deployment`, once more.
    pub fn attempt(&mut self, deployment: wire::id::DeploymentId) {
        self.event.deployment = deployment;
        self.event.attempts = self.event.attempts.saturating_add(1);
        self.keep();
    }

    /// The answer is that of `deployment`, after all: others were tried since, and had none.
    pub fn answered_by(&mut self, deployment: wire::id::DeploymentId) {
        self.event.deployment = deployment;
    }

    /// The answer's head is here.
    pub fn set_status(&mut self, status: u16) {
        self.event.status = status;
        self.keep();
    }

    /// Whether a byte of the answer's body has come.
    pub fn has_body(&self) -> bool {
        self.event.ttft_ms != 0
    }

    /// The first bytes of the answer's body came `now`.
    pub fn first_byte(&mut self, now: Instant) {
        self.event.ttft_ms = self.elapsed_ms(now).max(1);
    }

    /// The counts so far, if there are any; `complete` once the answer can tell no others. What is kept here
    /// survives the process.
    pub fn set_tokens(&mut self, tokens: Option<Tokens>, complete: bool) {
        let source = match tokens {
            None => UsageSource::None,
            Some(_) if complete => UsageSource::Final,
            Some(_) => UsageSource::Partial,
        };
        let tokens = tokens.unwrap_or_default();
        if (self.event.tokens, self.event.usage_source) != (tokens, source) {
            (self.event.tokens, self.event.usage_source) = (tokens, source);
            self.keep();
        }
    }

    fn keep(&mut self) {
        if let Some(slot) = &self.slot {
            slot.write(&self.event);
        }
    }

    fn elapsed_ms(&self, now: Instant) -> u32 {
        u32::try_from(millis(now.saturating_duration_since(self.began))).unwrap_or(u32::MAX)
    }

    /// Whether the final counts stand in the slot.
    pub fn is_settled(&self) -> bool {
        self.slot.is_none()
    }

    /// Hands the exchange over for recording. Only the first call counts.
    pub fn settle(&mut self, status: u16) {
        self.settle_at(status, Instant::now());
    }

    /// `settle`, where the time is known.
    pub fn settle_at(&mut self, status: u16, now: Instant) {
        let Some(slot) = self.slot.take() else { return };
        self.event.latency_ms = self.elapsed_ms(now);
        let event = &mut self.event;
        event.status = status;
        event.ts_ms = self.worker.watches.unix_ms(now);
        slot.settle(event);
        let counters = &self.worker.counters;
        let class = match status {
            CLIENT_LEFT => &counters.clients_left,
            500.. => &counters.answered_server_error,
            400.. => &counters.answered_client_error,
            _ => &counters.answered_ok,
        };
        metrics::add(class, 1);
        metrics::add(&counters.prompt_tokens, event.tokens.prompt.into());
        metrics::add(&counters.completion_tokens, event.tokens.completion.into());
        let metered = matches!(
            event.endpoint,
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Embeddings
        );
        if metered && status == 200 && event.usage_source == UsageSource::None {
            metrics::add(&counters.usage_missing, 1);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Whoever drops an exchange unsettled has given its client no complete answer; the fault of a panic
        // is ours, whatever had come before it.
        let ours = self.event.status == 0 || std::thread::panicking();
        self.settle(if ours { RequestError::Internal.reply().status } else { CLIENT_LEFT });
    }
}
