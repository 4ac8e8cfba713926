//! Erasing teams and keys, and the ledger of it.
//!
//! Erased means: keys are revoked for good; names, descriptions, prefixes, plans and cost centres go, and so
//! do the ids, for which random ones are put, so that what refers to the rows still has something to refer
//! to. What is billed under them later (usage that was still on a data plane's disk) is billed to the new
//! ids, which nobody can tell anything of. The SHA-256 of each key stays: it is how the key is kept revoked.
//! Of the audit trail the details go that name any of it, and so do kept answers and what holds said that are
//! over; which ids a record was about is bound to the chain and stays.
//!
//! The ledger has the old ids, which say nothing by themselves any more. It is there for what can't be
//! reached at that moment: ClickHouse, when it is away, and backups, when one is restored. Both are made good
//! later.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use wire::id::{Generation, KeyDigest};

use super::act::{Act, Subject};
use super::hold::{self, SubjectKind};
use super::write::{Kind, Write, next_id, public_id};
use super::{Conn, Db, Registry, RegistryError, Result, Row, key, team};
use crate::keys;

/// One erasure, as backups and the registry keep it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Erasure {
    /// `team` or `key`.
    pub kind: String,
    /// The id that it had.
    pub subject: String,
    /// When, Unix time in milliseconds.
    pub erased_ms: i64,
    /// A `Gone`, as JSON.
    pub what: String,
}

/// What went with an erasure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Gone {
    /// Under which name the sums of its usage stay.
    pub pseudonym: String,
    /// The ids that went, its own first.
    pub ids: Vec<String>,
    /// What it belonged to, now or before, and what belonged to it before: a hold on it holds the usage.
    #[serde(default)]
    pub around: Vec<String>,
}

impl Gone {
    /// Whether a hold on this id holds its usage.
    #[must_use]
    pub fn touches(&self, held: &str) -> bool {
        self.ids.iter().chain(&self.around).any(|id| id == held)
    }
}

/// An erasure whose usage is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its number in the ledger.
    pub id: i64,
    /// What was erased.
    pub kind: SubjectKind,
    /// The id that it had.
    pub subject: String,
    /// What went with it.
    pub gone: Gone,
    /// Its usage is known to be gone; what comes in behind it may be not.
    pub is_done: bool,
}

/// What the audit trail says of an erasure.
#[derive(Serialize)]
struct Trace {
    id: String,
    kind: SubjectKind,
    organization_id: Option<String>,
    pseudonym: String,
}

impl Subject for Trace {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (self.organization_id.as_deref(), None)
    }
}

/// What erasing came to.
#[derive(Clone, Debug)]
pub struct Erased {
    /// For ClickHouse.
    pub due: Due,
    /// The keys that were revoked by it.
    pub digests: Vec<KeyDigest>,
    /// The generation that holds it.
    pub generation: Generation,
}

impl Registry {
    /// Erases a team or a key, by id or name; refused where a hold is on anything that it touches.
    pub async fn erase(&self, kind: SubjectKind, wanted: &str) -> Result<Erased> {
        let mut write = self.write().await?;
        let target = Target::find(&mut write, kind, wanted).await?;
        let around = target.around(write.conn()).await?;
        let gone = Gone { pseudonym: public_id("erased")?, ids: target.ids(), around };
        hold::check(write.conn(), |held| gone.touches(held)).await?;
        let digests = target.wipe(&mut write, &gone.ids).await?;
        let erasure = Erasure {
            kind: kind.name().to_owned(),
            subject: target.id.clone(),
            erased_ms: write.now_ms,
            what: serde_json::to_string(&gone).map_err(std::io::Error::from)?,
        };
        let id = write.next_id("erasure").await?;
        insert(write.conn(), id, &erasure).await?;
        let organization_id = Some(target.organization.clone());
        let (subject, pseudonym) = (target.id, gone.pseudonym.clone());
        write.after(&Trace { id: subject.clone(), kind, organization_id, pseudonym });
        let generation = write.commit().await?;
        Ok(Erased { due: Due { id, kind, subject, gone, is_done: false }, digests, generation })
    }

