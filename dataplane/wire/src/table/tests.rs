//! Every kind of change reads back as it was written, whole, and not at all when it is cut.

use super::*;

fn samples() -> Vec<Change> {
    let key = Key {
        digest: KeyDigest([3; 32]),
        id: KeyId(1),
        application: ApplicationId(2),
        attribution: AttributionId(3),
        not_after_ms: 4,
        allow: None,
    };
    let deployment = Deployment {
        id: DeploymentId(5),
        name: "a".into(),
        base_url: "http://127.0.0.1:1/v1".into(),
        dialect: Dialect::Tgi,
        upstream_model: "m".into(),
        credential: "C".into(),
        api_version: "2024-10-21".into(),
        weight: 1,
        on_disconnect: OnDisconnect::Drain,
        replay_safe: true,
        connect_timeout_ms: 2,
        first_byte_timeout_ms: 3,
        idle_timeout_ms: 4,
    };
    let alias =
        Alias { id: AliasId(6), name: "größe".into(), created_s: 7, deployments: vec![DeploymentId(5)] };
    vec![
        Change::Settings(Settings { request_id_key: [9; 16] }),
        Change::Key(Key { allow: Some(Allow::Only(vec![AliasId(1), AliasId(6)])), ..key.clone() }),
        Change::Key(Key { allow: Some(Allow::Nothing), ..key.clone() }),
        Change::Key(key),
        Change::NoKey(KeyDigest([4; 32])),
        Change::Application(Application { id: ApplicationId(2), allow: Allow::All }),
        Change::NoApplication(ApplicationId(2)),
        Change::Alias(alias),
        Change::NoAlias(AliasId(6)),
        Change::Deployment(deployment),
        Change::NoDeployment(DeploymentId(5)),
    ]
}

#[test]
fn every_change_reads_back_as_it_was_written() {
    for change in samples() {
        let mut bytes = Vec::new();
        change.encode(&mut bytes);
        let mut r = Reader::new(&bytes);
        assert_eq!(Change::decode(&mut r), Ok(Some(change)));
        assert!(r.is_empty());
    }
}

#[test]
fn a_change_cut_at_any_byte_is_refused() {
    for change in samples() {
        let mut bytes = Vec::new();
        change.encode(&mut bytes);
        for len in 0..bytes.len() {
            assert!(Change::decode(&mut Reader::new(&bytes[..len])).is_err(), "{change:?} {len}");
        }
    }
}

#[test]
fn a_newer_kind_and_newer_fields_are_skipped() {
    let mut bytes = vec![200];
    bytes.put_bytes(b"from the future");
    let mut longer = Vec::new();
    Change::NoAlias(AliasId(6)).encode(&mut longer);
    longer.extend_from_slice(b"more");
    longer[1] += 4;
    bytes.extend_from_slice(&longer);
    let mut r = Reader::new(&bytes);
    assert_eq!(Change::decode(&mut r), Ok(None));
    assert_eq!(Change::decode(&mut r), Ok(Some(Change::NoAlias(AliasId(6)))));
    assert!(r.is_empty());
}

#[test]
fn an_empty_list_allows_nothing() {
    assert!(Allow::All.allows(AliasId(1)));
    assert!(!Allow::Nothing.allows(AliasId(1)));
    assert!(!Allow::Only(Vec::new()).allows(AliasId(1)));
    assert!(Allow::Only(vec![AliasId(1), AliasId(4)]).allows(AliasId(4)));
}
