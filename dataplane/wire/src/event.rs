//! The usage event: what is known of one exchange that was admitted, and nothing of what was said in it.
//!
//! 80 bytes, the same in a slot, in a record of the spool and in a batch:
//!
//! ```text
//!   0  ts_ms u64          settlement, Unix time in milliseconds (the start is ts - latency)
//!   8  boot u64           16  seq u64           24  attribution u64
//!  32  alias u32          36  deployment u32
//!  40  status u16         42  endpoint u8       43  flags u8 (bit 0: stream)
//!  44  usage_source u8    45  attempts u8       46  zero u16
//!  48  prompt u32         52  cached u32        56  cache_write u32
//!  60  completion u32     64  reasoning u32     68  total u32
//!  72  latency_ms u32     76  ttft_ms u32 (0: no byte of an answer came)
//! ```
//!
//! Strings are not in it: alias, deployment and attribution are numbers from the registry's closed sets.

use crate::codec::{DecodeError, Reader};
use crate::id::{AliasId, AttributionId, BootId, DeploymentId, EventSeq};

/// The length of an encoded usage event.
pub const EVENT_BYTES: usize = 80;
/// The most usage events that one batch holds.
pub const BATCH_EVENTS_MAX: usize = 100_000;
/// One UTC day in milliseconds.
pub const DAY_MS: u64 = 86_400_000;

/// Where an event's token counts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum UsageSource {
    /// The upstream never said.
    #[default]
    None = 0,
    /// What the upstream had said when the exchange was cut.
    Partial = 1,
    /// The upstream's final figures.
    Final = 2,
}

/// Which of the served endpoints an exchange used; a closed set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Endpoint {
    /// Anything that is not served.
    #[default]
    Other = 0,
    /// `POST /v1/chat/completions`
    ChatCompletions = 1,
    /// `POST /v1/completions`
    Completions = 2,
    /// `POST /v1/embeddings`
    Embeddings = 3,
    /// `GET /v1/models` and `GET /v1/models/{id}`
    Models = 4,
}

impl Endpoint {
    /// The name in ClickHouse, metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::ChatCompletions => "chat.completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
        }
    }
}

/// Token counts as the upstream reported them, in one normal form: `prompt` includes `cached`, `completion`
/// includes `reasoning`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All input.
    pub prompt: u32,
    /// The part of the input that was read from a cache.
    pub cached: u32,
    /// The part of the input that was written to a cache.
    pub cache_write: u32,
    /// All output.
    pub completion: u32,
    /// The part of the output that was reasoning.
    pub reasoning: u32,
    /// As reported, or `prompt + completion` where the upstream does not say.
    pub total: u32,
}

/// The metering record of one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageEvent {
    /// Settlement, Unix time in milliseconds.
    pub ts_ms: u64,
    /// The process that admitted the exchange.
    pub boot: BootId,
    /// Its number there.
    pub seq: EventSeq,
    /// Who it is billed to.
    pub attribution: AttributionId,
    /// The alias asked for, 0 where it is none that we know.
    pub alias: AliasId,
    /// The deployment that answered (or was tried last), 0 where none was chosen.
    pub deployment: DeploymentId,
    /// The HTTP status that the client got; 499 where it left before an answer.
    pub status: u16,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Where the counts come from.
    pub usage_source: UsageSource,
    /// How many times the request was sent to an upstream.
    pub attempts: u8,
    /// The counts.
    pub tokens: Tokens,
    /// From the request's head to settlement, in milliseconds.
    pub latency_ms: u32,
    /// From the request's head to the first byte of the answer's body, in milliseconds.
    pub ttft_ms: u32,
}