    /// Erases again what a restored backup has brought back; returns of how many erasures it was.
    pub async fn erase_again(&self) -> Result<usize> {
        let itself = self.acting(Act::itself("privacy.erase_again"));
        let mut again = 0;
        for erasure in self.erasures_made().await? {
            let (gone, kind) = (gone(&erasure.what)?, kind(&erasure.kind)?);
            let mut write = itself.write().await?;
            let target = Target::brought_back(write.conn(), &erasure.subject, &gone.ids).await?;
            if target.is_empty() {
                continue;
            }
            target.wipe(&mut write, &gone.ids).await?;
            let organization_id = Some(target.organization).filter(|id| !id.is_empty());
            write.after(&Trace { id: erasure.subject, kind, organization_id, pseudonym: gone.pseudonym });
            write.commit().await?;
            again += 1;
        }
        Ok(again)
    }

    /// The number of the last erasure, by whichever control plane; 0 where there was none.
    pub async fn last_erasure(&self) -> Result<i64> {
        let query = "SELECT COALESCE(MAX(id), 0) AS last FROM erasures";
        Ok(sqlx::query::<Db>(query).fetch_one(&self.pool).await?.try_get("last")?)
    }

    /// All erasures that were ever made, the oldest first.
    pub async fn erasures_made(&self) -> Result<Vec<Erasure>> {
        let query = "SELECT kind, subject, erased_ms, what FROM erasures ORDER BY id";
        let rows = sqlx::query::<Db>(query).fetch_all(&self.pool).await?;
        let erasure = |row: &Row| {
            Ok(Erasure {
                kind: row.try_get("kind")?,
                subject: row.try_get("subject")?,
                erased_ms: row.try_get("erased_ms")?,
                what: row.try_get("what")?,
            })
        };
        rows.iter().map(erasure).collect()
    }

    /// The erasures whose usage is not known to be gone, or has been only since a time.
    pub async fn erasures_due(&self, since_ms: i64) -> Result<Vec<Due>> {
        let query =
            "SELECT id, kind, subject, what, done_ms FROM erasures WHERE done_ms IS NULL OR done_ms >= $1
             ORDER BY id";
        let rows = sqlx::query::<Db>(query).bind(since_ms).fetch_all(&self.pool).await?;
        let due = |row: &Row| {
            Ok(Due {
                id: row.try_get("id")?,
                kind: kind(row.try_get("kind")?)?,
                subject: row.try_get("subject")?,
                gone: gone(row.try_get("what")?)?,
                is_done: row.try_get::<Option<i64>, _>("done_ms")?.is_some(),
            })
        };
        rows.iter().map(due).collect()
    }

    /// Notes that the usage of an erasure is gone.
    pub async fn erasure_done(&self, id: i64) -> Result<()> {
        let mut write = self.write().await?;
        let now_ms = write.now_ms;
        sqlx::query::<Db>("UPDATE erasures SET done_ms = $1 WHERE id = $2 AND done_ms IS NULL")
            .bind(now_ms)
            .bind(id)
            .execute(write.conn())
            .await?;
        write.commit().await?;
        Ok(())
    }

    /// Has the database forget what its rows held before; false where a reader keeps it from that, and it is
    /// to be tried again.
    pub async fn scrub(&self) -> Result<bool> {
        Ok(self.engine.scrub(&self.pool).await?)
    }
}

fn gone(what: &str) -> Result<Gone> {
    serde_json::from_str(what).map_err(|_| RegistryError::Corrupt { what: "erasure" })
}

fn kind(word: &str) -> Result<SubjectKind> {
    match SubjectKind::parse(word) {
        Some(kind @ (SubjectKind::Team | SubjectKind::Key)) => Ok(kind),
        _ => Err(RegistryError::Corrupt { what: "kind of an erasure" }),
    }
}

