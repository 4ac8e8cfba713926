//! Keys: who is billed for them, what they may use, and how they end.

use super::*;

async fn attribution_of(registry: &Registry, key: &str) -> wire::id::AttributionId {
    let prefix = registry.key(key).await.unwrap().id;
    let row = sqlx::query::<Db>("SELECT attribution FROM keys WHERE public_id = $1")
        .bind(prefix)
        .fetch_one(&registry.pool)
        .await
        .unwrap();
    wire::id::AttributionId(number(row.get("attribution")))
}

#[tokio::test]
async fn a_pasted_key_is_not_repeated_in_the_error() {
    let registry = demo().await;
    let (_, secret, _) = registry.create_key(new_key()).await.unwrap();
    let key = secret.reveal();
    for error in [
        registry.key(key).await.map(drop),
        registry.team(key).await.map(drop),
        registry.application(key).await.map(drop),
        registry.model(key).await.map(drop),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(!error.contains(&key[15..]), "{error}");
    }
}

#[tokio::test]
async fn a_move_makes_a_new_attribution_and_leaves_the_old_one() {
    let registry = demo().await;
    registry.create_key(NewKey { description: "ci".into(), ..new_key() }).await.unwrap();
    let first = attribution_of(&registry, "ci").await;
    let before = registry.attribution(first).await.unwrap().unwrap();
    let mut seen = vec![first];
    let set = |text: &str| Some(Some(text.to_owned()));
    team(&registry, "demo", "other").await;
    registry
        .update_organization("demo", OrganizationPatch { plan: set("bronze"), ..Default::default() })
        .await
        .unwrap();
    seen.push(attribution_of(&registry, "ci").await);
    registry.update_team("demo", TeamPatch { plan: set("silver"), ..Default::default() }).await.unwrap();
    seen.push(attribution_of(&registry, "ci").await);
    registry
        .update_application("demo", ApplicationPatch { cost_centre: set("4711"), ..Default::default() })
        .await
        .unwrap();
    seen.push(attribution_of(&registry, "ci").await);
    registry.update_key("ci", KeyPatch { plan: set("gold"), ..Default::default() }).await.unwrap();
    seen.push(attribution_of(&registry, "ci").await);
    let to_other = ApplicationPatch { team: Some("other".into()), ..Default::default() };
    registry.update_application("demo", to_other).await.unwrap();
    let last = attribution_of(&registry, "ci").await;
    seen.push(last);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 6, "each change of who is billed makes a row");
    assert_eq!(registry.attribution(first).await.unwrap().unwrap(), before);
    let last = registry.attribution(last).await.unwrap().unwrap();
    assert_eq!((last.plan.as_str(), last.cost_centre.as_str()), ("gold", "4711"));
    assert_eq!(last.team_id, registry.team("other").await.unwrap().id);
}

#[tokio::test]
async fn a_change_that_does_not_touch_billing_keeps_the_attribution() {
    let registry = demo().await;
    registry.create_key(NewKey { description: "ci".into(), ..new_key() }).await.unwrap();
    let first = attribution_of(&registry, "ci").await;
    registry.update_team("demo", TeamPatch { name: Some("t2".into()), ..Default::default() }).await.unwrap();
    registry.update_key("ci", KeyPatch { models: Some(Some(vec![])), ..Default::default() }).await.unwrap();
    assert_eq!(attribution_of(&registry, "ci").await, first);
}

#[tokio::test]
async fn a_key_that_may_use_an_alias_may_not_use_a_later_one_of_that_name() {
    let registry = demo().await;
    registry.set_model("m", &[deployment("d")]).await.unwrap();
    let new = NewKey { description: "ci".into(), models: Some(vec!["m".into()]), ..new_key() };
    assert_eq!(registry.create_key(new).await.unwrap().0.models, Some(vec!["m".to_owned()]));
    registry.remove_model("m").await.unwrap();
    registry.set_model("m", &[deployment("d")]).await.unwrap();
    assert_eq!(registry.key("ci").await.unwrap().models, Some(vec![]));
}