impl UsageEvent {
    /// Encodes the event in its 80 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; EVENT_BYTES] {
        let mut out = [0; EVENT_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.ts_ms.to_le_bytes());
        put(&self.boot.0.to_le_bytes());
        put(&self.seq.0.to_le_bytes());
        put(&self.attribution.0.to_le_bytes());
        put(&self.alias.0.to_le_bytes());
        put(&self.deployment.0.to_le_bytes());
        put(&self.status.to_le_bytes());
        put(&[self.endpoint as u8, u8::from(self.stream), self.usage_source as u8, self.attempts, 0, 0]);
        let tokens = &self.tokens;
        for count in [
            tokens.prompt,
            tokens.cached,
            tokens.cache_write,
            tokens.completion,
            tokens.reasoning,
            tokens.total,
            self.latency_ms,
            self.ttft_ms,
        ] {
            put(&count.to_le_bytes());
        }
        out
    }

    /// Reads an event back. Fails where the bytes are too few or a closed set has another value.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let mut event = Self {
            ts_ms: r.u64("ts_ms")?,
            boot: BootId(r.u64("boot")?),
            seq: EventSeq(r.u64("seq")?),
            attribution: AttributionId(r.u64("attribution")?),
            alias: AliasId(r.u32("alias")?),
            deployment: DeploymentId(r.u32("deployment")?),
            status: r.u16("status")?,
            endpoint: endpoint(r.u8("endpoint")?)?,
            stream: r.u8("flags")? & 1 != 0,
            usage_source: usage_source(r.u8("usage_source")?)?,
            attempts: r.u8("attempts")?,
            ..Self::default()
        };
        r.u16("zero")?;
        event.tokens = Tokens {
            prompt: r.u32("prompt")?,
            cached: r.u32("cached")?,
            cache_write: r.u32("cache_write")?,
            completion: r.u32("completion")?,
            reasoning: r.u32("reasoning")?,
            total: r.u32("total")?,
        };
        event.latency_ms = r.u32("latency_ms")?;
        event.ttft_ms = r.u32("ttft_ms")?;
        Ok(event)
    }

    /// The UTC day of settlement, in days since 1970.
    #[must_use]
    pub fn day(&self) -> u32 {
        u32::try_from(self.ts_ms / DAY_MS).unwrap_or(u32::MAX)
    }
}

fn endpoint(value: u8) -> Result<Endpoint, DecodeError> {
    [
        Endpoint::Other,
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Embeddings,
        Endpoint::Models,
    ]
    .into_iter()
    .find(|e| *e as u8 == value)
    .ok_or(DecodeError::Value { field: "endpoint", value: value.into() })
}

fn usage_source(value: u8) -> Result<UsageSource, DecodeError> {
    match value {
        0 => Ok(UsageSource::None),
        1 => Ok(UsageSource::Partial),
        2 => Ok(UsageSource::Final),
        _ => Err(DecodeError::Value { field: "usage_source", value: value.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> UsageEvent {
        UsageEvent {
            ts_ms: 1_795_000_000_123,
            boot: BootId(7),
            seq: EventSeq::admitted(1, 42),
            attribution: AttributionId(9),
            alias: AliasId(3),
            deployment: DeploymentId(4),
            status: 200,
            endpoint: Endpoint::ChatCompletions,
            stream: true,
            usage_source: UsageSource::Final,
            attempts: 2,
            tokens: Tokens {
                prompt: 1,
                cached: 2,
                cache_write: 3,
                completion: 4,
                reasoning: 5,
                total: u32::MAX,
            },
            latency_ms: 77,
            ttft_ms: 11,
        }
    }

    #[test]
    fn an_event_reads_back_as_it_was_written() {
        assert_eq!(UsageEvent::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn an_event_cut_at_any_byte_is_refused() {
        let bytes = sample().encode();
        for len in 0..EVENT_BYTES {
            assert!(UsageEvent::decode(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn values_outside_the_closed_sets_are_refused() {
        for (at, field) in [(42, "endpoint"), (44, "usage_source")] {
            let mut bytes = sample().encode();
            bytes[at] = 200;
            assert_eq!(UsageEvent::decode(&bytes), Err(DecodeError::Value { field, value: 200 }));
        }
    }
}
