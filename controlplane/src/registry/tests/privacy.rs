//! Legal holds, and erasure: what they touch, what they leave, and that no backup undoes an erasure.

use std::io::BufReader;

use super::*;
use crate::registry::act::{Act, Idempotency};
use crate::registry::application::ApplicationPatch;
use crate::registry::audit::read::Filter;
use crate::registry::dump::load::{self, Restoring};
use crate::registry::hold::SubjectKind;

async fn dump(registry: &Registry) -> String {
    let mut bytes = Vec::new();
    registry.dump(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A registry with a second team that stays.
async fn two_teams() -> Fixture {
    let registry = demo().await;
    let team = NewTeam { name: "Marchbanks".into(), organization: "demo".into(), ..Default::default() };
    registry.create_team(team).await.unwrap();
    let application =
        NewApplication { name: "Orrery".into(), team: "Marchbanks".into(), ..Default::default() };
    registry.create_application(application).await.unwrap();
    registry
}

fn key_of(application: &str, description: &str) -> NewKey {
    NewKey { application: application.into(), description: description.into(), ..new_key() }
}

#[tokio::test]
async fn an_erased_team_leaves_nothing_that_names_it_and_its_keys_are_revoked() {
    let mut registry = two_teams().await;
    // As administrators do it: with a record of each change, and answers that are kept.
    let idempotency = Idempotency { key: [1; 32], request: [2; 32] };
    let made = Act { idempotency: Some(idempotency), by: "adm_1".to_owned(), ..Act::itself("key.create") };
    let billed = NewKey {
        plan: Some("Platinum".into()),
        cost_centre: Some("Cellar".into()),
        ..key_of("Orrery", "Gwendolyn's laptop")
    };
    let (key, secret, _) = registry.acting(made).create_key(billed).await.unwrap();
    registry.registry = registry.acting(Act { by: "adm_1".to_owned(), ..Act::itself("team.update") });
    let moved = NewApplication { name: "Sundial".into(), team: "Marchbanks".into(), ..Default::default() };
    registry.create_application(moved).await.unwrap();
    let elsewhere = ApplicationPatch { team: Some("demo".into()), ..Default::default() };
    registry.update_application("Sundial", elsewhere).await.unwrap();
    assert!(dump(&registry).await.contains("Platinum"));
    let kept = registry.create_key(new_key()).await.unwrap().0;
    let team = registry.team("Marchbanks").await.unwrap();
    // A hold that is over, and calls that were refused.
    let hold = registry.add_hold(SubjectKind::Key, &key.id, "Gwendolyn sues").await.unwrap();
    registry.release_hold(&hold.id).await.unwrap();
    for about in ["Marchbanks", "Gwendolyn's laptop", &team.id] {
        registry.record_refusal(409, about).await.unwrap();
    }
    let attribution = registry.attribution(wire::id::AttributionId(1)).await.unwrap().unwrap();
    let before = registry.generation().await.unwrap();
    let erased = registry.erase(SubjectKind::Team, "Marchbanks").await.unwrap();
    assert_eq!((erased.due.subject.as_str(), erased.digests.as_slice()), (&*team.id, &[secret.digest()][..]));
    assert_eq!(erased.due.gone.ids.len(), 3, "the team, its application and its key");
    assert!(registry.scrub().await.unwrap());
    assert!(changes_since(&registry, before).await.contains(&Change::NoKey(secret.digest())));
    let text = dump(&registry).await;
    for gone in ["Marchbanks", "Orrery", "Gwendolyn", "Platinum", "Cellar", &key.prefix] {
        assert!(!text.contains(gone), "{gone}");
    }
    assert!(text.contains(&kept.prefix), "another team's key stays");
    // The ids are in the ledger of erasures alone, and where a record says what it is about.
    let records = registry.audit(&Filter { limit: 100, ..Filter::default() }).await.unwrap().rows;
    let kept =
        |line: &&str| !line.contains("pseudonym") && !records.iter().any(|one| line.contains(&one.hash));
    let rest: String = text.lines().filter(kept).collect();
    for id in [&team.id, &key.id] {
        assert!(text.contains(id.as_str()) && !rest.contains(id.as_str()), "{id}");
        let mut about = records.iter().filter(|one| one.subjects.contains(id));
        assert!(about.all(|one| one.changes.is_null() || one.changes.to_string().contains("pseudonym")));
    }
    assert_eq!(records.last().unwrap().changes[0]["after"]["pseudonym"], erased.due.gone.pseudonym);
    registry.verify_audit(None).await.unwrap();
    // What was billed to it still leads somewhere, and to nobody's name.
    let later = registry.attribution(wire::id::AttributionId(1)).await.unwrap().unwrap();
    assert_eq!(later.organization_id, attribution.organization_id);
    assert_ne!((&later.team_id, &later.key_id), (&attribution.team_id, &attribution.key_id));
    assert!(matches!(
        registry.erase(SubjectKind::Team, "Marchbanks").await,
        Err(RegistryError::NotFound { .. })
    ));
    // Nor in the database's own files, where it is one of files.
    if let Place::File(file) = &registry.place {
        for file in [file.clone(), file.with_extension("db-wal")] {
            let bytes = std::fs::read(&file).unwrap_or_default();
            for gone in ["Marchbanks", "Orrery", "Gwendolyn", "Platinum", "Cellar"] {
                assert!(
                    memchr::memmem::find(&bytes, gone.as_bytes()).is_none(),
                    "{gone} in {}",
                    file.display()
                );
            }
        }
    }
}

#[tokio::test]
async fn an_erased_key_takes_nothing_else_with_it() {
    let registry = demo().await;
    let (key, _, _) = registry.create_key(key_of("demo", "one")).await.unwrap();
    let other = registry.create_key(key_of("demo", "two")).await.unwrap().0;
    let erased = registry.erase(SubjectKind::Key, "one").await.unwrap();
    assert_eq!(erased.due.gone.ids, [key.id]);
    assert_eq!(registry.key("two").await.unwrap(), other);
    assert_eq!(registry.team("demo").await.unwrap().name, "demo");
    let due = registry.erasures_due(now_ms() + 1000).await.unwrap();
    assert_eq!(due, std::slice::from_ref(&erased.due));
    registry.erasure_done(erased.due.id).await.unwrap();
    assert!(registry.erasures_due(now_ms() + 1000).await.unwrap().is_empty());
    assert_eq!(registry.erasures_due(0).await.unwrap().len(), 1, "it is looked after for a while");
}

#[tokio::test]
async fn a_hold_forbids_erasing_what_it_touches_until_it_is_released() {
    let registry = two_teams().await;
    let key = registry.create_key(key_of("Orrery", "one")).await.unwrap().0;
    for (kind, held) in [
        (SubjectKind::Key, "one"),
        (SubjectKind::Application, "Orrery"),
        (SubjectKind::Team, "Marchbanks"),
        (SubjectKind::Organization, "demo"),
    ] {
        let hold = registry.add_hold(kind, held, "case 17").await.unwrap();
        let again = registry.add_hold(kind, held, "case 18").await.unwrap_err();
        assert!(matches!(again, RegistryError::Conflict(_)), "{again}");
        for (kind, wanted) in [(SubjectKind::Team, "Marchbanks"), (SubjectKind::Key, "one")] {
            let refused = registry.erase(kind, wanted).await.unwrap_err().to_string();
            assert!(refused.contains("case 17") && refused.contains(&hold.subject), "{refused}");
        }
        assert_eq!(registry.holds(false).await.unwrap(), std::slice::from_ref(&hold));
        assert!(registry.release_hold(&hold.id.to_string()).await.unwrap().released_ms.is_some());
        assert!(registry.holds(false).await.unwrap().is_empty());
    }
    assert_eq!(registry.holds(true).await.unwrap().len(), 4);
    assert!(matches!(
        registry.add_hold(SubjectKind::Key, "one", " ").await,
        Err(RegistryError::Invalid { .. })
    ));
    assert!(matches!(registry.release_hold("99").await, Err(RegistryError::NotFound { .. })));
    assert_eq!(registry.erase(SubjectKind::Key, "one").await.unwrap().due.subject, key.id);
}

#[tokio::test]
async fn moving_something_takes_it_from_under_no_hold() {
    let registry = two_teams().await;
    let key = registry.create_key(key_of("Orrery", "one")).await.unwrap().0;
    let hold = registry.add_hold(SubjectKind::Team, "Marchbanks", "case 17").await.unwrap();
    let moved = ApplicationPatch { team: Some("demo".into()), ..Default::default() };
    registry.update_application("Orrery", moved).await.unwrap();
    assert_eq!(registry.key(&key.id).await.unwrap().team, "demo");
    let refused = registry.erase(SubjectKind::Key, "one").await.unwrap_err();
    assert!(refused.to_string().contains("case 17"), "{refused}");
    registry.release_hold(&hold.id).await.unwrap();
    // And the other way round: what belonged to a team once, and is held now.
    registry.add_hold(SubjectKind::Key, "one", "case 18").await.unwrap();
    let refused = registry.erase(SubjectKind::Team, "Marchbanks").await.unwrap_err();
    assert!(refused.to_string().contains("case 18"), "{refused}");
}

#[tokio::test]
async fn a_hold_that_comes_before_the_usage_of_an_erasure_is_gone_touches_it() {
    let registry = two_teams().await;
    let erased = registry.erase(SubjectKind::Team, "Marchbanks").await.unwrap();
    let hold = registry.add_hold(SubjectKind::Organization, "demo", "case 17").await.unwrap();
    assert!(erased.due.gone.touches(&hold.subject));
    let due = registry.erasures_due(0).await.unwrap();
    assert!(due[0].gone.touches(&hold.subject) && !due[0].gone.touches("org_else"));
}

#[tokio::test]
async fn holds_are_recorded_with_what_they_are_on() {
    let mut registry = two_teams().await;
    registry.registry = registry.acting(Act { by: "adm_1".to_owned(), ..Act::itself("hold.create") });
    let hold = registry.add_hold(SubjectKind::Team, "Marchbanks", "case 17").await.unwrap();
    registry.release_hold(&hold.id).await.unwrap();
    let records = registry.audit(&Filter { limit: 100, ..Filter::default() }).await.unwrap().rows;
    let [made, released] = &records[records.len() - 2..] else { panic!("two records") };
    assert_eq!((&made.subjects[0], &released.subjects[0]), (&hold.subject, &hold.subject));
    assert_eq!(made.changes[0]["after"]["reason"], "case 17");
    assert_eq!(released.changes[0]["after"]["status"], "released");
}

#[tokio::test]
async fn what_was_erased_after_a_backup_is_erased_again_when_it_is_restored() {
    let registry = two_teams().await;
    registry.create_key(key_of("Orrery", "Gwendolyn's laptop")).await.unwrap();
    let backup = dump(&registry).await;
    let held = registry.add_hold(SubjectKind::Organization, "demo", "case 17").await.unwrap();
    registry.release_hold(&held.id.to_string()).await.unwrap();
    let erased = registry.erase(SubjectKind::Team, "Marchbanks").await.unwrap();
    registry.erasure_done(erased.due.id).await.unwrap();
    let known = registry.erasures_made().await.unwrap();
    registry.close().await;
    load::restore(&registry.place, &mut BufReader::new(backup.as_bytes())).await.unwrap();
    // And where the registry was lost, but a later backup knows of it.
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = place(dir.path());
    let mut input = BufReader::new(backup.as_bytes());
    Restoring::begin(&elsewhere, &mut input, &known).await.unwrap().commit().await.unwrap();
    for place in [&registry.place, &elsewhere] {
        let again = Registry::open(place).await.unwrap();
        assert_eq!(again.erase_again().await.unwrap(), 1);
        let text = dump(&again).await;
        for gone in ["Marchbanks", "Orrery", "Gwendolyn"] {
            assert!(!text.contains(gone), "{gone}");
        }
        let due = again.erasures_due(now_ms() + 1000).await.unwrap();
        assert_eq!((due.len(), &due[0].subject), (1, &erased.due.subject), "its usage is restored, too");
        assert_eq!(again.erase_again().await.unwrap(), 0, "once is enough");
        let records = again.audit(&Filter { limit: 100, ..Filter::default() }).await.unwrap().rows;
        let again_erased: Vec<_> = records.iter().filter(|one| one.action == "privacy.erase_again").collect();
        assert_eq!(again_erased.len(), 1);
        assert_eq!(again_erased[0].subjects[0], erased.due.subject);
        assert!(again_erased[0].organization_id.starts_with("org_"));
        again.erase(SubjectKind::Team, "demo").await.expect("its number is free");
        again.close().await;
    }
}

#[tokio::test]
async fn an_erasure_that_was_done_before_a_backup_is_looked_after_again_once_that_is_restored() {
    let registry = two_teams().await;
    let erased = registry.erase(SubjectKind::Team, "Marchbanks").await.unwrap();
    registry.erasure_done(erased.due.id).await.unwrap();
    let later = now_ms() + 1000;
    assert_eq!(registry.erasures_due(later).await.unwrap(), []);
    let backup = dump(&registry).await;
    registry.close().await;
    load::restore(&registry.place, &mut BufReader::new(backup.as_bytes())).await.unwrap();
    let again = Registry::open(&registry.place).await.unwrap();
    let due = again.erasures_due(later).await.unwrap();
    assert_eq!(due, [erased.due], "usage of the same backup was read while it was being erased");
    again.close().await;
}

#[tokio::test]
async fn scrubbing_beside_a_reader_gives_up_at_once_and_keeps_nobody_from_writing() {
    let registry = two_teams().await;
    if registry.is_shared() {
        return; // PostgreSQL scrubs beside readers.
    }
    let mut reader = registry.read().await.unwrap();
    generation_of(&mut reader).await.unwrap();
    registry.erase(SubjectKind::Team, "Marchbanks").await.unwrap();
    let began = std::time::Instant::now();
    assert!(!registry.scrub().await.unwrap());
    registry.create_key(new_key()).await.unwrap();
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "it would have waited for ten");
    drop(reader);
}

#[tokio::test]
async fn every_table_is_in_the_inventory_of_what_is_stored() {
    let registry = demo().await;
    let retention =
        crate::clickhouse::retention::Retention { raw_days: 1, hourly_days: None, daily_days: None };
    let known: Vec<&str> = crate::privacy::inventory::all(&retention, 30)
        .iter()
        .filter(|one| one.place == "registry")
        .flat_map(|one| one.names.iter().copied())
        .collect();
    let rows = sqlx::query::<Db>(registry.engine.list_tables()).fetch_all(&registry.pool).await.unwrap();
    for row in rows {
        let table: String = row.try_get("name").unwrap();
        assert!(known.contains(&table.as_str()), "{table} is stored, and nobody says so");
    }
}
