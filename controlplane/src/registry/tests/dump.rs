//! A backup of the registry: the same whatever database it comes from and goes to, and what it must not undo.

use std::io::BufReader;

use super::*;
use crate::keys::Secret;
use crate::registry::act::Act;
use crate::registry::audit::read::{Filter, Record};
use crate::registry::dump::load;

async fn dump(registry: &Registry) -> Vec<u8> {
    let mut bytes = Vec::new();
    registry.dump(&mut bytes).await.unwrap();
    bytes
}

async fn restore(place: &Place, dump: &[u8]) -> Result<load::Restored> {
    load::restore(place, &mut BufReader::new(dump)).await
}

/// All lines but the first, which names the history, and the row of `meta`, which does so too.
fn content(dump: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(dump).unwrap();
    let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
    let meta = lines.iter().position(|line| line.starts_with("{\"table\":\"meta\"")).unwrap();
    lines.remove(meta + 1);
    // Numbers go on above where they were.
    let counters = lines.iter().position(|line| line.starts_with("{\"table\":\"counters\"")).unwrap();
    let end = lines[counters + 1..].iter().position(|line| !line.starts_with('[')).unwrap();
    lines.drain(counters..=counters + end);
    // A restore leaves a record.
    if let Some(audit) = lines.iter().position(|line| line.starts_with("{\"table\":\"audit\"")) {
        let end = lines[audit + 1..].iter().position(|line| !line.starts_with('[')).unwrap();
        lines.drain(audit..=audit + end);
    }
    lines.retain(|line| !line.starts_with("{\"end\""));
    lines
}

/// A registry with something of everything.
async fn full() -> Fixture {
    let registry = demo().await;
    registry.set_model("m", &[deployment("d"), deployment("e")]).await.unwrap();
    for n in 0..120 {
        let new = NewKey { description: format!("key {n} \u{6d41}\"'"), ..new_key() };
        registry.create_key(NewKey { models: (n % 2 == 0).then(|| vec!["m".into()]), ..new }).await.unwrap();
    }
    registry.create_admin("bootstrap", Role::Owner, keys::digest(b"a")).await.unwrap();
    registry.see_node(NodeId(7)).await.unwrap();
    registry
}

#[tokio::test]
async fn a_restored_registry_is_the_same_under_another_id() {
    let registry = full().await;
    let before = dump(&registry).await;
    let (id, generation) = (registry.id(), registry.generation().await.unwrap());
    registry.close().await;
    // Into itself, and into an empty database of either kind.
    let dir = tempfile::tempdir().unwrap();
    let postgres = load_tests::postgres::server().database().unwrap();
    let places = [
        registry.place.clone(),
        Place::File(dir.path().join("other.db")),
        Place::Postgres(Secret::new(postgres)),
    ];
    for place in &places {
        let restored = restore(place, &before).await.unwrap();
        assert_ne!(restored.registry_id, id);
        let again = Registry::open(place).await.unwrap();
        assert_eq!((again.id(), again.generation().await.unwrap()), (restored.registry_id, generation));
        assert_eq!(again.settings(), registry.settings(), "request ids go on meaning what they meant");
        assert_eq!(content(&dump(&again).await), content(&before), "{place:?}");
        // And it goes on: no number is given twice, changes are taken.
        let (key, _, _) = again.create_key(new_key()).await.unwrap();
        assert!(again.key(&key.id).await.unwrap().row > 120 + 1000, "nor one that is given after the backup");
        assert!(matches!(again.since(generation).await.unwrap(), Since::Delta(_)));
        again.close().await;
    }
}

#[tokio::test]
async fn what_was_revoked_after_the_backup_stays_revoked() {
    let registry = demo().await;
    let (key, secret, _) = registry.create_key(new_key()).await.unwrap();
    let kept = registry.create_key(new_key()).await.unwrap().0;
    let backup = dump(&registry).await;
    registry.revoke_key(&key.id).await.unwrap();
    registry.close().await;
    // Twice: what the first restore remembered the second must not forget.
    for _ in 0..2 {
        restore(&registry.place, &backup).await.unwrap();
    }
    let again = Registry::open(&registry.place).await.unwrap();
    let before = again.generation().await.unwrap();
    assert_eq!(again.revoke_buried().await.unwrap(), [secret.digest()]);
    assert_eq!(again.key(&key.id).await.unwrap().status, KeyStatus::Revoked);
    assert_eq!(again.key(&kept.id).await.unwrap().status, KeyStatus::Active);
    assert_eq!(changes_since(&again, before).await, [Change::NoKey(secret.digest())]);
    assert_eq!(again.revoke_buried().await.unwrap(), [], "once is enough");
}

