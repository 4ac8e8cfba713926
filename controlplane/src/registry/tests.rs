//! The registry on a temporary database: generations, names, numbers; keys and tables in files of their own.

/// The audit trail.
mod audit;
/// Backups of the registry.
mod dump;
/// Whose a digest is.
mod key_use;
/// Keys: billing, what they may use, their ends.
mod key;
/// Several control planes on one registry.
mod peers;
/// Legal holds and erasure.
mod privacy;
/// Revoking many keys, successors, removed nodes.
mod revocation;
/// Snapshots and deltas.
mod tables;

use wire::id::{AliasId, Generation, NodeId};
use wire::table::{Allow, Change, Dialect, OnDisconnect};

use super::application::{ApplicationPatch, NewApplication};
use super::key::{Key, KeyPatch, KeyStatus, NewKey};
use super::model::Deployment;
use super::organization::{NewOrganization, OrganizationPatch};
use super::role::Role;
use super::tables::Since;
use super::team::{NewTeam, TeamPatch};
use super::*;
use crate::keys;

struct Fixture {
    registry: Registry,
    place: Place,
    dir: tempfile::TempDir,
}

impl std::ops::Deref for Fixture {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.registry
    }
}

async fn empty() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    Fixture { registry: Registry::open(&place).await.unwrap(), place, dir }
}

/// One organization, team, application, each named `demo`.
async fn demo() -> Fixture {
    let registry = empty().await;
    organization(&registry, "demo").await;
    team(&registry, "demo", "demo").await;
    application(&registry, "demo", "demo").await;
    registry
}

async fn organization(registry: &Registry, name: &str) {
    let new = NewOrganization { name: name.into(), ..NewOrganization::default() };
    registry.create_organization(new).await.unwrap();
}

async fn team(registry: &Registry, organization: &str, name: &str) {
    let new = NewTeam { name: name.into(), organization: organization.into(), ..NewTeam::default() };
    registry.create_team(new).await.unwrap();
}

async fn application(registry: &Registry, team: &str, name: &str) {
    let new = NewApplication {
        name: name.into(),
        team: team.into(),
        models: vec!["*".into()],
        ..Default::default()
    };
    registry.create_application(new).await.unwrap();
}

fn new_key() -> NewKey {
    NewKey { application: "demo".into(), ..NewKey::default() }
}

fn deployment(name: &str) -> Deployment {
    Deployment {
        name: name.into(),
        upstream: "http://127.0.0.1:1/v1".into(),
        upstream_model: String::new(),
        dialect: Dialect::Openai,
        credential: String::new(),
        api_version: String::new(),
        weight: 1,
        on_disconnect: OnDisconnect::Cancel,
        replay_safe: false,
        connect_timeout_ms: 1,
        first_byte_timeout_ms: 2,
        idle_timeout_ms: 3,
    }
}

async fn changes_since(registry: &Registry, from: Generation) -> Vec<Change> {
    match registry.since(from).await.unwrap() {
        Since::Delta(delta) => delta.changes,
        other => panic!("{other:?}"),
    }
}

async fn snapshot(registry: &Registry) -> Vec<Change> {
    let mut snapshot = registry.snapshot().await.unwrap();
    let mut all = Vec::new();
    while let Some(part) = snapshot.next_part().await.unwrap() {
        all.extend(part);
    }
    all
}

#[tokio::test]
async fn every_change_takes_a_generation_and_leaves_a_row() {
    let registry = demo().await;
    let key = registry.create_key(new_key()).await.unwrap().0.id;
    let node = NodeId(9).to_string();
    registry.see_node(NodeId(9)).await.unwrap();
    let mut before = registry.generation().await.unwrap();
    let mut follower = registry.subscribe();
    macro_rules! takes_a_generation {
        ($($change:expr),+ $(,)?) => {$(
            $change.await.unwrap();
            let now = registry.generation().await.unwrap();
            assert!(now > before, "{}", stringify!($change));
            assert_eq!(*follower.borrow_and_update(), now, "{}", stringify!($change));
            before = now;
        )+};
    }
    let renamed = |name: &str| Some(name.to_owned());
    takes_a_generation!(
        registry.update_organization("demo", OrganizationPatch { name: renamed("o2"), ..Default::default() }),
        registry.update_team("demo", TeamPatch { name: renamed("t2"), ..Default::default() }),
        registry.update_application("demo", ApplicationPatch { name: renamed("a2"), ..Default::default() }),
        registry.update_key(&key, KeyPatch { description: renamed("ci"), ..Default::default() }),
        registry.set_model("m", &[deployment("d")]),
        registry.set_model("m", &[deployment("e")]),
        registry.remove_model("m"),
        registry.create_admin("bootstrap", Role::Owner, keys::digest(b"a")),
        registry.revoke_key(&key),
        registry.remove_node(&node),
    );
    let rows = sqlx::query::<Db>(
        "SELECT COUNT(*) AS n, MIN(generation) AS low, MAX(generation) AS high FROM changes",
    )
    .fetch_one(&registry.pool)
    .await
    .unwrap();
    assert_eq!((rows.get::<i64, _>("low"), rows.get::<i64, _>("high")), (2, stored(before.0)));
    assert_eq!(rows.get::<i64, _>("n"), stored(before.0) - 1, "no generation is skipped or taken twice");
}

