//! Whatever order changes come in, the tables end in the same state, and a revoked key never comes back.

use super::*;
use wire::id::{AttributionId, KeyId};
use wire::table::Key;

fn key(number: u8) -> Key {
    Key {
        digest: KeyDigest([number; 32]),
        id: KeyId(number.into()),
        application: ApplicationId(1),
        attribution: AttributionId(number.into()),
        not_after_ms: 0,
        allow: None,
    }
}

fn snapshot(generation: u64, changes: Vec<Change>) -> Incoming {
    let mut incoming = Incoming::new(RegistryId(1), Generation(generation));
    incoming.add(changes);
    incoming
}

fn start() -> (TableWriter, Arc<Tables>) {
    let tables = Arc::new(Tables::new());
    let mut writer = TableWriter::new(tables.clone(), HashMap::new());
    assert!(!tables.is_ready());
    let application = Application { id: ApplicationId(1), allow: Allow::Only(vec![AliasId(5)]) };
    writer.replace(snapshot(
        10,
        vec![Change::Application(application), Change::Key(key(1)), Change::Key(key(2))],
    ));
    (writer, tables)
}

#[test]
fn a_snapshot_replaces_everything_and_makes_the_tables_ready() {
    let (mut writer, tables) = start();
    assert!(tables.is_ready());
    assert_eq!((tables.key_count(), tables.generation()), (2, 10));
    writer.replace(snapshot(11, vec![Change::Key(key(3))]));
    assert!(tables.caller(&key(1).digest).is_none());
    let caller = tables.caller(&key(3).digest).unwrap();
    assert_eq!(caller.attribution, AttributionId(3));
    assert_eq!(*caller.allow, Allow::Nothing, "its application is gone");
}

#[test]
fn a_key_that_a_snapshot_has_as_revoked_is_known_as_such_and_no_tombstone() {
    let (mut writer, tables) = start();
    let none = |number| Change::NoKey(key(number).digest);
    writer.revoke(&[key(4).digest], false);
    writer.replace(snapshot(11, vec![Change::Key(key(1)), Change::Key(key(5)), none(3), none(4), none(5)]));
    let revoked = |number| tables.is_revoked(&key(number).digest);
    assert!(revoked(3) && revoked(4) && revoked(5) && !revoked(2), "2 is only gone");
    assert!(tables.caller(&key(5).digest).is_none(), "revoked while the snapshot was read");
    // What the registry says itself need not be told to the next one.
    assert!(writer.tombstones().eq([key(4).digest]));
    writer.replace(snapshot(12, vec![Change::Key(key(3)), Change::Key(key(4))]));
    assert!(!revoked(3) && tables.caller(&key(3).digest).is_some());
    assert!(tables.caller(&key(4).digest).is_none(), "a tombstone stays");
}

#[test]
fn a_key_without_a_list_inherits_its_applications() {
    let (mut writer, tables) = start();
    assert!(tables.caller(&key(1).digest).unwrap().allow.allows(AliasId(5)));
    let own = Key { allow: Some(Allow::Nothing), ..key(1) };
    assert!(writer.apply(Generation(10), Generation(11), vec![Change::Key(own)]));
    assert!(!tables.caller(&key(1).digest).unwrap().allow.allows(AliasId(5)));
}

#[test]
fn every_change_moves_the_revision() {
    let (mut writer, tables) = start();
    let mut last = tables.revision();
    writer.revoke(&[key(2).digest], false);
    assert!(tables.revision() > last);
    last = tables.revision();
    writer.apply(Generation(10), Generation(11), vec![Change::Key(key(4))]);
    assert!(tables.revision() > last);
}

#[test]
fn a_delta_with_a_gap_before_it_is_refused_and_an_old_one_changes_nothing() {
    let (mut writer, tables) = start();
    assert!(!writer.apply(Generation(12), Generation(13), vec![Change::Key(key(3))]));
    assert!(tables.caller(&key(3).digest).is_none());
    assert!(writer.apply(Generation(8), Generation(9), vec![Change::NoKey(key(1).digest)]));
    assert!(tables.caller(&key(1).digest).is_some());
}

