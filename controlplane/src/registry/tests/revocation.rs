//! Revoking many keys, and giving keys successors.

use super::*;
use crate::registry::revocation::{BY_DIGEST, REVOKED_AT_ONCE_MAX, Revocation, Which};
use crate::registry::rotation::Old;

async fn revoke_all(registry: &Registry, which: Which) -> Vec<Revocation> {
    let mut selection = registry.select_keys(which).await.unwrap();
    let mut all = Vec::new();
    while let Some(some) = registry.revoke_some(&mut selection).await.unwrap() {
        all.push(some);
    }
    all
}

async fn status(registry: &Registry, key: &str) -> KeyStatus {
    registry.key(key).await.unwrap().status
}

#[tokio::test]
async fn all_keys_of_a_team_or_an_application_are_revoked_some_at_a_time_and_no_others() {
    let registry = demo().await;
    let other = NewTeam { name: "other".into(), organization: "demo".into(), ..Default::default() };
    registry.create_team(other).await.unwrap();
    for (name, team) in [("second", "demo"), ("spared", "other")] {
        let new = NewApplication { name: name.into(), team: team.into(), ..Default::default() };
        registry.create_application(new).await.unwrap();
    }
    let of = |application: &str| NewKey { application: application.into(), ..new_key() };
    for _ in 0..REVOKED_AT_ONCE_MAX {
        registry.create_key(of("demo")).await.unwrap();
    }
    let second = registry.create_key(of("second")).await.unwrap().0.id;
    let spared = registry.create_key(of("spared")).await.unwrap().0.id;
    let by_team = revoke_all(&registry, Which::Team("demo".into())).await;
    assert_eq!(by_team.iter().map(|some| some.keys.len()).collect::<Vec<_>>(), [REVOKED_AT_ONCE_MAX, 1]);
    assert_eq!(status(&registry, &second).await, KeyStatus::Revoked);
    assert_eq!(status(&registry, &spared).await, KeyStatus::Active);
    assert!(revoke_all(&registry, Which::Team("demo".into())).await.is_empty(), "all are revoked already");
    let by_application = revoke_all(&registry, Which::Application("spared".into())).await;
    assert_eq!(by_application[0].keys, [spared]);
    assert!(matches!(
        registry.select_keys(Which::Team("nobody".into())).await,
        Err(RegistryError::NotFound { .. })
    ));
}

#[tokio::test]
async fn a_list_names_keys_by_id_prefix_and_hash_and_says_what_it_does_not_know() {
    let registry = demo().await;
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(registry.create_key(NewKey { description: "same".into(), ..new_key() }).await.unwrap());
    }
    let digest = format!("{BY_DIGEST}{}", made[2].1.digest());
    let stranger = format!("{BY_DIGEST}{}", "ab".repeat(32));
    let whole = made[3].1.reveal().to_owned();
    let listed =
        vec![made[0].0.id.clone(), made[1].0.prefix.clone(), digest, stranger.clone(), "same".into(), whole];
    let done = revoke_all(&registry, Which::Listed(listed)).await;
    let ids: Vec<_> = made[..3].iter().map(|made| made.0.id.clone()).collect();
    assert_eq!(done[0].keys, ids);
    assert_eq!(done[0].unknown, [stranger, "same".into(), "(a secret, not repeated)".into()]);
    assert_eq!(status(&registry, &made[3].0.id).await, KeyStatus::Active);
}

#[tokio::test]
async fn a_successor_is_like_the_old_key_which_works_on_for_the_overlap() {
    let registry = demo().await;
    let expires_ms = Some(now_ms() + 1_000_000);
    let new = NewKey { description: "ci".into(), plan: Some("gold".into()), expires_ms, ..new_key() };
    let (old, secret, _) = registry.create_key(new).await.unwrap();
    let rotation = registry.rotate_key(&old.id, Old::Retires(60_000)).await.unwrap();
    assert_eq!(rotation.old.status, KeyStatus::Retiring);
    assert!((now_ms()..=now_ms() + 60_000).contains(&rotation.old.retiring_until_ms.unwrap()));
    let new = &rotation.new;
    assert_eq!(
        (new.status, &new.application_id, &new.plan),
        (KeyStatus::Active, &old.application_id, &old.plan)
    );
    let lasts = |key: &Key| key.expires_ms.unwrap() - key.created_ms;
    assert_eq!((&new.description, lasts(new)), (&old.description, lasts(&old)));
    assert_ne!(rotation.secret.digest(), secret.digest());
    assert!(matches!(registry.rotate_key(&old.id, Old::Retires(1)).await, Err(RegistryError::Conflict(_))));
}

#[tokio::test]
async fn in_an_emergency_the_old_key_ends_with_the_successors_beginning() {
    let registry = demo().await;
    let (old, secret, before) = registry.create_key(new_key()).await.unwrap();
    let rotation = registry.rotate_key(&old.id, Old::Revoked).await.unwrap();
    assert_eq!((rotation.old.status, rotation.digest), (KeyStatus::Revoked, secret.digest()));
    let changes = changes_since(&registry, before).await;
    let gone = changes.contains(&Change::NoKey(secret.digest()));
    let made =
        changes.iter().any(|c| matches!(c, Change::Key(key) if key.digest == rotation.secret.digest()));
    assert!(gone && made, "{changes:?}");
    assert!(matches!(registry.rotate_key(&old.id, Old::Revoked).await, Err(RegistryError::Conflict(_))));
}

#[tokio::test]
async fn a_removed_node_is_no_longer_enrolled_and_does_not_come_back_by_itself() {
    let registry = demo().await;
    let (one, two) = (NodeId(1), NodeId(2));
    assert!(registry.see_node(one).await.unwrap() && registry.see_node(two).await.unwrap());
    registry.remove_node(&one.to_string()).await.unwrap();
    assert!(!registry.see_node(one).await.unwrap());
    let left: Vec<_> = registry.nodes().await.unwrap().into_iter().map(|node| node.node).collect();
    assert_eq!(left, [two]);
    assert!(matches!(registry.remove_node(&one.to_string()).await, Err(RegistryError::NotFound { .. })));
}

#[tokio::test]
async fn one_name_of_a_list_that_can_be_no_keys_leaves_all_keys_as_they_are_and_is_named() {
    let registry = demo().await;
    let (key, secret, _) = registry.create_key(new_key()).await.unwrap();
    let good = format!("{BY_DIGEST}{}", secret.digest());
    // Far behind what one transaction revokes.
    let many = vec![good; REVOKED_AT_ONCE_MAX + 1];
    let pasted = format!("{BY_DIGEST}{}", secret.reveal());
    for (bad, shown) in [
        ("sha256:abc", "sha256:abc"),
        (&"sha256:AB".repeat(32), "sha256:ABsha"),
        ("", "\"\""),
        ("two words", "two words"),
        ("key_\u{7}", "\\u{7}"),
        (&pasted, "a secret, not repeated"),
    ] {
        let listed = [many.clone(), vec![bad.to_owned()]].concat();
        let refused = registry.select_keys(Which::Listed(listed)).await.unwrap_err();
        assert!(matches!(refused, RegistryError::Invalid { field: "keys", .. }), "{refused}");
        let told = refused.to_string();
        assert!(told.contains(shown) && told.contains(&format!("[{}]", many.len())), "{told}");
        assert!(!told.contains(&secret.reveal()[20..]), "{told}");
    }
    assert_eq!(status(&registry, &key.id).await, KeyStatus::Active);
}
