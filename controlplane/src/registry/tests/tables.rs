//! Snapshots and deltas: what data planes get.

use super::*;
use crate::registry::rotation::Old;

#[tokio::test]
async fn a_snapshot_does_not_see_what_is_committed_while_it_is_read() {
    let registry = demo().await;
    let mut reading = registry.snapshot().await.unwrap();
    let held = reading.generation();
    registry.create_key(new_key()).await.unwrap();
    let mut all = Vec::new();
    while let Some(part) = reading.next_part().await.unwrap() {
        all.extend(part);
    }
    assert!(matches!(all[0], Change::Settings(_)));
    assert!(!all.iter().any(|change| matches!(change, Change::Key(_))));
    assert!(matches!(&changes_since(&registry, held).await[..], [Change::Key(_)]));
}

#[tokio::test]
async fn a_snapshot_of_many_keys_comes_in_parts_and_misses_none() {
    let registry = demo().await;
    let attribution = {
        registry.create_key(new_key()).await.unwrap();
        1i64
    };
    let mut write = registry.write().await.unwrap();
    for n in 0..9000i64 {
        let id = write.next_id("key").await.unwrap();
        sqlx::query::<Db>(
            "INSERT INTO keys (id, public_id, application, attribution, prefix, digest, description, status, created_ms)
             VALUES ($1, $2, 1, $3, '', $4, '', 'active', 0)",
        )
        .bind(id)
        .bind(format!("key_{n}"))
        .bind(attribution)
        .bind(&keys::digest(&n.to_le_bytes()).0[..])
        .execute(write.conn())
        .await
        .unwrap();
    }
    write.commit().await.unwrap();
    let mut reading = registry.snapshot().await.unwrap();
    let (mut parts, mut ids) = (0, std::collections::HashSet::new());
    while let Some(part) = reading.next_part().await.unwrap() {
        assert!(part.len() <= wire::frame::PART_CHANGES);
        parts += 1;
        ids.extend(part.iter().filter_map(|change| match change {
            Change::Key(key) => Some(key.id.0),
            _ => None,
        }));
    }
    assert_eq!((parts, ids.len()), (3, 9001));
}

#[tokio::test]
async fn a_key_in_whatever_state_is_the_same_in_a_snapshot_and_in_a_delta() {
    let registry = demo().await;
    registry.set_model("m", &[deployment("d")]).await.unwrap();
    registry.set_model("n", &[deployment("e")]).await.unwrap();
    let from = registry.generation().await.unwrap();
    for models in [None, Some(vec![]), Some(vec!["m".into(), "n".into()]), Some(vec!["*".into()])] {
        for expires_ms in [None, Some(now_ms() + 1000)] {
            let new = NewKey { models: models.clone(), expires_ms, ..new_key() };
            registry.create_key(new).await.unwrap();
        }
    }
    let (retiring, ..) = registry.create_key(new_key()).await.unwrap();
    registry.rotate_key(&retiring.id, Old::Retires(60_000)).await.unwrap();
    let (revoked, ..) = registry.create_key(new_key()).await.unwrap();
    registry.revoke_key(&revoked.id).await.unwrap();
    let keys = |changes: Vec<Change>| -> Vec<Change> {
        let of_keys = |change: &Change| matches!(change, Change::Key(_) | Change::NoKey(_));
        changes.into_iter().filter(of_keys).collect()
    };
    let (whole, since) = (keys(snapshot(&registry).await), keys(changes_since(&registry, from).await));
    assert_eq!(whole.len(), 11);
    assert!(since.len() == whole.len() && since.iter().all(|change| whole.contains(change)), "{since:?}");
}

#[tokio::test]
async fn a_generation_that_the_registry_has_not_reached_calls_for_a_snapshot() {
    let registry = demo().await;
    let now = registry.generation().await.unwrap();
    assert!(matches!(registry.since(now).await.unwrap(), Since::Current));
    assert!(matches!(registry.since(Generation(now.0 + 1)).await.unwrap(), Since::Unknown));
}

#[tokio::test]
async fn nothing_stands_at_generation_0() {
    let registry = demo().await;
    assert!(matches!(registry.since(Generation(0)).await.unwrap(), Since::Unknown));
}

#[tokio::test]
async fn snapshots_that_nobody_reads_on_leave_connections_for_the_rest() {
    let registry = demo().await;
    let mut held = Vec::new();
    for _ in 0..SNAPSHOTS_MAX {
        held.push(registry.snapshot().await.unwrap());
    }
    let mut next = std::pin::pin!(registry.snapshot());
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx).is_pending())).await);
    let key = registry.create_key(new_key()).await.unwrap().0;
    registry.revoke_key(&key.id).await.unwrap();
    held.pop();
    assert_eq!(next.await.unwrap().generation(), registry.generation().await.unwrap());
}

#[test]
fn a_part_of_the_longest_changes_fits_into_a_frame() {
    use wire::frame::{Frame, HEADER_BYTES, PART_CHANGES, PAYLOAD_BYTES_MAX};
    use wire::id::{ApplicationId, AttributionId, DeploymentId, KeyDigest, KeyId};
    use wire::table;

    let text = |len| "x".repeat(len);
    let only = |count: usize| Allow::Only((0..u32::try_from(count).unwrap()).map(AliasId).collect());
    let key = table::Key {
        digest: KeyDigest([0; 32]),
        id: KeyId(1),
        application: ApplicationId(1),
        attribution: AttributionId(1),
        not_after_ms: 1,
        allow: Some(only(allow::MODELS_MAX)),
    };
    let application = table::Application { id: ApplicationId(1), allow: only(allow::MODELS_MAX) };
    let alias = table::Alias {
        id: AliasId(1),
        name: text(NAME_BYTES_MAX),
        created_s: 1,
        deployments: (0..model::DEPLOYMENTS_MAX).map(|_| DeploymentId(1)).collect(),
    };
    let deployment = table::Deployment {
        id: DeploymentId(1),
        name: text(NAME_BYTES_MAX),
        base_url: text(TEXT_BYTES_MAX),
        dialect: Dialect::Openai,
        upstream_model: text(TEXT_BYTES_MAX),
        credential: text(NAME_BYTES_MAX),
        api_version: text(TEXT_BYTES_MAX),
        weight: 1,
        on_disconnect: OnDisconnect::Cancel,
        replay_safe: false,
        connect_timeout_ms: 1,
        first_byte_timeout_ms: 1,
        idle_timeout_ms: 1,
    };
    for change in [
        Change::Key(key),
        Change::Application(application),
        Change::Alias(alias),
        Change::Deployment(deployment),
    ] {
        let (from, to) = (Generation(1), Generation(2));
        let bytes = Frame::Delta { from, to, changes: vec![change.clone(); PART_CHANGES] }.to_bytes();
        assert!(bytes.len() <= HEADER_BYTES + PAYLOAD_BYTES_MAX, "{} {change:?}", bytes.len());
    }
}
