//! Data planes are held against the registry, and the registry against what they have seen revoked.

use super::*;
use crate::publish::compare::Compared;
use crate::registry::key::KeyStatus;

#[tokio::test]
async fn a_data_plane_whose_tables_differ_gets_them_anew() {
    let plane = plane().await;
    plane.new_key("a").await;
    let (now, sum) = plane.registry.table_sum().await.unwrap();
    let (mut right, mut wrong) = (DataPlane::connect(&plane, 1).await, DataPlane::connect(&plane, 2).await);
    for (data_plane, sum) in [(&mut right, sum), (&mut wrong, TableSum(sum.0 ^ 1))] {
        data_plane.read_to(now).await;
        data_plane.sum = sum;
        data_plane.confirm().await;
    }
    let compared = plane.hub.compare().await.unwrap();
    assert_eq!(compared, Compared { equal: vec![NodeId(1)], different: vec![NodeId(2)] });
    assert_eq!(plane.hub.differed(), 1);
    let ended = async { while wrong.framed.read(1 << 24).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("its session ends");
    // It says that it holds what is current, and is not believed, once.
    for snapshots in [1, 0] {
        let mut again = DataPlane::connect_with(&plane, 2, plane.registry.id(), now).await;
        again.generation = Generation(now.0 - 1);
        plane.new_key(&snapshots.to_string()).await;
        if snapshots == 0 {
            again.generation = now;
        }
        again.read_to(plane.registry.generation().await.unwrap()).await;
        assert_eq!(again.snapshots, snapshots);
    }
}

#[tokio::test]
async fn a_sum_changes_with_what_data_planes_hold_and_with_nothing_else() {
    let plane = plane().await;
    plane.new_key("a").await;
    let (first, sum) = plane.registry.table_sum().await.unwrap();
    plane
        .registry
        .create_organization(NewOrganization { name: "b".into(), ..Default::default() })
        .await
        .unwrap();
    let (second, same) = plane.registry.table_sum().await.unwrap();
    assert!(second > first && same == sum);
    plane.new_key("b").await;
    assert_ne!(plane.registry.table_sum().await.unwrap().1, sum);
    plane.registry.revoke_key("b").await.unwrap();
    assert_eq!(plane.registry.table_sum().await.unwrap().1, sum);
}

#[tokio::test]
async fn what_a_data_plane_has_seen_revoked_is_revoked_before_it_gets_anything() {
    let plane = plane().await;
    let (dead, alive) = (plane.new_key("dead").await, plane.new_key("alive").await);
    // It has the tables of the registry of which this one is an older copy.
    let mut framed = Framed::new(UnixStream::connect(&plane.socket).await.unwrap());
    let (registry, generation) = (RegistryId(9), Generation(99));
    let hello = Hello { role: Role::Sync, node: NodeId(7), boot: BootId(1), registry, generation };
    framed.writer.write(&Frame::Hello(hello)).await.unwrap();
    let Frame::Welcome { registry, .. } = framed.read(1 << 24).await.unwrap() else { panic!() };
    // More than one transaction takes, in two frames.
    let foreign = (0..600u16).map(|n| crate::keys::digest(&n.to_le_bytes()));
    framed.writer.write(&Frame::Buried(foreign.collect())).await.unwrap();
    framed.writer.write(&Frame::Buried(vec![dead])).await.unwrap();
    framed.writer.write(&Frame::Buried(vec![])).await.unwrap();
    let (generation, keys, sum) = (Generation(0), BTreeMap::new(), TableSum::default());
    let mut data_plane = DataPlane { framed, registry, generation, sum, keys, snapshots: 0 };
    until(|| plane.hub.connected().len() == 1).await;
    assert_eq!(plane.registry.key("dead").await.unwrap().status, KeyStatus::Revoked);
    data_plane.read_to(plane.registry.generation().await.unwrap()).await;
    assert_eq!((data_plane.keys.get(&dead), data_plane.keys.get(&alive)), (Some(&false), Some(&true)));
}