async fn insert(conn: &mut Conn, id: i64, erasure: &Erasure) -> Result<()> {
    sqlx::query::<Db>(
        "INSERT INTO erasures (id, kind, subject, erased_ms, what) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(id)
    .bind(&erasure.kind)
    .bind(&erasure.subject)
    .bind(erasure.erased_ms)
    .bind(&erasure.what)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes an erasure that another registry knows of, unless it is known.
pub(super) async fn note(conn: &mut Conn, erasure: &Erasure) -> Result<()> {
    let same = sqlx::query::<Db>("SELECT id FROM erasures WHERE kind = $1 AND subject = $2");
    let same = same.bind(&erasure.kind).bind(&erasure.subject);
    if same.fetch_optional(&mut *conn).await?.is_none() {
        let id = next_id(conn, "erasure").await?;
        insert(conn, id, erasure).await?;
    }
    Ok(())
}

/// What is to be erased, with what belongs to it.
#[derive(Default)]
struct Target {
    id: String,
    /// The organization's id.
    organization: String,
    /// Of a team alone.
    team: Option<i64>,
    applications: Vec<(i64, String)>,
    keys: Vec<OneKey>,
    /// What it belongs to itself.
    above: Vec<String>,
}

struct OneKey {
    row: i64,
    id: String,
    digest: KeyDigest,
    is_revoked: bool,
}

impl Target {
    async fn find(write: &mut Write<'_>, kind: SubjectKind, wanted: &str) -> Result<Self> {
        let scope = write.scope();
        match kind {
            SubjectKind::Team => {
                let team = team::find(write.conn(), scope, wanted).await?;
                let mut target = Self { id: team.id, team: Some(team.row), ..Self::default() };
                target.take_in_team(write.conn(), team.row).await?;
                target.above.push(team.organization_id.clone());
                Ok(Self { organization: team.organization_id, ..target })
            }
            SubjectKind::Key => {
                let key = key::find(write.conn(), scope, wanted).await?;
                let mut target = Self { id: key.id.clone(), ..Self::default() };
                target.take_key(write.conn(), &key.id).await?;
                target.above.extend([key.application_id, key.team_id, key.organization_id.clone()]);
                Ok(Self { organization: key.organization_id, ..target })
            }
            SubjectKind::Organization | SubjectKind::Application => Err(RegistryError::Invalid {
                field: "kind",
                message: "a team or a key is erased, nothing else".to_owned(),
            }),
        }
    }

    /// What of an erasure is there again: by ids, since names are other people's by now.
    async fn brought_back(conn: &mut Conn, subject: &str, ids: &[String]) -> Result<Self> {
        let mut target = Self { id: subject.to_owned(), ..Self::default() };
        let team = sqlx::query::<Db>("SELECT id FROM teams WHERE public_id = $1").bind(subject);
        if let Some(row) = team.fetch_optional(&mut *conn).await? {
            let row = row.try_get("id")?;
            target.team = Some(row);
            target.take_in_team(conn, row).await?;
        }
        let known: HashSet<String> = target.ids().into_iter().collect();
        for id in ids.iter().filter(|id| *id == subject || !known.contains(*id)) {
            target.take_key(conn, id).await?;
            let query = sqlx::query::<Db>("SELECT id, public_id FROM applications WHERE public_id = $1");
            if let Some(row) = query.bind(id).fetch_optional(&mut *conn).await? {
                target.applications.push((row.try_get("id")?, row.try_get("public_id")?));
            }
        }
        target.organization = target.organization_of(conn).await?;
        Ok(target)
    }

    /// The id of the organization that it is in; empty where nothing of it is there.
    async fn organization_of(&self, conn: &mut Conn) -> Result<String> {
        let query = "SELECT o.public_id FROM organizations o JOIN teams t ON t.organization = o.id
            LEFT JOIN applications a ON a.team = t.id LEFT JOIN keys k ON k.application = a.id
            WHERE t.id = $1 OR a.id = $2 OR k.id = $3 LIMIT 1";
        let query = sqlx::query::<Db>(query).bind(self.team).bind(self.applications.first().map(|one| one.0));
        let row = query.bind(self.keys.first().map(|key| key.row)).fetch_optional(conn).await?;
        Ok(row.map(|row| row.try_get("public_id")).transpose()?.unwrap_or_default())
    }

    async fn take_in_team(&mut self, conn: &mut Conn, team: i64) -> Result<()> {
        let applications = "SELECT id, public_id FROM applications WHERE team = $1 ORDER BY id";
        for row in sqlx::query::<Db>(applications).bind(team).fetch_all(&mut *conn).await? {
            self.applications.push((row.try_get("id")?, row.try_get("public_id")?));
        }
        let keys = "SELECT k.id, k.public_id, k.digest, k.status FROM keys k
            JOIN applications a ON a.id = k.application WHERE a.team = $1 ORDER BY k.id";
        for row in sqlx::query::<Db>(keys).bind(team).fetch_all(conn).await? {
            self.keys.push(OneKey::read(&row)?);
        }
        Ok(())
    }

    async fn take_key(&mut self, conn: &mut Conn, id: &str) -> Result<()> {
        let query = sqlx::query::<Db>("SELECT id, public_id, digest, status FROM keys WHERE public_id = $1");
        if let Some(row) = query.bind(id).fetch_optional(conn).await? {
            self.keys.push(OneKey::read(&row)?);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.team.is_none() && self.applications.is_empty() && self.keys.is_empty()
    }

    /// The ids that go.
    fn ids(&self) -> Vec<String> {
        let mut ids = vec![self.id.clone()];
        ids.extend(self.applications.iter().map(|(_, id)| id.clone()));
        ids.extend(self.keys.iter().map(|key| key.id.clone()).filter(|id| *id != self.id));
        ids
    }

    /// What it belongs to, and all that its usage was ever billed to together with it: a key may have been
    /// moved out of a team that is held.
    async fn around(&self, conn: &mut Conn) -> Result<Vec<String>> {
        let mut around: HashSet<String> = self.above.iter().cloned().collect();
        let billed = "SELECT DISTINCT o.public_id AS o, t.public_id AS t, a.public_id AS a, k.public_id AS k
            FROM attributions x JOIN organizations o ON o.id = x.organization JOIN teams t ON t.id = x.team
            JOIN applications a ON a.id = x.application LEFT JOIN keys k ON k.id = x.key_id
            WHERE x.team = $1 OR x.key_id = $2";
        let keys = self.keys.iter().map(|key| (None, Some(key.row)));
        for (team, key) in keys.chain([(self.team, None)]) {
            let rows = sqlx::query::<Db>(billed).bind(team).bind(key).fetch_all(&mut *conn).await?;
            for row in rows {
                for column in ["o", "t", "a"] {
                    around.insert(row.try_get(column)?);
                }
                around.extend(row.try_get::<Option<String>, _>("k")?);
            }
        }
        let ids: HashSet<String> = self.ids().into_iter().collect();
        Ok(around.difference(&ids).cloned().collect())
    }

    /// Puts random words for all that says anything of these ids; returns the keys that it revoked.
    async fn wipe(&self, write: &mut Write<'_>, ids: &[String]) -> Result<Vec<KeyDigest>> {
        let mut revoked = Vec::new();
        for key in &self.keys {
            if !key.is_revoked {
                write.revoke(key.row).await?;
                revoked.push(key.digest);
            }
            sqlx::query::<Db>(
                "UPDATE keys SET public_id = $1, prefix = '', description = '', plan = NULL, cost_centre = NULL
                 WHERE id = $2",
            )
            .bind(format!("key_{}", &*keys::digits(12)?))
            .bind(key.row)
            .execute(write.conn())
            .await?;
            write.unbill("key_id", key.row).await?;
            write.change(Kind::Key, key.row).await?;
        }
        for (row, _) in &self.applications {
            write.wipe("applications", "app", *row).await?;
            write.unbill("application", *row).await?;
            write.change(Kind::Application, *row).await?;
        }
        if let Some(row) = self.team {
            write.wipe("teams", "team", row).await?;
            write.unbill("team", row).await?;
            write.change(Kind::Team, row).await?;
        }
        let ids = ids.iter().map(String::as_str).collect();
        write.forget_holds(&ids).await?;
        write.forget_details(&ids).await?;
        write.forget_answers(&ids).await?;
        Ok(revoked)
    }
}

impl OneKey {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            row: row.try_get("id")?,
            id: row.try_get("public_id")?,
            digest: key::digest(row)?,
            is_revoked: row.try_get::<&str, _>("status")? == "revoked",
        })
    }
}

impl Write<'_> {
    /// Takes the plan and the cost centre out of what a column of the attributions names.
    async fn unbill(&mut self, column: &'static str, row: i64) -> Result<()> {
        let query = format!("UPDATE attributions SET plan = '', cost_centre = '' WHERE {column} = $1");
        sqlx::query::<Db>(sqlx::AssertSqlSafe(query)).bind(row).execute(self.conn()).await?;
        Ok(())
    }

    async fn wipe(&mut self, table: &'static str, letters: &str, row: i64) -> Result<()> {
        let query = format!(
            "UPDATE {table} SET public_id = $1, name = $2, plan = NULL, cost_centre = NULL WHERE id = $3"
        );
        sqlx::query::<Db>(sqlx::AssertSqlSafe(query))
            .bind(public_id(letters)?)
            .bind(public_id("erased")?)
            .bind(row)
            .execute(self.conn())
            .await?;
        Ok(())
    }
}
