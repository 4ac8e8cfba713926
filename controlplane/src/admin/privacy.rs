//! Legal holds, erasure, and what is stored about a team or a key.

/// All that is stored about a team or a key.
mod export;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::export::export;
use super::ApiError;
use super::input::Nothing;
use super::revocation::Nodes;
use super::route::{Answer, Call};
use crate::privacy::inventory::{self, Kept};
use crate::registry::hold::{Hold, SubjectKind};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldBody {
    organization: Option<String>,
    team: Option<String>,
    application: Option<String>,
    key: Option<String>,
    /// Why, for whoever releases it.
    reason: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldParams {
    /// Also those that are over.
    #[serde(default)]
    released: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EraseBody {
    team: Option<String>,
    key: Option<String>,
    /// Also ends what is under way with the keys.
    #[serde(default)]
    cut_streams: bool,
}

/// A legal hold.
#[derive(JsonSchema, Serialize)]
pub(super) struct HoldState {
    #[serde(flatten)]
    hold: Hold,
    /// Whether ClickHouse heeds the change already; only in the answer to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<bool>,
}

/// All holds.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "list")]
pub(super) struct Holds {
    data: Vec<HoldState>,
    has_more: bool,
}

/// What erasing came to.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "erasure")]
pub(super) struct Erasure {
    kind: &'static str,
    /// The id that it had.
    subject: String,
    /// Under which name the sums of its usage stay.
    pseudonym: String,
    /// How many ids went: its own, and those of what belonged to it.
    ids: usize,
    /// `erased`, or `pending` while ClickHouse is away or still gets what came before.
    usage: &'static str,
    /// How many rows of usage went.
    rows: Option<u64>,
    #[serde(flatten)]
    nodes: Nodes,
}

/// Something that is stored.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "stored")]
pub(super) struct StoredState {
    place: &'static str,
    name: &'static str,
    what: &'static str,
    kept: String,
    days: Option<u32>,
    rows: Option<u64>,
    bytes: Option<u64>,
}

/// What is stored where, and for how long.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "list")]
pub(super) struct Report {
    data: Vec<StoredState>,
    has_more: bool,
    holds: Vec<HoldState>,
    /// How many erasures there were.
    erasures: usize,
    /// What is stored nowhere.
    never: &'static str,
}

/// The one thing of several that is named.
fn one<const N: usize>(given: [(SubjectKind, Option<String>); N]) -> Result<(SubjectKind, String), ApiError> {
    let words: Vec<&str> = given.iter().map(|(kind, _)| kind.name()).collect();
    let message = format!("one of {}", words.join(", "));
    let mut named = given.into_iter().filter_map(|(kind, name)| Some((kind, name?)));
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(ApiError::Invalid(message)),
    }
}

/// Holds an organization, a team, an application or a key.
pub(super) async fn hold(call: Call, _: Nothing, body: HoldBody) -> Answer<HoldState> {
    let (kind, wanted) = one([
        (SubjectKind::Organization, body.organization),
        (SubjectKind::Team, body.team),
        (SubjectKind::Application, body.application),
        (SubjectKind::Key, body.key),
    ])?;
    let held = call.api.privacy.hold(&call.registry, (kind, &wanted), &body.reason).await;
    let (hold, in_force) = held?;
    Ok(HoldState { hold, in_force: Some(in_force) }.into())
}

/// The holds.
pub(super) async fn holds(call: Call, params: HoldParams) -> Answer<Holds> {
    let holds = call.registry.holds(params.released).await?;
    let data = holds.into_iter().map(|hold| HoldState { hold, in_force: None }).collect();
    Ok(Holds { data, has_more: false }.into())
}

/// Ends a hold: what it kept expires, and can be erased.
pub(super) async fn release(call: Call, _: Nothing) -> Answer<HoldState> {
    let (hold, in_force) = call.api.privacy.release(&call.registry, call.name()).await?;
    Ok(HoldState { hold, in_force: Some(in_force) }.into())
}

/// Erases a team or a key.
pub(super) async fn erase(call: Call, _: Nothing, body: EraseBody) -> Answer<Erasure> {
    let (kind, wanted) = one([(SubjectKind::Team, body.team), (SubjectKind::Key, body.key)])?;
    // On its own task: a client that leaves must not stop it half-way.
    let erased = tokio::spawn(async move {
        call.api.privacy.erase(&call.registry, (kind, &wanted), body.cut_streams).await
    });
    let erased = erased.await.map_err(|_| ApiError::Broken)??;
    let usage = if erased.rows.is_some() { "erased" } else { "pending" };
    let nodes = Nodes::of(&erased.receipt);
    let (subject, gone) = (erased.due.subject, erased.due.gone);
    let ids = gone.ids.len();
    let pseudonym = gone.pseudonym;
    Ok(Erasure { kind: kind.name(), subject, pseudonym, ids, usage, rows: erased.rows, nodes }.into())
}

/// What is stored where, and for how long.
pub(super) async fn report(call: Call, _: Nothing) -> Answer<Report> {
    // What is kept, and for how long, holds while ClickHouse is away too; how much it is, is then left out.
    let sizes = call.api.store.sizes().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the privacy report has no sizes");
        Vec::new()
    });
    let stored = inventory::all(call.api.privacy.retention(), call.api.backup_keep_days);
    let mut data = Vec::new();
    for one in stored {
        let (kept, days) = match one.kept {
            Kept::Days(days) => (format!("{days} days"), Some(days)),
            Kept::UntilRemoved => ("until removed or erased".to_owned(), None),
            Kept::Other(text) => (text.to_owned(), None),
        };
        for name in one.names {
            let size = sizes.iter().find(|size| one.place == "clickhouse" && size.name == *name);
            let (rows, bytes) = (size.map(|size| size.rows), size.map(|size| size.bytes));
            let (place, what, kept) = (one.place, one.what, kept.clone());
            data.push(StoredState { place, name, what, kept, days, rows, bytes });
        }
    }
    let holds = call.registry.holds(false).await?;
    let holds = holds.into_iter().map(|hold| HoldState { hold, in_force: None }).collect();
    let erasures = call.registry.erasures_made().await?.len();
    let never = "prompts, inputs, answers, addresses, user agents, headers, secrets";
    Ok(Report { data, has_more: false, holds, erasures, never }.into())
}
