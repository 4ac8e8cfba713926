//! From a path and a body to an alias, and from an alias to a deployment.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use wire::event::Endpoint;
use wire::id::DeploymentId;

use crate::error::RequestError;
use crate::http::request_head::Method;
use crate::tables::{AliasRoute, Caller, Routes};
use crate::upstream::target::Upstream;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The model that the path names, percent-encoded as it was sent.
    pub model: Option<&'a [u8]>,
}

/// What `method` and `path` ask for.
pub fn endpoint(method: Method, path: &[u8]) -> Result<Asked<'_>, RequestError> {
    let (operation, in_path) = operation(path).ok_or(RequestError::Endpoint)?;
    let (endpoint, model) = match operation {
        b"chat/completions" => (Endpoint::ChatCompletions, in_path),
        b"completions" => (Endpoint::Completions, in_path),
        b"embeddings" => (Endpoint::Embeddings, in_path),
        b"models" if in_path.is_none() => (Endpoint::Models, None),
        _ if in_path.is_none() => {
            let model = operation.strip_prefix(b"models/").filter(|model| !model.is_empty());
            (Endpoint::Models, Some(model.ok_or(RequestError::Endpoint)?))
        }
        _ => return Err(RequestError::Endpoint),
    };
    match (endpoint, method) {
        (Endpoint::Models, Method::Get) => {}
        (Endpoint::Models, _) => return Err(RequestError::Method("GET")),
        (_, Method::Post) => {}
        _ => return Err(RequestError::Method("POST")),
    }
    Ok(Asked { endpoint, model })
}

/// The path behind `/v1/` or `/openai/v1/`, or behind `/openai/deployments/MODEL/` with the model; of
/// `/openai/` alone Azure has the models.
fn operation(path: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let azure = path.strip_prefix(b"/openai");
    if let Some(rest) = azure.and_then(|rest| rest.strip_prefix(b"/deployments/")) {
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        return Some((&rest[slash + 1..], Some(&rest[..slash])));
    }
    let models = azure.and_then(|rest| rest.strip_prefix(b"/"));
    if let Some(models) = models.filter(|rest| *rest == b"models" || rest.starts_with(b"models/")) {
        return Some((models, None));
    }
    azure.unwrap_or(path).strip_prefix(b"/v1/").map(|operation| (operation, None))
}

/// Undoes percent-encoding; `None` where it is malformed, too long for a model's name, or not UTF-8.
#[must_use]
pub fn decode_model(encoded: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len().min(crate::body::scan::MODEL_BYTES_MAX));
    let mut rest = encoded;
    while let [first, after @ ..] = rest {
        if bytes.len() == crate::body::scan::MODEL_BYTES_MAX {
            return None;
        }
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The alias that `name` stands for, and whether `caller` may use it.
pub fn alias<'a>(routes: &'a Routes, name: &str, caller: &Caller) -> (Option<&'a Arc<AliasRoute>>, bool) {
    let alias = routes.aliases.get(name);
    let allowed = alias.is_some_and(|alias| caller.allow.allows(alias.id));
    (alias, allowed)
}

/// What a worker knows of a deployment: how busy it is, and whether it failed of late.
#[derive(Default)]
pub struct Load {
    under_way: Cell<u32>,
    failures: Cell<u32>,
    down_until_ms: Cell<u64>,
}

/// After its first failure a deployment is left alone for so long; twice as long after each further one.
const DOWN_MS: u64 = 250;
const DOWN_MS_MAX: u64 = 10_000;

/// Chooses deployments for one worker.
pub struct Balance {
    loads: RefCell<HashMap<DeploymentId, Rc<Load>, RandomState>>,
    random: Cell<u64>,
}

/// A deployment in use; counts as load until it is dropped.
pub struct Chosen {
    /// The deployment.
    pub upstream: Arc<Upstream>,
    load: Rc<Load>,
}

impl Balance {
    /// `seed` sets the order of choices.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { loads: RefCell::default(), random: Cell::new(seed | 1) }
    }

    /// Chooses among those not in `tried`: two by weight, and of them the less loaded for its weight. Those
    /// that failed of late are chosen only where there is no other.
    pub fn choose(&self, upstreams: &[Arc<Upstream>], tried: &[DeploymentId], now_ms: u64) -> Option<Chosen> {
        if let ([only], []) = (upstreams, tried) {
            return Some(self.chosen(only));
        }
        let untried = |u: &&Arc<Upstream>| u.spec.weight > 0 && !tried.contains(&u.spec.id);
        let up = |u: &&Arc<Upstream>| self.load(u.spec.id).down_until_ms.get() <= now_ms;
        let mut candidates: Vec<&Arc<Upstream>> = upstreams.iter().filter(untried).filter(up).collect();
        if candidates.is_empty() {
            candidates = upstreams.iter().filter(untried).collect();
        }
        let first = self.by_weight(&candidates)?;
        let others: Vec<_> = candidates.into_iter().filter(|u| u.spec.id != first.spec.id).collect();
        let second = self.by_weight(&others).unwrap_or(first);
        let pressure =
            |u: &Upstream| f64::from(self.load(u.spec.id).under_way.get()) / f64::from(u.spec.weight);
        Some(self.chosen(if pressure(second) < pressure(first) { second } else { first }))
    }

    fn by_weight<'a>(&self, candidates: &[&'a Arc<Upstream>]) -> Option<&'a Arc<Upstream>> {
        let total: u64 = candidates.iter().map(|u| u64::from(u.spec.weight)).sum();
        let mut at = self.next_random().checked_rem(total)?;
        candidates.iter().copied().find(|u| {
            let weight = u64::from(u.spec.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    fn next_random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    fn load(&self, id: DeploymentId) -> Rc<Load> {
        self.loads.borrow_mut().entry(id).or_default().clone()
    }

    fn chosen(&self, upstream: &Arc<Upstream>) -> Chosen {
        let load = self.load(upstream.spec.id);
        load.under_way.set(load.under_way.get() + 1);
        Chosen { upstream: upstream.clone(), load }
    }
}

impl Chosen {
    /// It could not be used, as is known from `now_ms` on: others are preferred for a while.
    pub fn failed(&self, now_ms: u64) {
        let failures = self.load.failures.get();
        self.load.failures.set(failures.saturating_add(1));
        let down_ms = (DOWN_MS << failures.min(6)).min(DOWN_MS_MAX);
        self.load.down_until_ms.set(now_ms + down_ms);
    }

    /// It answered.
    pub fn answered(&self) {
        if self.load.failures.get() != 0 {
            self.load.failures.set(0);
            self.load.down_until_ms.set(0);
        }
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.load.under_way.set(self.load.under_way.get() - 1);
    }
}

#[cfg(test)]
mod tests;
