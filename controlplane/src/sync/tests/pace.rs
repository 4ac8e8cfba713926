//! Each data plane is told to seal the less often the more of them there are, so that the inserts of all of
//! them together stay near one a second.

use super::*;

/// Connects as the thread that accounts for usage.
async fn account(plane: &Plane, node: u64) -> Framed {
    let mut framed = Framed::new(UnixStream::connect(&plane.socket).await.unwrap());
    let (registry, generation) = (RegistryId(0), Generation(0));
    let hello = Hello { role: Role::Account, node: NodeId(node), boot: BootId(1), registry, generation };
    framed.writer.write(&Frame::Hello(hello)).await.unwrap();
    assert!(matches!(framed.read(1 << 24).await.unwrap(), Frame::Welcome { .. }));
    framed
}

/// Reads until the data plane is told this interval. Of several changes only the last one may be told.
async fn told(framed: &mut Framed, expected_ms: u32) {
    let reading = async {
        while !matches!(framed.read(1 << 24).await.unwrap(),
            Frame::Pace { interval_ms } if interval_ms == expected_ms)
        {}
    };
    let told = tokio::time::timeout(PATIENCE, reading).await;
    told.unwrap_or_else(|_| panic!("nobody says {expected_ms} ms"));
}

#[tokio::test]
async fn the_inserts_of_all_data_planes_together_stay_near_one_a_second() {
    let plane = plane().await;
    let mut nodes: Vec<Framed> = Vec::new();
    for count in 1..=5 {
        nodes.push(account(&plane, count.into()).await);
        for node in &mut nodes {
            told(node, 1000 * count).await;
        }
    }
    // And more often again when some of them have gone.
    nodes.truncate(2);
    for node in &mut nodes {
        told(node, 2000).await;
    }
}
