//! The audit trail: what each change leaves, and that whatever is done to it afterwards is found.

use std::sync::Arc;

use super::*;
use crate::registry::act::Act;
use crate::registry::audit::exported::{Exported, VerifiedExport};
use crate::registry::audit::read::{Filter, Record};
use crate::registry::audit::verify::{Known, Verified};
use crate::registry::role::Scope;

fn act(action: &'static str) -> Act {
    Act {
        by: "adm_1".to_owned(),
        home: (None, None),
        action,
        scope: Scope::Installation,
        dry_run: false,
        if_match: None,
        idempotency: None,
    }
}

async fn records(registry: &Registry) -> Vec<Record> {
    let filter = Filter { limit: PAGE_ROWS_MAX, ..Filter::default() };
    registry.audit(&filter).await.unwrap().rows
}

async fn verified(registry: &Registry) -> Verified {
    registry.verify_audit(None).await.unwrap()
}

/// A trail of five records: an organization is made, and renamed four times.
async fn trail() -> Fixture {
    let mut registry = empty().await;
    registry.registry = registry.acting(act("organization.update"));
    organization(&registry, "o0").await;
    for n in 0..4 {
        let patch = OrganizationPatch { name: Some(format!("o{}", n + 1)), ..Default::default() };
        registry.update_organization(&format!("o{n}"), patch).await.unwrap();
    }
    registry
}

