//! Other control planes on the same registry: what they tell each other, by way of PostgreSQL's NOTIFY.
//!
//! ```text
//! FROM generation N                a change was committed
//! FROM revoke CUT DIGEST ...       what data planes are to refuse ahead of all changes; CUT: streams end
//! FROM applied NODE N              a data plane stands at a generation, durably
//! ```
//!
//! A word may be lost with the connection that it comes over. So nothing rests on it: the generation is also
//! looked at after each loss and every few seconds, and what it leads to holds all else. Each control plane
//! tells its words to itself, too, and passes over them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;
use wire::id::{Generation, KeyDigest, NodeId};

use super::engine::PRESENT;
use super::write::Write;
use super::{Db, Place, Registry, Result, generation};

/// How many words wait for whoever follows them here; one that is slower looks at the registry instead.
pub const WORDS_MAX: usize = 1024;
/// How many digests fit into one notification, which PostgreSQL limits to 8,000 bytes.
pub const DIGESTS_MAX: usize = 100;
/// How often the registry is looked at, whatever was told.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(250);
const CHANNEL: &str = "liutong";
/// How long after a change a file's journal is brought into it.
const JOURNAL_AFTER: Duration = Duration::from_millis(100);

/// What one control plane tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// There is something new.
    Generation(Generation),
    /// Keys that data planes are to refuse, before they hear of anything else.
    Revoke {
        /// Whether what is under way with them ends, too.
        cut_streams: bool,
        /// At most `DIGESTS_MAX`.
        digests: Vec<KeyDigest>,
    },
    /// A data plane stands at a generation, durably.
    Applied {
        /// Its node.
        node: NodeId,
        /// The generation.
        generation: Generation,
    },
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generation(generation) => write!(f, "generation {}", generation.0),
            Self::Revoke { cut_streams, digests } => {
                write!(f, "revoke {}", u8::from(*cut_streams))?;
                digests.iter().try_for_each(|digest| write!(f, " {}", hex(digest)))
            }
            Self::Applied { node, generation } => write!(f, "applied {node} {}", generation.0),
        }
    }
}

impl Word {
    /// Fuzz entry: what a notification says; `None` where it is none of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<(u64, Self)> {
        let mut words = text.split(' ');
        let from = u64::from_str_radix(words.next()?, 16).ok()?;
        let word = match words.next()? {
            "generation" => Self::Generation(Generation(words.next()?.parse().ok()?)),
            "revoke" => {
                let cut_streams = words.next()? == "1";
                let digests = words.by_ref().take(DIGESTS_MAX).map(digest).collect::<Option<_>>()?;
                Self::Revoke { cut_streams, digests }
            }
            "applied" => Self::Applied {
                node: NodeId::parse(words.next()?)?,
                generation: Generation(words.next()?.parse().ok()?),
            },
            _ => return None,
        };
        words.next().is_none().then_some((from, word))
    }
}

fn hex(digest: &KeyDigest) -> String {
    digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(hex: &str) -> Option<KeyDigest> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(KeyDigest(bytes))
}

impl Registry {
    /// Tells the other control planes; those that do not hear it lose nothing but time.
    pub async fn tell(&self, word: &Word) {
        if !self.is_shared() {
            return;
        }
        if let Err(error) = notify(&self.pool, self.own_number, word).await {
            tracing::warn!(%error, "the other control planes were not told");
        }
    }

    /// Some time after each change, so that no change waits for it.
    async fn keep_journal_short(&self) {
        let mut changed = self.subscribe();
        while changed.changed().await.is_ok() {
            tokio::time::sleep(JOURNAL_AFTER).await;
            changed.mark_unchanged();
            if let Err(error) = self.engine.checkpoint(&self.pool).await {
                tracing::warn!(%error, "the registry's journal grows");
            }
        }
    }