#[tokio::test]
async fn what_was_shut_out_or_cut_short_after_the_backup_stays_so() {
    let registry = demo().await;
    let enrolled = async |node: u64| {
        let (token, _) = registry.create_enrolment(&format!("host {node}"), 60_000).await.unwrap();
        assert!(registry.enrol(token.reveal().as_bytes(), NodeId(node)).await.unwrap().is_some());
    };
    for node in [7, 8, 9] {
        enrolled(node).await;
    }
    let used = registry.create_enrolment("a fourth", 60_000).await.unwrap().0;
    let [rotated, shortened, kept] = [(); 3].map(|()| registry.create_key(new_key()));
    let (rotated, shortened, kept) =
        (rotated.await.unwrap().0, shortened.await.unwrap().0, kept.await.unwrap().0);
    let backup = dump(&registry).await;
    registry.remove_node(&NodeId(7).to_string()).await.unwrap();
    registry.remove_node(&NodeId(8).to_string()).await.unwrap();
    enrolled(8).await;
    registry.enrol(used.reveal().as_bytes(), NodeId(10)).await.unwrap().unwrap();
    let soon_ms = now_ms() + 1000;
    let ends = [
        (&rotated, KeyPatch { retiring_until_ms: Some(Some(1)), ..KeyPatch::default() }),
        (&shortened, KeyPatch { expires_ms: Some(Some(soon_ms)), ..KeyPatch::default() }),
    ];
    for (key, patch) in ends {
        registry.update_key(&key.id, patch).await.unwrap();
    }
    registry.close().await;
    restore(&registry.place, &backup).await.unwrap();
    let again = Registry::open(&registry.place).await.unwrap();
    let enrolments = [7, 8, 9].map(|node| again.enrolment(NodeId(node)));
    let [removed, anew, stayed] = enrolments;
    assert_eq!(
        (removed.await.unwrap(), anew.await.unwrap(), stayed.await.unwrap()),
        (None, Some(2), Some(1))
    );
    assert_eq!(again.enrol(used.reveal().as_bytes(), NodeId(11)).await.unwrap(), None, "a used token");
    assert_eq!(again.key(&rotated.id).await.unwrap().status, KeyStatus::Expired);
    assert_eq!(again.key(&shortened.id).await.unwrap().expires_ms, Some(soon_ms));
    assert_eq!(again.key(&kept.id).await.unwrap().expires_ms, None);
}

#[tokio::test]
async fn a_key_that_a_data_plane_has_seen_revoked_does_not_live_again() {
    let registry = demo().await;
    let (key, secret, _) = registry.create_key(new_key()).await.unwrap();
    let backup = dump(&registry).await;
    // The registry is lost; only the data plane remembers.
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    restore(&place, &backup).await.unwrap();
    let again = Registry::open(&place).await.unwrap();
    let unknown = keys::digest(b"of another registry");
    assert_eq!(again.bury(&[unknown, secret.digest()]).await.unwrap(), [secret.digest()]);
    assert_eq!(again.key(&key.id).await.unwrap().status, KeyStatus::Revoked);
    // Also where an older backup is restored over it, in which the key is not known to be dead.
    again.close().await;
    restore(&place, &backup).await.unwrap();
    let third = Registry::open(&place).await.unwrap();
    assert_eq!(third.revoke_buried().await.unwrap(), [secret.digest()]);
}

#[tokio::test]
async fn what_is_no_whole_backup_changes_nothing() {
    let registry = full().await;
    let before = dump(&registry).await;
    registry.close().await;
    let text = String::from_utf8(before.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
    let damaged = [
        String::new(),
        "{}\n".to_owned(),
        lines[..lines.len() - 1].join("\n"),
        without(lines.len() - 2),
        text.replace("\"table\":\"keys\"", "\"table\":\"keys; DROP TABLE keys\""),
        text.replace("[\"id\",\"n\"]", "[\"id) --\",\"n\"]"),
        text.replace("\"schema\":", "\"schema\":9"),
    ];
    for (case, damaged) in damaged.iter().enumerate() {
        let error = restore(&registry.place, damaged.as_bytes()).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::NoDump { .. } | RegistryError::Newer { .. }),
            "{case}: {error}"
        );
    }
    let again = Registry::open(&registry.place).await.unwrap();
    assert_eq!(dump(&again).await, before);
}