#[tokio::test]
async fn a_record_tells_what_changed_before_and_after() {
    let registry = trail().await;
    let records = records(&registry).await;
    assert_eq!(records.iter().map(|one| one.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let id = registry.organization("o4").await.unwrap().id;
    let last = records.last().unwrap();
    assert_eq!(
        (last.by.as_str(), last.action.as_str(), last.result.as_str()),
        ("adm_1", "organization.update", "done")
    );
    assert_eq!((&last.subjects, &last.organization_id, last.team_id.as_str()), (&vec![id.clone()], &id, ""));
    let changes = serde_json::json!([{"id": id, "before": {"name": "o3"}, "after": {"name": "o4"}}]);
    assert_eq!(last.changes, changes);
    assert_eq!(records[0].changes[0]["before"], serde_json::Value::Null);
    assert_eq!(records[0].changes[0]["after"]["name"], "o0");
}

#[tokio::test]
async fn what_changes_nothing_fails_or_is_only_tried() {
    let registry = trail().await;
    let before = registry.generation().await.unwrap();
    registry.update_organization("o4", OrganizationPatch::default()).await.unwrap();
    assert_eq!(records(&registry).await[5].result, "unchanged");
    let taken = NewOrganization { name: "o4".into(), ..Default::default() };
    assert!(registry.create_organization(taken).await.is_err());
    assert_eq!(records(&registry).await.len(), 6, "what was not done has no record of its own");
    let dry = registry.acting(Act { dry_run: true, ..act("organization.create") });
    let new = NewOrganization { name: "new".into(), ..Default::default() };
    assert_eq!(dry.create_organization(new).await.unwrap().name, "new");
    assert_eq!(records(&registry).await.len(), 6);
    assert_eq!(registry.generation().await.unwrap(), before);
    assert!(registry.organization("new").await.is_err());
}

#[tokio::test]
async fn many_keys_make_one_record_for_each_team() {
    let mut registry = demo().await;
    team(&registry, "demo", "second").await;
    application(&registry, "second", "other").await;
    let mut keys = Vec::new();
    for application in ["demo", "other", "demo"] {
        let new = NewKey { application: application.into(), ..NewKey::default() };
        keys.push(registry.create_key(new).await.unwrap().0.id);
    }
    registry.registry = registry.acting(act("key.revoke_many"));
    let which = crate::registry::revocation::Which::Listed(keys.clone());
    let mut selection = registry.select_keys(which).await.unwrap();
    registry.revoke_some(&mut selection).await.unwrap().unwrap();
    let records = records(&registry).await;
    assert_eq!(records.iter().map(|one| one.subjects.len()).collect::<Vec<_>>().iter().sum::<usize>(), 3);
    assert_eq!(records.len(), 2);
    let of = Filter { subject: Some(keys[1].clone()), limit: 10, ..Filter::default() };
    assert_eq!(registry.audit(&of).await.unwrap().rows.len(), 1);
    let of = Filter { subject: Some(keys[1][..6].to_owned()), limit: 10, ..Filter::default() };
    assert_eq!(registry.audit(&of).await.unwrap().rows.len(), 0, "a part of an id is no id");
}

#[tokio::test]
async fn what_moves_is_seen_to_go_and_to_come_and_neither_side_hears_of_the_other() {
    let mut registry = demo().await;
    organization(&registry, "acme").await;
    registry.registry = registry.acting(act("team.update"));
    let [from, to] = ["demo", "acme"].map(|name| registry.organization(name));
    let (from, to) = (from.await.unwrap().id, to.await.unwrap().id);
    let moved = TeamPatch { organization: Some("acme".into()), ..TeamPatch::default() };
    let team = registry.update_team("demo", moved).await.unwrap();
    let records = records(&registry).await;
    assert_eq!(records.len(), 2);
    let of = |organization: &str| records.iter().find(|one| one.organization_id == organization).unwrap();
    let (went, came) = (of(&from), of(&to));
    assert_eq!((&went.subjects, &came.subjects), (&vec![team.id.clone()], &vec![team.id.clone()]));
    assert_eq!(
        (&went.changes[0]["after"], &came.changes[0]["before"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert!(!went.changes.to_string().contains(&to) && !came.changes.to_string().contains(&from));
    assert!(verified(&registry).await.is_intact);
}

#[tokio::test]
async fn whatever_is_done_to_the_trail_is_found() {
    for (statements, fault) in [
        (&["DELETE FROM audit WHERE seq = 3"][..], "record 3 is missing"),
        (&["DELETE FROM audit WHERE seq IN (2, 3)"], "records 2 to 3 are missing"),
        (&["DELETE FROM audit WHERE seq = 5"], "record 5 is missing"),
        (&["DELETE FROM audit WHERE seq = 1"], "record 1 is missing"),
        (&["UPDATE audit SET actor = 'adm_2' WHERE seq = 3"], "record 3 is not"),
        (&["UPDATE audit SET at_ms = at_ms + 1 WHERE seq = 1"], "record 1 is not"),
        (&["UPDATE audit SET result = 'refused 403' WHERE seq = 5"], "record 5 is not"),
        (&["UPDATE audit SET subjects = 'org_x' WHERE seq = 2"], "record 2 is not"),
        (&["UPDATE audit SET detail = '[]' WHERE seq = 3"], "record 3 is not"),
        (&["UPDATE audit SET detail = NULL WHERE seq = 3"], "record 3 is not"),
        (&["UPDATE audit SET hash = digest WHERE seq = 3"], "record 3 is not"),
        (
            &[
                "UPDATE audit SET seq = 99 WHERE seq = 3",
                "UPDATE audit SET seq = 3 WHERE seq = 4",
                "UPDATE audit SET seq = 4 WHERE seq = 99",
            ],
            "record 3 is not",
        ),
    ] {
        let registry = trail().await;
        assert!(verified(&registry).await.is_intact);
        for statement in statements {
            sqlx::query::<Db>(*statement).execute(&registry.pool).await.unwrap();
        }
        let found = verified(&registry).await;
        assert!(!found.is_intact && found.faults[0].starts_with(fault), "{statements:?} {found:?}");
    }
}

#[tokio::test]
async fn what_is_erased_in_order_leaves_the_chain_whole() {
    let registry = trail().await;
    let erased = "UPDATE audit SET detail = NULL, salt = NULL WHERE seq < 4";
    sqlx::query::<Db>(erased).execute(&registry.pool).await.unwrap();
    let found = verified(&registry).await;
    assert_eq!((found.is_intact, found.records, found.erased), (true, 5, 3));
    let first = &records(&registry).await[0];
    assert!(first.is_erased && first.changes.is_null());
}

#[tokio::test]
async fn a_trail_that_was_forged_as_a_whole_does_not_have_the_hash_that_was_kept() {
    let (real, forged) = (trail().await, trail().await);
    let kept = verified(&real).await;
    let known = || Some(Known { seq: kept.last_seq, hash: kept.last_hash.clone() });
    assert!(real.verify_audit(known()).await.unwrap().is_intact);
    let found = forged.verify_audit(known()).await.unwrap();
    assert!(found.faults[0].contains("another hash"), "{found:?}");
    let known = Some(Known { seq: 6, hash: kept.last_hash.clone() });
    assert!(!real.verify_audit(known).await.unwrap().is_intact, "a record that was kept and is gone");
}

#[tokio::test]
async fn two_control_planes_write_one_chain() {
    let first = empty().await;
    let second = Registry::open(&first.place).await.unwrap();
    let handles = [first.acting(act("organization.create")), second.acting(act("organization.create"))];
    let mut tasks = Vec::new();
    for (at, handle) in handles.into_iter().enumerate() {
        let handle = Arc::new(handle);
        for n in 0..20 {
            let handle = handle.clone();
            tasks.push(tokio::spawn(async move { organization(&handle, &format!("o{at}-{n}")).await }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let found = verified(&first).await;
    assert_eq!((found.is_intact, found.records, found.last_seq), (true, 40, 40), "{found:?}");
}

fn check(exported: &[serde_json::Value], expected: Option<&str>) -> VerifiedExport {
    let mut walk = Exported::new(expected);
    exported.iter().for_each(|one| walk.step(Some(one)));
    walk.end()
}

/// What an export of these records is.
fn exported(records: &[Record]) -> Vec<serde_json::Value> {
    let line = |one: &Record| serde_json::from_str(&serde_json::to_string(one).unwrap()).unwrap();
    records.iter().map(line).collect()
}

#[tokio::test]
async fn an_exported_trail_is_checked_without_the_registry() {
    let registry = trail().await;
    registry.record_refusal(409, "some thing").await.unwrap();
    let erased = "UPDATE audit SET detail = NULL, salt = NULL WHERE seq = 2";
    sqlx::query::<Db>(erased).execute(&registry.pool).await.unwrap();
    let all = exported(&records(&registry).await);
    let kept = verified(&registry).await.last_hash;
    let found = check(&all, Some(&kept));
    assert!(found.is_intact, "{found:?}");
    assert_eq!((found.records, found.erased, found.last_seq, &found.last_hash), (6, 1, 6, &kept));
    assert_eq!(found.whole, ["1-6"]);
    let part = check(&all[2..], Some(&kept));
    assert!(part.is_intact && part.whole == ["3-6"] && part.bounds.contains("before record 3"), "{part:?}");
    let grown = check(&all, Some(all[3]["hash"].as_str().unwrap()));
    assert!(grown.is_intact && grown.bounds.contains("record 4 is the expected one"), "{grown:?}");
    // Its end cut off: nothing shows it but the hash that was kept.
    let cut = check(&all[..4], None);
    assert!(cut.is_intact && cut.bounds.contains("behind record 4 shows"), "{cut:?}");
    let cut = check(&all[..4], Some(&kept));
    assert!(cut.faults[0].contains("cut off") && cut.whole == ["1-4"], "{cut:?}");
}

#[tokio::test]
async fn whatever_is_done_to_an_exported_trail_is_found() {
    let registry = trail().await;
    let all = exported(&records(&registry).await);
    for (member, value) in [
        ("at", serde_json::json!("2026-01-01T00:00:00Z")),
        ("by", "adm_2".into()),
        ("action", "x".into()),
        ("result", "unchanged".into()),
        ("organization_id", "org_2".into()),
        ("team_id", "team_2".into()),
        ("subjects", serde_json::json!(["x"])),
        ("changes", serde_json::json!([])),
        ("is_erased", true.into()),
        ("salt", "00".into()),
        ("digest", "00".into()),
        ("hash", "00".into()),
    ] {
        let mut changed = all.clone();
        changed[2][member] = value;
        let found = check(&changed, None);
        assert!(found.faults[0].starts_with("record 3 "), "{member} {found:?}");
        assert_eq!(found.whole[0], "1-2", "{member}");
    }
    let mut without = all.clone();
    without.remove(2);
    let found = check(&without, None);
    assert_eq!(
        (found.faults[0].as_str(), &found.whole[..]),
        ("record 3 is missing", &["1-2".into(), "4-5".into()][..])
    );
    let mut swapped = all.clone();
    swapped.swap(2, 3);
    assert!(!check(&swapped, None).is_intact);
    let twice = [&all[..3], &all[2..]].concat();
    assert!(!check(&twice, None).is_intact);
}