#[tokio::test]
async fn lists_of_models_reach_data_planes_as_they_were_meant() {
    let registry = demo().await;
    registry.set_model("m", &[deployment("d")]).await.unwrap();
    for (models, allow) in [
        (None, None),
        (Some(vec![]), Some(Allow::Nothing)),
        (Some(vec!["*".to_owned()]), Some(Allow::All)),
        (Some(vec!["m".to_owned()]), Some(Allow::Only(vec![AliasId(1)]))),
    ] {
        let from = registry.generation().await.unwrap();
        let key = registry.create_key(NewKey { models: models.clone(), ..new_key() }).await.unwrap().0;
        assert_eq!(key.models, models);
        let changes = changes_since(&registry, from).await;
        let [Change::Key(key)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(key.allow, allow);
    }
    let unknown = NewKey { models: Some(vec!["x".into()]), ..new_key() };
    assert!(matches!(
        registry.create_key(unknown).await,
        Err(RegistryError::Invalid { field: "models", .. })
    ));
}

#[tokio::test]
async fn a_revoked_key_stays_revoked() {
    let registry = demo().await;
    let (key, secret, _) = registry.create_key(new_key()).await.unwrap();
    let revoked = registry.revoke_key(&key.id).await.unwrap();
    assert_eq!((&revoked.keys[..], &revoked.digests[..]), (&[key.id.clone()][..], &[secret.digest()][..]));
    let first = registry.key(&key.id).await.unwrap();
    assert_eq!(first.status, KeyStatus::Revoked);
    let again = registry.revoke_key(&key.id).await.unwrap();
    assert_eq!((again.generation, &again.digests), (revoked.generation, &revoked.digests));
    assert_eq!(registry.key(&key.id).await.unwrap().revoked_ms, first.revoked_ms);
    let patch = KeyPatch { expires_ms: Some(None), ..KeyPatch::default() };
    assert!(matches!(registry.update_key(&key.id, patch).await, Err(RegistryError::Conflict(_))));
    let team = TeamPatch { plan: Some(Some("gold".into())), ..TeamPatch::default() };
    registry.update_team("demo", team).await.unwrap();
    assert!(snapshot(&registry).await.contains(&Change::NoKey(secret.digest())));
    assert!(!snapshot(&registry).await.iter().any(|change| matches!(change, Change::Key(_))));
}

#[tokio::test]
async fn the_earlier_of_retirement_and_expiry_reaches_data_planes() {
    let registry = demo().await;
    let (soon, late) = (now_ms() + 1_000_000, now_ms() + 2_000_000);
    let key = registry.create_key(NewKey { expires_ms: Some(late), ..new_key() }).await.unwrap().0;
    let from = registry.generation().await.unwrap();
    let patch = KeyPatch { retiring_until_ms: Some(Some(soon)), ..KeyPatch::default() };
    assert_eq!(registry.update_key(&key.id, patch).await.unwrap().status, KeyStatus::Retiring);
    let changes = changes_since(&registry, from).await;
    let [Change::Key(key)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(key.not_after_ms, number(soon));
    let past = NewKey { expires_ms: Some(1), ..new_key() };
    assert!(matches!(registry.create_key(past).await, Err(RegistryError::Invalid { .. })));
}

#[tokio::test]
async fn an_end_before_1970_is_an_end() {
    let registry = demo().await;
    let key = registry.create_key(new_key()).await.unwrap().0;
    for end in [i64::MIN, -1, 0] {
        let from = registry.generation().await.unwrap();
        let patch = KeyPatch { expires_ms: Some(Some(end)), ..KeyPatch::default() };
        assert_eq!(registry.update_key(&key.id, patch).await.unwrap().status, KeyStatus::Expired);
        let changes = changes_since(&registry, from).await;
        let [Change::Key(key)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(key.not_after_ms, 1, "0 would be no end");
    }
}