#[tokio::test]
async fn nothing_is_restored_under_a_running_control_plane() {
    let Fixture { registry, place, dir: _dir } = demo().await;
    let registry = std::sync::Arc::new(registry);
    let backup = dump(&registry).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let _present = registry.be_present().unwrap();
    let following = tokio::spawn(registry.clone().follow(stop.clone()));
    if let Place::Postgres(url) = &place {
        wait_until_present(url.reveal()).await;
    }
    assert!(matches!(restore(&place, &backup).await, Err(RegistryError::InUse)));
    stop.cancel();
    following.await.unwrap();
}

/// Waits until a control plane that follows this database holds what says that it is there.
async fn wait_until_present(url: &str) {
    let present = "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database
        WHERE locktype = 'advisory' AND granted AND datname = current_database()";
    for _ in 0..6000 {
        if load_tests::postgres::server().ask(url, present).unwrap().trim() == "1" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it is not there");
}

async fn records(registry: &Registry, action: &str) -> Vec<Record> {
    let filter = Filter { action: Some(action.to_owned()), limit: 100, ..Filter::default() };
    registry.audit(&filter).await.unwrap().rows
}

#[tokio::test]
async fn a_restore_is_recorded_with_the_end_of_the_trail_that_it_cut() {
    let mut registry = demo().await;
    registry.registry = registry.acting(Act { by: "adm_1".into(), ..Act::itself("key.create") });
    registry.create_key(new_key()).await.unwrap();
    let backup = dump(&registry).await;
    for _ in 0..3 {
        registry.create_key(new_key()).await.unwrap();
    }
    let cut = registry.verify_audit(None).await.unwrap();
    let id = registry.id().to_string();
    registry.close().await;
    let restored = restore(&registry.place, &backup).await.unwrap();
    let end = restored.replaced.unwrap();
    assert_eq!((end.last_seq, &end.last_hash, &end.registry_id), (cut.last_seq, &cut.last_hash, &id));
    let again = Registry::open(&registry.place).await.unwrap();
    let record = records(&again, "backup.restore").await.remove(0);
    let change = &record.changes[0];
    assert_eq!(change["before"], serde_json::to_value(&end).unwrap());
    assert_eq!(change["after"]["last_seq"], 1, "what the backup has");
    assert_eq!((record.seq, record.by.as_str()), (2, "liutong"));
    assert_eq!(record.subjects, [restored.registry_id.to_string()]);
    let whole = again.verify_audit(None).await.unwrap();
    assert!(whole.is_intact && whole.last_seq == 2, "{whole:?}");
    // Into nothing: there was no trail that is cut.
    let dir = tempfile::tempdir().unwrap();
    let empty = place(dir.path());
    assert_eq!(restore(&empty, &backup).await.unwrap().replaced, None);
    let third = Registry::open(&empty).await.unwrap();
    assert!(records(&third, "backup.restore").await[0].changes[0]["before"].is_null());
}

#[tokio::test]
async fn what_is_revoked_again_after_a_restore_is_recorded() {
    let registry = demo().await;
    let (key, _, _) = registry.create_key(new_key()).await.unwrap();
    registry.create_admin("first", Role::Owner, keys::digest(b"a")).await.unwrap();
    registry.create_admin("second", Role::Owner, keys::digest(b"b")).await.unwrap();
    let backup = dump(&registry).await;
    let second = registry.revoke_admin("second").await.unwrap();
    registry.revoke_key(&key.id).await.unwrap();
    registry.close().await;
    restore(&registry.place, &backup).await.unwrap();
    let again = Registry::open(&registry.place).await.unwrap();
    again.revoke_buried().await.unwrap();
    assert!(again.admin("second").await.unwrap().revoked_ms.is_some());
    let about: Vec<String> =
        records(&again, "key.bury").await.into_iter().flat_map(|one| one.subjects).collect();
    assert!(about.contains(&key.id) && about.contains(&second.id), "{about:?}");
    again.revoke_buried().await.unwrap();
    assert_eq!(records(&again, "key.bury").await.len(), about.len(), "once is enough");
}
