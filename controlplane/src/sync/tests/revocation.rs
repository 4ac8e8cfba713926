//! Revocations: the receipt, and that nothing goes ahead of them or undoes them.

use std::time::Instant;

use super::*;
use crate::publish::receipt::Receipt;
use crate::registry::revocation::Which;

fn waited_for(receipt: &Receipt) -> Vec<NodeId> {
    receipt.pending.iter().map(|one| one.node).collect()
}

#[tokio::test]
async fn a_revocation_returns_with_a_receipt_of_every_confirmed_node() {
    let plane = plane().await;
    let digest = plane.new_key("leaked").await;
    let now = plane.registry.generation().await.unwrap();
    let (mut one, mut two) = (DataPlane::connect(&plane, 1).await, DataPlane::connect(&plane, 2).await);
    one.read_to(now).await;
    two.read_to(now).await;
    let hub = plane.hub.clone();
    let receipt = tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), false).await.unwrap() });
    for data_plane in [&mut one, &mut two] {
        let (revocation, digests) = data_plane.revocation().await;
        assert_eq!(digests, [digest]);
        data_plane.write(Frame::Revoked { revocation }).await;
    }
    let receipt = receipt.await.unwrap();
    let nodes: Vec<NodeId> = receipt.nodes.iter().map(|one| one.0).collect();
    assert_eq!((nodes, receipt.pending), (vec![NodeId(1), NodeId(2)], vec![]));
}

#[tokio::test]
async fn a_node_that_is_away_is_pending_and_is_not_waited_for() {
    let plane = plane().await;
    plane.new_key("leaked").await;
    drop(DataPlane::connect(&plane, 7).await);
    until(|| plane.hub.connected().is_empty()).await;
    let begun = Instant::now();
    let receipt = plane.hub.revoke(Which::Key("leaked".into()), false).await.unwrap();
    assert_eq!((receipt.nodes.len(), waited_for(&receipt)), (0, vec![NodeId(7)]));
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_node_that_leaves_unconfirmed_is_pending_and_is_not_waited_for() {
    let plane = plane().await;
    plane.new_key("leaked").await;
    let mut data_plane = DataPlane::connect(&plane, 7).await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    let hub = plane.hub.clone();
    let begun = Instant::now();
    let receipt = tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), false).await.unwrap() });
    data_plane.revocation().await;
    drop(data_plane);
    let receipt = receipt.await.unwrap();
    assert_eq!((receipt.nodes.len(), waited_for(&receipt)), (0, vec![NodeId(7)]));
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_pending_after_the_limit() {
    let plane = plane_waiting(IN_VAIN).await;
    plane.new_key("leaked").await;
    let mut data_plane = DataPlane::connect(&plane, 7).await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    let hub = plane.hub.clone();
    let begun = tokio::time::Instant::now();
    let receipt = tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), false).await.unwrap() });
    // It has the frame, and says nothing.
    data_plane.revocation().await;
    let receipt = receipt.await.unwrap();
    assert!(begun.elapsed() >= IN_VAIN.revoke);
    assert_eq!((receipt.nodes.len(), waited_for(&receipt)), (0, vec![NodeId(7)]));
}

#[tokio::test]
async fn applying_the_generation_of_a_revocation_confirms_it_too() {
    let plane = plane().await;
    let digest = plane.new_key("leaked").await;
    let mut data_plane = DataPlane::connect(&plane, 7).await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    let hub = plane.hub.clone();
    let receipt = tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), false).await.unwrap() });
    while data_plane.keys.get(&digest) != Some(&false) {
        match data_plane.frame().await {
            Frame::Delta { to, changes, .. } => {
                data_plane.generation = to;
                data_plane.apply(changes);
            }
            Frame::Revoke { .. } | Frame::Ping => {}
            other => panic!("{other:?}"),
        }
    }
    data_plane.confirm().await;
    let receipt = receipt.await.unwrap();
    assert_eq!((receipt.nodes[0].0, receipt.pending), (NodeId(7), vec![]));
}

#[tokio::test]
async fn connecting_with_the_generation_of_a_revocation_confirms_it_too() {
    let plane = plane().await;
    plane.new_key("leaked").await;
    let mut data_plane = DataPlane::connect(&plane, 7).await;
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    let hub = plane.hub.clone();
    let receipt = tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), false).await.unwrap() });
    data_plane.revocation().await;
    // It has applied the revocation, and its connection breaks before it can say so.
    let now = plane.registry.generation().await.unwrap();
    let _again = DataPlane::connect_with(&plane, 7, plane.registry.id(), now).await;
    let receipt = receipt.await.unwrap();
    assert_eq!((receipt.nodes.len(), receipt.pending), (1, vec![]));
}

#[tokio::test]
async fn a_revocation_goes_ahead_of_the_deltas_that_wait() {
    let plane = plane().await;
    plane.new_key("leaked").await;
    let attached = plane.hub.attach(NodeId(7), Generation(0));
    let (mut urgent, mut deltas) = (attached.urgent, attached.deltas);
    for n in 0..5 {
        plane.new_key(&n.to_string()).await;
    }
    let hub = plane.hub.clone();
    let receipt = tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), false).await.unwrap() });
    let Some(Frame::Revoke { revocation, .. }) = urgent.recv().await else { panic!() };
    assert!(deltas.try_recv().is_ok(), "deltas were waiting, and the revocation did not wait behind them");
    plane.hub.revoked(attached.session, revocation);
    receipt.await.unwrap();
}

#[tokio::test]
async fn keys_revoked_while_a_snapshot_is_sent_are_gone_at_its_end() {
    let plane = plane().await;
    for n in 0..PART_CHANGES {
        plane.new_key(&n.to_string()).await;
    }
    let digest = plane.new_key("leaked").await;
    let framed = UnixStream::connect(&plane.socket).await.unwrap();
    let mut framed = Framed::new(framed);
    let (registry, generation) = (RegistryId(0), Generation(0));
    let hello = Hello { role: Role::Sync, node: NodeId(7), boot: BootId(1), registry, generation };
    framed.writer.write(&Frame::Hello(hello)).await.unwrap();
    framed.writer.write(&Frame::Buried(vec![])).await.unwrap();
    plane.connected(7).await;
    // Nothing is read yet: the snapshot is longer than the socket's buffer, so it can't be all under way.
    let hub = plane.hub.clone();
    let receipt = tokio::spawn(async move { hub.revoke(Which::Key("leaked".into()), false).await.unwrap() });
    until(|| plane.hub.revocations_waiting() == 1).await;
    let (mut state, mut confirmed) = (None, false);
    loop {
        match framed.read(1 << 24).await.unwrap() {
            Frame::Revoke { revocation, digests, .. } => {
                assert_eq!(digests, [digest]);
                framed.writer.write(&Frame::Revoked { revocation }).await.unwrap();
                confirmed = true;
            }
            Frame::SnapshotPart(changes) => {
                for change in changes {
                    match change {
                        Change::Key(key) if key.digest == digest => state = Some(true),
                        Change::NoKey(gone) if gone == digest => state = Some(false),
                        _ => {}
                    }
                }
            }
            Frame::SnapshotEnd { .. } => break,
            Frame::Welcome { .. } | Frame::SnapshotBegin { .. } | Frame::Ping => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(confirmed, "the revocation goes ahead of the rest of the snapshot");
    assert_eq!(state, Some(false), "a confirmed revocation is not undone by the snapshot");
    assert_eq!(receipt.await.unwrap().nodes[0].0, NodeId(7));
}
