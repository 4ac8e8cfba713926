//! The audit trail: a record of each call that changes something or is refused, bound to the one before.
//!
//! ```text
//! digest = SHA-256(salt, detail)                                   of a record; the detail may be erased
//! hash   = SHA-256(hash of the record before, seq, time, by, action, result, organization, team, subjects,
//!                  digest)                                         each with its length before it
//! ```
//!
//! A record is written in the transaction of the change that it tells of: there is none without the other.
//! The detail holds what was changed, before and after. Erasing it (with its salt, so that nobody can guess
//! what it was) leaves the chain whole.
//!
//! Invariants:
//!
//!   * records are numbered from 1 without gaps, the last one is what the counter `audit` says
//!   * no record is ever changed, but that its detail may be erased

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use wire::id::NodeId;

use super::act::{Act, Subject};
use super::write::Write;
use super::{Conn, Db, Registry, RegistryError, Result};
use crate::keys;

/// Checking a trail that was exported.
pub mod exported;
/// Reading records.
pub mod read;
/// What a restore leaves in the trail.
pub mod restored;
/// Finding what was removed, changed or put elsewhere.
pub mod verify;

/// The first record follows this.
const BEGINNING: [u8; 32] = [0; 32];
const SALT_BYTES: usize = 16;
/// What ids of ours begin with, but those of nodes.
const ID_LETTERS: [&str; 5] = ["org", "team", "app", "key", "adm"];
/// The longest id, in what follows these.
const ID_DIGITS_MAX: usize = 16;
/// How many records are looked at together for what is to be forgotten.
const FORGET_ROWS: i64 = 1000;

/// What a transaction does to one thing.
pub(super) struct Touched {
    subject: String,
    organization: String,
    team: String,
    before: Value,
    after: Value,
}

impl Touched {
    fn of(thing: &impl Subject) -> Self {
        let (organization, team) = thing.owner();
        Self {
            subject: thing.subject().to_owned(),
            organization: organization.unwrap_or_default().to_owned(),
            team: team.unwrap_or_default().to_owned(),
            before: Value::Null,
            after: Value::Null,
        }
    }

    /// Something as it is before the change.
    pub(super) fn before(thing: &impl Subject) -> Self {
        Self { before: shown(thing), ..Self::of(thing) }
    }

    /// Something that is new.
    pub(super) fn after(thing: &impl Subject) -> Self {
        Self { after: shown(thing), ..Self::of(thing) }
    }

    /// The organization and the team that it is in.
    fn place(&self) -> (&str, &str) {
        (&self.organization, &self.team)
    }

    /// The members that changed; all of them where it is new or gone.
    fn change(&self) -> Value {
        let (before, after) = match (&self.before, &self.after) {
            (Value::Object(before), Value::Object(after)) => {
                (differing(before, after), differing(after, before))
            }
            (before, after) => (before.clone(), after.clone()),
        };
        json!({"id": self.subject, "before": before, "after": after})
    }
}

fn shown(thing: &impl Subject) -> Value {
    // What is shown is made of strings and numbers, which can always be written.
    serde_json::to_value(thing).unwrap_or_default()
}

/// Whether one of these ids stands anywhere in a value.
pub(super) fn names(value: &Value, ids: &HashSet<&str>) -> bool {
    match value {
        Value::String(text) => ids.contains(text.as_str()),
        Value::Array(values) => values.iter().any(|one| names(one, ids)),
        Value::Object(members) => members.values().any(|one| names(one, ids)),
        _ => false,
    }
}

fn differing(one: &Map<String, Value>, other: &Map<String, Value>) -> Value {
    let differs = |(name, value): &(&String, &Value)| other.get(*name) != Some(*value);
    one.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What one record says.
struct Said<'s> {
    by: &'s str,
    action: &'s str,
    result: &'s str,
    organization: &'s str,
    team: &'s str,
    subjects: String,
    detail: Value,
}

