//! Two control planes on one PostgreSQL: what one commits, the other hears of, also after its connection was
//! lost; and whoever writes at the same time, generations come without gaps and in the order of commits.

use std::sync::Arc;
use std::time::Duration;

use load_tests::postgres;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::keys::Secret;
use crate::registry::peers::Word;

struct Two {
    one: Arc<Registry>,
    other: Arc<Registry>,
    url: String,
    stop: CancellationToken,
}

impl Drop for Two {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Two handles on one registry, of which the other follows.
async fn two() -> Two {
    let url = postgres::server().database().unwrap();
    let place = Place::Postgres(Secret::new(url.clone()));
    let one = Arc::new(Registry::open(&place).await.unwrap());
    let other = Arc::new(Registry::open(&place).await.unwrap());
    assert_eq!(one.id(), other.id());
    let stop = CancellationToken::new();
    tokio::spawn(other.clone().follow(stop.clone()));
    let two = Two { one, other, url, stop };
    two.wait_for_listener().await;
    two
}

impl Two {
    fn ask(&self, sql: &str) -> String {
        postgres::server().ask(&self.url, sql).unwrap()
    }

    /// Waits until the other one listens.
    async fn wait_for_listener(&self) {
        let listens = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        for _ in 0..6000 {
            if self.ask(listens).trim() == "1" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not listen");
    }

    /// Commits on one, and returns how long the other took to hear of it.
    async fn heard(&self, name: &str) -> Duration {
        let mut follower = self.other.subscribe();
        organization(&self.one, name).await;
        let now = self.one.generation().await.unwrap();
        let committed = std::time::Instant::now();
        let reached = follower.wait_for(|seen| *seen >= now);
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap().unwrap();
        committed.elapsed()
    }
}

#[tokio::test]
async fn a_change_on_one_control_plane_is_heard_of_by_the_other_at_once() {
    let two = two().await;
    let mut took = Vec::new();
    for n in 0..20 {
        took.push(two.heard(&format!("o{n}")).await);
    }
    took.sort();
    // The look at the generation alone would take a second in the middle. The quicker ones count: others use
    // this machine.
    assert!(took[5] < Duration::from_millis(500), "{took:?}");
    let listed = two.other.organizations(&Page::default()).await.unwrap();
    assert_eq!(listed.rows.len(), 20);
}

#[tokio::test]
async fn a_listener_that_lost_its_connection_hears_of_what_it_missed() {
    let two = two().await;
    for round in 0..3 {
        let ended = two.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        );
        assert_eq!(ended.trim(), "1");
        two.heard(&format!("o{round}")).await;
        two.wait_for_listener().await;
    }
}

#[tokio::test]
async fn words_reach_the_other_control_plane_and_not_their_own() {
    let two = two().await;
    tokio::spawn(two.one.clone().follow(two.stop.clone()));
    let (mut ours, mut theirs) = (two.one.listen(), two.other.listen());
    let word = Word::Applied { node: NodeId(7), generation: Generation(3) };
    two.one.tell(&word).await;
    assert_eq!(theirs.recv().await.unwrap(), word);
    // Our own comes back before this one, and is passed over.
    let answer = Word::Revoke { cut_streams: true, digests: vec![keys::digest(b"k")] };
    for _ in 0..200 {
        two.other.tell(&answer).await;
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(100), ours.recv()).await {
            assert_eq!(heard.unwrap(), answer);
            return;
        }
    }
    panic!("nothing was heard");
}

#[tokio::test]
async fn generations_are_committed_in_order_whoever_writes() {
    let two = two().await;
    let start = two.one.generation().await.unwrap();
    let writers = [two.one.clone(), two.other.clone()].into_iter().flat_map(|on| [on.clone(), on]);
    let writers: Vec<_> = writers
        .enumerate()
        .map(|(writer, registry)| {
            tokio::spawn(async move {
                for n in 0..25 {
                    organization(&registry, &format!("{writer}-{n}")).await;
                }
            })
        })
        .collect();
    // Whoever sees a generation sees all changes up to it.
    let mut seen = start;
    while seen.0 < start.0 + 100 {
        match two.other.since(seen).await.unwrap() {
            Since::Delta(delta) => {
                let rows = two.ask(&format!(
                    "SELECT count(*) FROM changes WHERE generation > {} AND generation <= {}",
                    seen.0, delta.to.0
                ));
                assert_eq!(rows.trim(), (delta.to.0 - seen.0).to_string(), "no gap before {}", delta.to.0);
                seen = delta.to;
            }
            Since::Current => tokio::task::yield_now().await,
            Since::Unknown => panic!("unknown"),
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(two.one.generation().await.unwrap().0, start.0 + 100);
}

#[tokio::test]
async fn one_control_plane_at_a_time_removes_usage() {
    let two = two().await;
    let waiting =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7811889 AND NOT granted";
    let first = two.one.remove_alone().await.unwrap();
    let other = two.other.clone();
    let second = tokio::spawn(async move { other.remove_alone().await.map(|_| ()) });
    let mut tries = 0;
    while two.ask(waiting).trim() != "1" {
        tries += 1;
        assert!(tries < 1000 && !second.is_finished(), "the other one does not wait");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(first);
    tokio::time::timeout(Duration::from_secs(30), second).await.unwrap().unwrap().unwrap();
}
