//! Two control planes on one PostgreSQL: receipts come together, whichever of them a data plane is
//! connected to.

use super::*;
use crate::keys::Secret;
use crate::publish::receipt::Receipt;
use crate::registry::Place;
use crate::registry::revocation::Which;

const LONG: Waits = Waits { revoke: PATIENCE, apply: PATIENCE };

/// One with a node 1, the other with a node 2; both stand at the present generation, and a key is there.
async fn two(waits: Waits) -> ([Plane; 2], [DataPlane; 2], KeyDigest) {
    let url = load_tests::postgres::server().database().unwrap();
    let place = Place::Postgres(Secret::new(url));
    let one = plane_on(place.clone(), tempfile::tempdir().unwrap(), waits).await;
    let name = || "demo".to_owned();
    let registry = &one.registry;
    registry.create_organization(NewOrganization { name: name(), ..Default::default() }).await.unwrap();
    registry.create_team(NewTeam { name: name(), organization: name(), ..Default::default() }).await.unwrap();
    let application = NewApplication { name: name(), team: name(), ..Default::default() };
    registry.create_application(application).await.unwrap();
    let other = plane_on(place, tempfile::tempdir().unwrap(), waits).await;
    let digest = one.new_key("leaked").await;
    let now = one.registry.generation().await.unwrap();
    let mut data_planes = [DataPlane::connect(&one, 1).await, DataPlane::connect(&other, 2).await];
    for data_plane in &mut data_planes {
        data_plane.read_to(now).await;
        data_plane.confirm().await;
    }
    // Each knows of the other's.
    until(|| [&one, &other].iter().all(|plane| plane.hub.connected().len() == 2)).await;
    ([one, other], data_planes, digest)
}

fn revoke(plane: &Plane) -> tokio::task::JoinHandle<Receipt> {
    let hub = plane.hub.clone();
    tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), true).await.unwrap() })
}

#[tokio::test]
async fn a_receipt_has_the_data_planes_of_all_control_planes() {
    let ([one, _other], [mut here, mut there], digest) = two(LONG).await;
    let receipt = revoke(&one);
    let (revocation, _) = here.revocation().await;
    here.write(Frame::Revoked { revocation }).await;
    // The other control plane sends both the revocation, with what it cuts, and the change.
    let mut cut = None;
    while cut.is_none() || there.keys.get(&digest) != Some(&false) {
        match there.frame().await {
            Frame::Revoke { cut_streams, digests, .. } => cut = Some((cut_streams, digests)),
            Frame::Delta { to, changes, .. } => {
                there.generation = to;
                there.apply(changes);
            }
            Frame::Ping => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cut, Some((true, vec![digest])));
    assert!(!receipt.is_finished(), "it has not confirmed");
    there.confirm().await;
    let receipt = receipt.await.unwrap();
    let nodes: Vec<NodeId> = receipt.nodes.iter().map(|one| one.0).collect();
    assert_eq!((nodes, receipt.pending), (vec![NodeId(1), NodeId(2)], vec![]));
    // A new key is answered once both have it.
    let digest = one.new_key("next").await;
    let now = one.registry.generation().await.unwrap();
    let hub = one.hub.clone();
    let applied = tokio::spawn(async move { hub.wait_applied(now).await });
    for data_plane in [&mut here, &mut there] {
        data_plane.read_to(now).await;
        assert_eq!(data_plane.keys.get(&digest), Some(&true));
        assert!(!applied.is_finished());
        data_plane.confirm().await;
    }
    assert!(applied.await.unwrap());
}

#[tokio::test]
async fn a_data_plane_that_moves_confirms_where_it_comes_to() {
    let ([one, other], [mut here, there], _) = two(LONG).await;
    let receipt = revoke(&one);
    let (revocation, _) = here.revocation().await;
    here.write(Frame::Revoked { revocation }).await;
    // The other control plane has not noticed yet that it left.
    let mut moved = DataPlane::connect_with(&one, 2, one.registry.id(), there.generation).await;
    moved.read_to(one.registry.generation().await.unwrap()).await;
    moved.confirm().await;
    drop((there, other));
    let receipt = receipt.await.unwrap();
    assert_eq!((receipt.nodes.len(), receipt.pending), (2, vec![]));
}

#[tokio::test]
async fn a_data_plane_of_another_control_plane_that_says_nothing_is_pending() {
    let ([one, _other], [mut here, _there], _) = two(IN_VAIN).await;
    let receipt = revoke(&one);
    let (revocation, _) = here.revocation().await;
    here.write(Frame::Revoked { revocation }).await;
    let receipt = receipt.await.unwrap();
    let pending: Vec<NodeId> = receipt.pending.iter().map(|one| one.node).collect();
    assert_eq!((receipt.nodes.len(), pending), (1, vec![NodeId(2)]));
}