impl Write<'_> {
    /// Notes what a thing is after the change.
    pub(super) fn after(&mut self, made: &impl Subject) {
        self.answer = shown(made);
        let mut after = Touched::after(made);
        let same = |one: &&mut Touched| one.subject == after.subject && one.place() == after.place();
        // What has moved is seen to go where it was, and to come where it is now: neither side hears of the
        // other.
        match self.touched.iter_mut().find(same) {
            Some(noted) => noted.after = after.after.take(),
            None => self.touched.push(after),
        }
    }

    /// Notes that the answer has a secret in this member, of which nothing is kept.
    pub(super) fn hides(&mut self, member: &str) {
        self.answer[member] = Value::Null;
    }

    /// Writes the records of this transaction: one, or one for each team whose things it touches.
    pub(super) async fn record(&mut self, result: &str) -> Result<()> {
        let Some(act) = self.registry().act.clone() else { return Ok(()) };
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_by(|a, b| a.place().cmp(&b.place()));
        let same = |a: &Touched, b: &Touched| a.place() == b.place();
        for group in touched.chunk_by(same) {
            let ids: Vec<&str> = group.iter().map(|one| one.subject.as_str()).collect();
            let changes: Vec<Value> = group.iter().map(Touched::change).collect();
            let said = Said {
                by: &act.by,
                action: act.action,
                result,
                organization: &group[0].organization,
                team: &group[0].team,
                subjects: ids.join(" "),
                detail: Value::Array(changes),
            };
            self.append(&said).await?;
        }
        if touched.is_empty() && act.is_call() {
            self.append(&Said::plain(&act, result, String::new())).await?;
        }
        Ok(())
    }

    /// Erases the details of the records that name one of these ids.
    pub(super) async fn forget_details(&mut self, ids: &HashSet<&str>) -> Result<()> {
        let mut after = 0;
        loop {
            let query = "SELECT seq, subjects, detail FROM audit WHERE detail IS NOT NULL AND seq > $1
                ORDER BY seq LIMIT $2";
            let rows = sqlx::query::<Db>(query).bind(after).bind(FORGET_ROWS).fetch_all(self.conn()).await?;
            for row in &rows {
                after = row.try_get("seq")?;
                let subjects: &str = row.try_get("subjects")?;
                let detail: Value = serde_json::from_str(row.try_get("detail")?).unwrap_or_default();
                if subjects.split(' ').any(|one| ids.contains(one)) || names(&detail, ids) {
                    let forget = "UPDATE audit SET detail = NULL, salt = NULL WHERE seq = $1";
                    sqlx::query::<Db>(forget).bind(after).execute(self.conn()).await?;
                }
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    async fn append(&mut self, said: &Said<'_>) -> Result<()> {
        let now_ms = self.now_ms;
        append(self.conn(), now_ms, said).await
    }
}

/// Binds a record to the last one.
async fn append(conn: &mut Conn, at_ms: i64, said: &Said<'_>) -> Result<()> {
    let (seq, previous) = next(conn).await?;
    let salt = keys::random::<SALT_BYTES>()?;
    let detail = said.detail.to_string();
    let digest = digest(&salt, &detail);
    let link = Link {
        seq,
        at_ms,
        texts: [said.by, said.action, said.result, said.organization, said.team, &said.subjects],
        digest: &digest,
    };
    let hash = link.hash(&previous);
    sqlx::query::<Db>(
        "INSERT INTO audit (seq, at_ms, actor, action, result, organization, team, subjects, salt, detail,
             digest, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(seq)
    .bind(at_ms)
    .bind(said.by)
    .bind(said.action)
    .bind(said.result)
    .bind(said.organization)
    .bind(said.team)
    .bind(&said.subjects)
    .bind(&salt[..])
    .bind(detail)
    .bind(&digest[..])
    .bind(&hash[..])
    .execute(conn)
    .await?;
    Ok(())
}

impl<'s> Said<'s> {
    fn plain(act: &'s Act, result: &'s str, subjects: String) -> Self {
        let (organization, team) = (act.home.0.as_deref(), act.home.1.as_deref());
        Self {
            by: &act.by,
            action: act.action,
            result,
            organization: organization.unwrap_or_default(),
            team: team.unwrap_or_default(),
            subjects,
            detail: Value::Null,
        }
    }
}

impl Registry {
    /// Records that a call was refused, with the HTTP status that it was told, and what it was about, where
    /// that was said by an id. Names that were typed are not kept: what a record is about is bound to the
    /// chain, and would outlive whoever has that name.
    pub async fn record_refusal(&self, status: u16, about: &str) -> Result<()> {
        let Some(act) = self.act.clone() else { return Ok(()) };
        let mut write = self.write().await?;
        let result = format!("refused {status}");
        let about = if is_id(about) { about.to_owned() } else { String::new() };
        write.append(&Said::plain(&act, &result, about)).await?;
        write.commit_records().await
    }
}

/// Whether a text has the form of an id of ours.
fn is_id(text: &str) -> bool {
    let is_digits = |text: &str| {
        (1..=ID_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    match text.split_once('_') {
        Some((letters, digits)) => ID_LETTERS.contains(&letters) && is_digits(digits),
        None => NodeId::parse(text).is_some(),
    }
}

/// What of a record is bound to the one before.
struct Link<'r> {
    seq: i64,
    at_ms: i64,
    texts: [&'r str; 6],
    digest: &'r [u8],
}

impl Link<'_> {
    fn hash(&self, previous: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        add(previous);
        add(&self.seq.to_be_bytes());
        add(&self.at_ms.to_be_bytes());
        self.texts.iter().for_each(|text| add(text.as_bytes()));
        add(self.digest);
        hasher.finalize().into()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(salt: &[u8], detail: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(detail).finalize().into()
}

/// The number of a new record, and the hash of the one before.
async fn next(conn: &mut Conn) -> Result<(i64, Vec<u8>)> {
    let row = sqlx::query::<Db>(
        "INSERT INTO counters (name, last) VALUES ('audit', 1)
         ON CONFLICT (name) DO UPDATE SET last = counters.last + 1
         RETURNING last, (SELECT hash FROM audit WHERE seq = counters.last - 1) AS previous",
    )
    .fetch_one(conn)
    .await?;
    match (row.try_get("last")?, row.try_get("previous")?) {
        (seq, Some(previous)) => Ok((seq, previous)),
        (1, None) => Ok((1, BEGINNING.to_vec())),
        _ => Err(RegistryError::Corrupt { what: "audit trail (its last record is gone)" }),
    }
}