    /// Whether other control planes may be on this registry.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(*self.place, Place::Postgres(_))
    }

    /// What other control planes tell, from now on; a receiver that falls behind must look at the registry.
    #[must_use]
    pub fn listen(&self) -> tokio::sync::broadcast::Receiver<Word> {
        self.words.subscribe()
    }

    /// Follows the other control planes until it is told to stop. On a file there is none, and its journal is
    /// kept short.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let Place::Postgres(url) = &*self.place else {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.keep_journal_short() => {}
            }
            return;
        };
        loop {
            let followed = async {
                let mut listener = PgListener::connect(url.reveal()).await?;
                listener.eager_reconnect(false);
                // Before anything else, so that no restore comes in between unseen.
                sqlx::Executor::execute(&mut listener, PRESENT).await?;
                listener.listen(CHANNEL).await?;
                self.hear(&mut listener).await
            };
            tokio::select! {
                () = stop.cancelled() => return,
                followed = followed => match followed {
                    Ok(()) => return tracing::error!("the registry was restored from a backup; starting anew"),
                    Err(error) => tracing::warn!(%error, "other control planes are heard late, connecting again"),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// Returns once the registry is another one.
    async fn hear(&self, listener: &mut PgListener) -> sqlx::Result<()> {
        while self.look().await? {
            // Whatever the socket says: nothing is relied on for longer than this.
            let until = tokio::time::Instant::now() + LOOK_INTERVAL;
            while let Ok(heard) = tokio::time::timeout_at(until, listener.try_recv()).await {
                // The lock went with the connection, too: all is begun anew.
                let Some(notification) = heard? else {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
                };
                match Word::parse(notification.payload()) {
                    Some((from, _)) if from == self.own_number => {}
                    Some((_, word)) => {
                        if let Word::Generation(generation) = word {
                            self.reached(generation);
                        }
                        // Nobody follows, or some do: either is fine.
                        drop(self.words.send(word));
                    }
                    None => tracing::debug!("a notification that is none of ours"),
                }
            }
        }
        Ok(())
    }

    /// Whether this is still the registry that was opened; and how far it has come.
    async fn look(&self) -> sqlx::Result<bool> {
        let meta = sqlx::query::<Db>("SELECT registry_id, generation FROM meta WHERE one = 1");
        let row = meta.fetch_one(&self.pool).await?;
        if row.try_get::<&str, _>("registry_id")? != self.id.to_string() {
            return Ok(false);
        }
        self.reached(generation(row.try_get("generation")?));
        Ok(true)
    }

    /// Tells all here of a generation that was committed, by whomever.
    pub(super) fn reached(&self, now: Generation) {
        self.changed.send_if_modified(|seen| {
            let newer = now > *seen;
            *seen = now.max(*seen);
            newer
        });
    }
}

impl Write<'_> {
    /// The others hear of it with the commit, or never.
    pub(super) async fn tell(&mut self, word: &Word) -> Result<()> {
        if self.registry().is_shared() {
            let own_number = self.registry().own_number;
            notify(self.conn(), own_number, word).await?;
        }
        Ok(())
    }
}

async fn notify<'e>(on: impl sqlx::Executor<'e, Database = Db>, from: u64, word: &Word) -> sqlx::Result<()> {
    let text = format!("{from:x} {word}");
    sqlx::query::<Db>("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(text).execute(on).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written_and_nothing_else_is() {
        let words = [
            Word::Generation(Generation(7)),
            Word::Revoke { cut_streams: true, digests: vec![KeyDigest([0xab; 32]); DIGESTS_MAX] },
            Word::Revoke { cut_streams: false, digests: vec![] },
            Word::Applied { node: NodeId(9), generation: Generation(u64::MAX) },
        ];
        for word in words {
            let text = format!("{:x} {word}", 255);
            assert!(text.len() < 8000);
            assert_eq!(Word::parse(&text), Some((255, word)));
            assert_eq!(Word::parse(&format!("{text} x")), None);
        }
        for text in ["", "1", "1 generation", "x generation 1", "1 revoke 0 ab", "1 applied 9", "1 deploy 3"]
        {
            assert_eq!(Word::parse(text), None, "{text}");
        }
    }
}
