//! Whose the keys are that data planes tell of.

use wire::id::KeyDigest;

use super::*;
use crate::registry::act::Act;
use crate::registry::hold::SubjectKind;
use crate::registry::role::Scope;

#[tokio::test]
async fn a_digest_leads_to_a_key_unless_that_was_erased() {
    let registry = demo().await;
    let mut digests = vec![KeyDigest([7; 32])];
    let mut ids = Vec::new();
    // More than one statement asks for.
    for _ in 0..230 {
        let (key, secret, _) = registry.create_key(new_key()).await.unwrap();
        digests.push(secret.digest());
        ids.push(key.id);
    }
    registry.revoke_key(&ids[0]).await.unwrap();
    registry.erase(SubjectKind::Key, &ids[1]).await.unwrap();
    let before = registry.generation().await.unwrap();
    let places = registry.key_places(&digests).await.unwrap();
    assert_eq!(places.len(), 229, "neither the unknown one nor the erased one");
    let place = &places[&digests[1]];
    let key = registry.key(&ids[0]).await.unwrap();
    assert_eq!((&place.key_id, &place.application_id), (&key.id, &key.application_id));
    assert_eq!((&place.team_id, &place.organization_id), (&key.team_id, &key.organization_id));
    assert!(!places.contains_key(&digests[2]));
    assert_eq!(registry.generation().await.unwrap(), before, "data planes hear nothing of it");
}

#[tokio::test]
async fn keys_are_found_by_their_ids_within_the_scope_of_who_asks() {
    let registry = demo().await;
    team(&registry, "demo", "other").await;
    application(&registry, "other", "other").await;
    let here = registry.create_key(new_key()).await.unwrap().0;
    let there = NewKey { application: "other".into(), ..NewKey::default() };
    let there = registry.create_key(there).await.unwrap().0;
    let ids = [here.id.as_str(), there.id.as_str(), "key_none"];
    let found = registry.keys_with_ids(&ids).await.unwrap();
    assert_eq!((found.len(), &found[&here.id], &found[&there.id]), (2, &here, &there));
    let team = registry.team("demo").await.unwrap();
    let scoped = Act { scope: Scope::Team(team.row), ..Act::itself("test") };
    let found = registry.acting(scoped).keys_with_ids(&ids).await.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), [&here.id]);
}