#[test]
fn a_revoked_key_never_comes_back() {
    let (mut writer, tables) = start();
    writer.revoke(&[key(1).digest], false);
    assert!(tables.caller(&key(1).digest).is_none());
    writer.apply(Generation(10), Generation(11), vec![Change::Key(key(1))]);
    assert!(tables.caller(&key(1).digest).is_none(), "by a delta");
    writer.replace(snapshot(12, vec![Change::Key(key(1)), Change::Key(key(2))]));
    assert!(tables.caller(&key(1).digest).is_none(), "by a snapshot");
    assert!(tables.caller(&key(2).digest).is_some());
}

#[test]
fn a_deployment_that_cannot_be_used_serves_nothing_and_stops_nothing() {
    let (mut writer, tables) = start();
    let deployment = Deployment {
        id: DeploymentId(1),
        name: "d".into(),
        base_url: "gopher://x".into(),
        dialect: wire::table::Dialect::Openai,
        upstream_model: String::new(),
        credential: String::new(),
        api_version: String::new(),
        weight: 1,
        on_disconnect: wire::table::OnDisconnect::Cancel,
        replay_safe: false,
        connect_timeout_ms: 1,
        first_byte_timeout_ms: 1,
        idle_timeout_ms: 1,
    };
    let good =
        Deployment { id: DeploymentId(2), base_url: "http://127.0.0.1:9/v1".into(), ..deployment.clone() };
    let alias = Alias {
        id: AliasId(5),
        name: "a".into(),
        created_s: 1,
        deployments: vec![DeploymentId(1), DeploymentId(2)],
    };
    let changes = vec![Change::Deployment(deployment), Change::Deployment(good), Change::Alias(alias)];
    assert!(writer.apply(Generation(10), Generation(13), changes));
    let routes = tables.routes();
    let served: Vec<_> = routes.aliases["a"].upstreams.iter().map(|upstream| upstream.spec.id).collect();
    assert_eq!(served, [DeploymentId(2)]);
    writer.apply(Generation(13), Generation(14), vec![Change::NoAlias(AliasId(5))]);
    assert!(tables.routes().aliases.is_empty());
}

/// What the registry would say of the same entries.
fn sum_of(entries: &[Change]) -> TableSum {
    let mut sum = TableSum::default();
    entries.iter().filter_map(table_sum::of).for_each(|hash| sum.add(hash));
    sum
}

#[test]
fn the_sum_is_that_of_what_the_tables_hold_however_it_got_there() {
    let alias = Alias { id: AliasId(5), name: "m".into(), created_s: 1, deployments: vec![DeploymentId(1)] };
    let application = |allow| Change::Application(Application { id: ApplicationId(1), allow });
    let moved = Key { attribution: AttributionId(77), ..key(2) };
    let whole =
        [application(Allow::All), Change::Key(moved.clone()), Change::Key(key(4)), Change::Alias(alias)];
    let (mut writer, _) = start();
    writer.revoke(&[key(1).digest, key(9).digest], false);
    let changes = [&whole[..], &[Change::Key(key(3)), Change::Key(key(9))]].concat();
    assert!(writer.apply(Generation(10), Generation(11), changes.clone()));
    assert!(writer.apply(Generation(10), Generation(11), changes), "a second time changes nothing");
    let gone = [key(3).digest, key(8).digest].map(Change::NoKey);
    assert!(writer.apply(Generation(11), Generation(12), gone.to_vec()));
    assert_eq!(writer.sum(), sum_of(&whole));
    let same = writer.sum();
    // The same by a snapshot; what is buried does not count.
    writer.replace(snapshot(
        12,
        [&whole[..], &[Change::Key(key(9)), Change::Key(key(2))], &[whole[1].clone()]].concat(),
    ));
    assert_eq!(writer.sum(), same);
    assert_ne!(sum_of(&whole[1..]), same);
}