#[tokio::test]
async fn what_changes_nothing_takes_no_generation() {
    let registry = demo().await;
    registry.set_model("m", &[deployment("d")]).await.unwrap();
    registry.create_admin("bootstrap", Role::Owner, keys::digest(b"a")).await.unwrap();
    let before = registry.generation().await.unwrap();
    registry.set_model("m", &[deployment("d")]).await.unwrap();
    registry.update_team("demo", TeamPatch::default()).await.unwrap();
    assert!(!registry.create_admin("bootstrap", Role::Owner, keys::digest(b"a")).await.unwrap());
    assert!(
        registry
            .create_team(NewTeam { name: "demo".into(), organization: "demo".into(), ..Default::default() })
            .await
            .is_err()
    );
    assert_eq!(registry.generation().await.unwrap(), before);
}

#[tokio::test]
async fn an_id_or_a_name_finds_the_same_thing() {
    let registry = demo().await;
    let team = registry.team("demo").await.unwrap();
    assert!(team.id.starts_with("team_"));
    assert_eq!(registry.team(&team.id).await.unwrap(), team);
    let (key, secret, _) =
        registry.create_key(NewKey { description: "ci".into(), ..new_key() }).await.unwrap();
    assert_eq!(key.id[4..], key.prefix[6..]);
    assert!(secret.reveal().starts_with(&key.prefix));
    for wanted in [&key.id, &key.prefix, "ci"] {
        assert_eq!(registry.key(wanted).await.unwrap(), key, "{wanted}");
    }
    assert!(matches!(registry.team("other").await, Err(RegistryError::NotFound { .. })));
}

#[tokio::test]
async fn an_ambiguous_name_is_an_error_that_names_the_choices() {
    let registry = demo().await;
    organization(&registry, "acme").await;
    team(&registry, "acme", "demo").await;
    let error = registry.team("demo").await.unwrap_err();
    let RegistryError::Ambiguous { choices, .. } = &error else { panic!("{error}") };
    assert_eq!(choices.len(), 2);
    assert!(choices[0].starts_with("team_") && choices[0].ends_with("(in demo)"), "{choices:?}");
    assert!(choices[1].ends_with("(in acme)"), "{choices:?}");
}

#[tokio::test]
async fn an_id_wins_over_a_name_that_looks_like_it() {
    let registry = demo().await;
    let id = registry.organization("demo").await.unwrap().id;
    organization(&registry, &id).await;
    assert_eq!(registry.organization(&id).await.unwrap().name, "demo");
}

#[tokio::test]
async fn numbers_of_removed_aliases_and_deployments_are_never_given_again() {
    let registry = demo().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let from = registry.generation().await.unwrap();
        registry.set_model("m", &[deployment("d")]).await.unwrap();
        for change in changes_since(&registry, from).await {
            match change {
                Change::Alias(alias) => seen.push(("alias", alias.id.0)),
                Change::Deployment(deployment) => seen.push(("deployment", deployment.id.0)),
                other => panic!("{other:?}"),
            }
        }
        registry.remove_model("m").await.unwrap();
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 6, "{seen:?}");
    assert_eq!(
        registry.alias_name(AliasId(1)).await.unwrap().as_deref(),
        Some("m"),
        "history keeps the name"
    );
    assert_eq!(registry.alias_name(AliasId(99)).await.unwrap(), None);
}

#[tokio::test]
async fn a_deployment_that_keeps_its_name_keeps_its_number() {
    let registry = demo().await;
    registry.set_model("m", &[deployment("a"), deployment("b")]).await.unwrap();
    let from = registry.generation().await.unwrap();
    let changed = Deployment { weight: 7, ..deployment("b") };
    registry.set_model("m", &[changed, deployment("c")]).await.unwrap();
    let changes = changes_since(&registry, from).await;
    assert!(changes.iter().any(|c| matches!(c, Change::NoDeployment(id) if id.0 == 1)), "{changes:?}");
    assert!(
        changes.iter().any(|c| matches!(c, Change::Deployment(d) if d.id.0 == 2 && d.weight == 7)),
        "{changes:?}"
    );
    assert!(changes.iter().any(|c| matches!(c, Change::Alias(a) if a.deployments.len() == 2)), "{changes:?}");
}

