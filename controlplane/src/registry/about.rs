//! What the registry has about a team or a key besides the thing itself: what it was billed under, holds on
//! it, what the audit trail says of it, and answers that name it. In pieces, each of which says where the
//! next one begins.

use std::collections::HashSet;

use serde_json::{Value, json};
use sqlx::Row as _;

use super::audit::names;
use super::audit::read::Filter;
use super::hold::{self, SubjectKind};
use super::{Db, PAGE_ROWS_MAX, Registry, Result, show, statement};

/// A part of it, and the position behind which the next one begins, if there may be one.
pub(crate) type Part = (Vec<Value>, Option<i64>);

/// The ids of a team, its applications and keys; of a key its own.
const IDS: &str = "SELECT public_id FROM teams WHERE public_id = $1
    UNION SELECT a.public_id FROM applications a JOIN teams t ON t.id = a.team WHERE t.public_id = $1
    UNION SELECT k.public_id FROM keys k JOIN applications a ON a.id = k.application
        JOIN teams t ON t.id = a.team WHERE t.public_id = $1
    UNION SELECT public_id FROM keys WHERE public_id = $1";

impl Registry {
    /// What its usage was ever billed under.
    pub(crate) async fn attributions_of(&self, kind: SubjectKind, id: &str, after: i64) -> Result<Part> {
        let select = "SELECT b.id, o.public_id AS organization_id, t.public_id AS team_id,
                a.public_id AS application_id, k.public_id AS key_id, b.plan, b.cost_centre, b.created_ms
            FROM attributions b JOIN organizations o ON o.id = b.organization JOIN teams t ON t.id = b.team
            JOIN applications a ON a.id = b.application JOIN keys k ON k.id = b.key_id";
        let tail = match kind {
            SubjectKind::Team => "WHERE t.public_id = $1 AND b.id > $2 ORDER BY b.id LIMIT $3",
            _ => "WHERE k.public_id = $1 AND b.id > $2 ORDER BY b.id LIMIT $3",
        };
        let query = sqlx::query::<Db>(statement(select, tail)).bind(id).bind(after).bind(PAGE_ROWS_MAX);
        let (mut shown, mut last) = (Vec::new(), after);
        for row in query.fetch_all(&self.pool).await? {
            last = row.try_get("id")?;
            let text = |name: &str| row.try_get::<String, _>(name);
            shown.push(json!({
                "object": "attribution", "id": last, "organization_id": text("organization_id")?,
                "team_id": text("team_id")?, "application_id": text("application_id")?,
                "key_id": text("key_id")?, "plan": text("plan")?, "cost_centre": text("cost_centre")?,
                "created_at": show::time(row.try_get("created_ms")?),
            }));
        }
        Ok(part(shown, last))
    }

    /// Legal holds on it or on what belongs to it, also those that are over.
    pub(crate) async fn holds_about(&self, id: &str, after: i64) -> Result<Part> {
        let tail = format!("WHERE subject IN ({IDS}) AND id > $2 ORDER BY id LIMIT $3");
        let query = sqlx::AssertSqlSafe(format!("{} {tail}", hold::SELECT));
        let query = sqlx::query::<Db>(query).bind(id).bind(after).bind(PAGE_ROWS_MAX);
        let (mut shown, mut last) = (Vec::new(), after);
        for row in query.fetch_all(&self.pool).await? {
            last = row.try_get("id")?;
            shown.push(serde_json::to_value(hold::read(&row)?).unwrap_or_default());
        }
        Ok(part(shown, last))
    }

    /// Records of the audit trail that are in a team, or name any of it.
    pub(crate) async fn audit_about(&self, id: &str, after: i64) -> Result<Part> {
        let ids = self.ids_of(id).await?;
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let after = (after > 0).then(|| format!("audit_{after}"));
        let mut filter = Filter { after, limit: PAGE_ROWS_MAX, ..Filter::default() };
        loop {
            let listed = self.audit(&filter).await?;
            let next = listed.rows.last().map(|one| one.seq).filter(|_| listed.has_more);
            filter.after = listed.rows.last().map(|one| one.id.clone());
            let about = listed.rows.iter().filter(|one| {
                let is_named = one.subjects.iter().any(|subject| ids.contains(subject.as_str()));
                is_named || one.team_id == id || names(&one.changes, &ids)
            });
            let shown: Vec<Value> = about.map(|one| serde_json::to_value(one).unwrap_or_default()).collect();
            if !shown.is_empty() || next.is_none() {
                return Ok((shown, next));
            }
        }
    }

    /// Answers that are kept for an `Idempotency-Key` and name any of it: those of a day, all at once.
    pub(crate) async fn answers_about(&self, id: &str) -> Result<Vec<Value>> {
        let ids = self.ids_of(id).await?;
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let query = sqlx::query::<Db>("SELECT actor, answer, made_ms FROM answers ORDER BY made_ms");
        let mut shown = Vec::new();
        for row in query.fetch_all(&self.pool).await? {
            let answer: Value = serde_json::from_str(row.try_get("answer")?).unwrap_or_default();
            if names(&answer, &ids) {
                let (by, at): (String, i64) = (row.try_get("actor")?, row.try_get("made_ms")?);
                shown
                    .push(json!({"object": "kept_answer", "by": by, "at": show::time(at), "answer": answer}));
            }
        }
        Ok(shown)
    }

    async fn ids_of(&self, id: &str) -> Result<Vec<String>> {
        let rows = sqlx::query::<Db>(IDS).bind(id).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| row.try_get("public_id")).collect::<sqlx::Result<_>>()?)
    }
}

fn part(shown: Vec<Value>, last: i64) -> Part {
    let full = i64::try_from(shown.len()).is_ok_and(|count| count == PAGE_ROWS_MAX);
    (shown, full.then_some(last))
}