#[tokio::test]
async fn a_registry_opened_again_is_the_same() {
    let registry = demo().await;
    let (id, settings) = (registry.id(), registry.settings().clone());
    let generation = registry.generation().await.unwrap();
    registry.close().await;
    let again = Registry::open(&registry.place).await.unwrap();
    assert_eq!((again.id(), again.settings()), (id, &settings));
    assert_eq!(again.generation().await.unwrap(), generation);
    assert_ne!(id, empty().await.id());
}

#[tokio::test]
async fn its_files_are_for_their_owner_alone() {
    let registry = demo().await;
    let Place::File(_) = registry.place else { return };
    let mut modes = Vec::new();
    for entry in std::fs::read_dir(registry.dir.path()).unwrap() {
        modes.push(std::os::unix::fs::MetadataExt::mode(&entry.unwrap().metadata().unwrap()) & 0o777);
    }
    assert_eq!(modes, [0o600; 3], "the database, its log and its index");
}

#[tokio::test]
async fn a_registry_of_a_newer_program_is_refused() {
    let registry = empty().await;
    sqlx::query::<Db>("UPDATE meta SET schema_version = 1000").execute(&registry.pool).await.unwrap();
    let again = Registry::open(&registry.place).await;
    assert!(matches!(again, Err(RegistryError::Newer { found: 1000, .. })));
}

#[tokio::test]
async fn pages_go_through_a_list_without_gaps() {
    let registry = demo().await;
    for n in 0..5 {
        team(&registry, "demo", &format!("t{n}")).await;
    }
    let (mut names, mut page) = (Vec::new(), Page { after: None, limit: Some(4) });
    loop {
        let listed = registry.teams(Some("demo"), &page).await.unwrap();
        names.extend(listed.rows.iter().map(|team| team.name.clone()));
        page.after = listed.rows.last().map(|team| team.id.clone());
        if !listed.has_more {
            break;
        }
    }
    assert_eq!(names, ["demo", "t0", "t1", "t2", "t3", "t4"]);
}

#[tokio::test]
async fn names_follow_every_rename() {
    let registry = demo().await;
    registry.create_key(new_key()).await.unwrap();
    let (to, names) = registry.names_since(Generation(0)).await.unwrap();
    let mut kinds: Vec<_> = names.iter().map(|name| name.kind).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["application", "key", "organization", "team"]);
    assert_eq!(to, registry.generation().await.unwrap());
    registry.update_team("demo", TeamPatch { name: Some("t2".into()), ..Default::default() }).await.unwrap();
    let (to, names) = registry.names_since(to).await.unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].name, "t2");
    assert_eq!(registry.names_since(to).await.unwrap(), (to, vec![]));
}

#[tokio::test]
async fn names_that_could_mislead_are_refused() {
    let registry = demo().await;
    for bad in ["", " demo", "a\nb", &"x".repeat(129)] {
        let new = NewOrganization { name: bad.into(), ..NewOrganization::default() };
        assert!(
            matches!(registry.create_organization(new).await, Err(RegistryError::Invalid { .. })),
            "{bad:?}"
        );
    }
    for bad in ["*", "a b", "a\"b"] {
        assert!(registry.set_model(bad, &[deployment("d")]).await.is_err(), "{bad:?}");
    }
    let twice = [deployment("d"), deployment("d")];
    assert!(registry.set_model("m", &twice).await.is_err());
    assert!(registry.set_model("m", &[]).await.is_err());
}

#[tokio::test]
async fn what_is_changed_comes_out_of_a_files_journal_without_a_change_that_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registry.db");
    let registry = std::sync::Arc::new(Registry::open(&file).await.unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let following = tokio::spawn(registry.clone().follow(stop.clone()));
    let is_there = || std::fs::read(&file).unwrap().windows(10).any(|text| text == b"Marchbanks");
    // Far fewer changes than fill the journal.
    for number in 0..400 {
        let new = NewOrganization { name: format!("Marchbanks {number}"), ..Default::default() };
        registry.create_organization(new).await.unwrap();
        if is_there() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(is_there());
    stop.cancel();
    following.await.unwrap();
}
