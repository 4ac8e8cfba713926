//! Backups: registry and usage, from one installation into another, of another database, while batches come.

#![allow(clippy::unwrap_used, reason = "tests")]

/// Batches to put into ClickHouse.
#[path = "clickhouse/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the tables")]
mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use controlplane::backup::manifest::{self, Manifest};
use controlplane::backup::restore::Options;
use controlplane::backup::{BackupError, create, restore};
use controlplane::clickhouse::Client;
use controlplane::config::Config;
use controlplane::registry::application::NewApplication;
use controlplane::registry::key::NewKey;
use controlplane::registry::organization::NewOrganization;
use controlplane::registry::team::NewTeam;
use controlplane::registry::{Page, Registry, RegistryError};
use load_tests::harness::write_secret;
use load_tests::postgres;
use support::{Random, Shared, batch, day_ago, eager, number, roll_up, send, start};

/// An installation: a registry and a ClickHouse.
struct Installation {
    config: Config,
    clickhouse: Shared,
    dir: tempfile::TempDir,
}

fn installation(on_postgres: bool) -> Installation {
    let (dir, clickhouse) = (tempfile::tempdir().unwrap(), start());
    let at = dir.path().display();
    let endpoint = &clickhouse.endpoint;
    let mut text = format!("data_dir = '{at}/data'\n[clickhouse]\nurl = '{}'\n", endpoint.url);
    text += &format!("user = '{}'\npassword_file = '{at}/clickhouse'\n", endpoint.user);
    if on_postgres {
        let database = postgres::server().database().unwrap();
        let url = postgres::server().over_tcp(&database);
        text += &format!("[registry]\nurl = '{url}'\npassword_file = '{at}/postgres'\n");
    }
    write_secret(&dir.path().join("clickhouse"), &endpoint.password);
    write_secret(&dir.path().join("postgres"), postgres::PASSWORD);
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
    let config = Config::load(&dir.path().join("config.toml")).unwrap();
    std::fs::create_dir_all(&config.data_dir).unwrap();
    Installation { config, clickhouse, dir }
}

impl Installation {
    fn usage(&self) -> Client {
        self.clickhouse.endpoint.client()
    }

    async fn registry(&self) -> Registry {
        Registry::open(&self.config.registry).await.unwrap()
    }

    async fn keys(&self) -> usize {
        let registry = self.registry().await;
        let keys = registry.keys(None, None, &Page::default()).await.unwrap().rows.len();
        registry.close().await;
        keys
    }
}

async fn populate(registry: &Registry) {
    let name = || "demo".to_owned();
    registry.create_organization(NewOrganization { name: name(), ..Default::default() }).await.unwrap();
    registry.create_team(NewTeam { name: name(), organization: name(), ..Default::default() }).await.unwrap();
    let application = NewApplication { name: name(), team: name(), ..Default::default() };
    registry.create_application(application).await.unwrap();
}

fn new_key() -> NewKey {
    NewKey { application: "demo".into(), ..Default::default() }
}

/// What reports say of all time.
async fn totals(client: &Client) -> (u64, u64, u64, u64) {
    let sums = |view: &str| {
        let sql = format!("SELECT sum(requests), sum(total_tokens) FROM liutong.{view}");
        let client = client.clone();
        async move { client.query(&sql).fetch_one::<(u64, u64)>().await.unwrap() }
    };
    let (hourly, daily) = (sums("usage_hourly").await, sums("usage_daily").await);
    (hourly.0, hourly.1, daily.0, daily.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_from_either_database_to_the_other_with_all_usage() {
    let (from, to) = (installation(false), installation(true));
    let registry = from.registry().await;
    populate(&registry).await;
    for _ in 0..5 {
        registry.create_key(new_key()).await.unwrap();
    }
    let (id, generation) = (registry.id(), registry.generation().await.unwrap());
    registry.close().await;
    let client = from.usage();
    for (number, days) in [(1, 3), (2, 2), (3, 2)] {
        send(&client, &batch(&mut Random(number), 9, number, day_ago(days), 24, 3000)).await;
    }
    roll_up(&client, &eager(&client), (day_ago(3), day_ago(2))).await;
    // A day that has expired: it is in the rollups alone.
    let expired = partition_of_day(&client, 3).await;
    client.execute(&format!("ALTER TABLE liutong.usage_events DROP PARTITION ID '{expired}'")).await.unwrap();
    let (before, held) = (totals(&client).await, client.held().await.unwrap());
    assert_eq!((before.0, held.rows, held.gone), (9000, 6000, 3000));

    let place = from.dir.path().join("backups");
    let made = create::create(&from.config, &place, 30).await.unwrap();
    private(&made.path);
    let restored = restore::restore(&to.config, &made.path, Options::default()).await.unwrap();
    assert_ne!(restored.registry_id, id);
    assert_eq!(restored.generation, generation);
    assert_eq!((to.keys().await, totals(&to.usage()).await), (5, before));
    assert_eq!(to.usage().held().await.unwrap(), held);
    let numbers = to.usage().ledger_numbers(&[]).await.unwrap();
    assert_eq!((numbers[0].stored, numbers[0].doubled), (9000, 0));
    // A batch that its data plane sends once more is known.
    assert_eq!(to.usage().batch_recorded(hex(9), 1).await.unwrap().rows, 3000);

    // And back, over what is there: only when asked to.
    let again = create::create(&to.config, &place, 30).await.unwrap();
    let refused = restore::restore(&from.config, &again.path, Options::default()).await.unwrap_err();
    assert!(matches!(refused, BackupError::NotEmpty { .. }), "{refused}");
    assert_eq!(from.keys().await, 5);
    let options = Options { replace: true, ..Options::default() };
    restore::restore(&from.config, &again.path, options).await.unwrap();
    assert_eq!((from.keys().await, totals(&client).await), (5, before));
    assert_eq!(manifest::list(&place).unwrap().len(), 2);
}

/// The partition of a day.
async fn partition_of_day(client: &Client, days: i64) -> String {
    let sql = "SELECT toString(toYYYYMMDD(toDateTime({s:Int64}, 'UTC')))";
    client.query(sql).param("s", day_ago(days) / 1000).fetch_one().await.unwrap()
}

fn hex(number: u64) -> controlplane::clickhouse::insert::Hex16 {
    controlplane::clickhouse::insert::Hex16::new(number)
}

fn private(backup: &Path) {
    for path in std::fs::read_dir(backup).unwrap().map(|entry| entry.unwrap().path()) {
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(std::fs::metadata(backup).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_holds_all_that_its_ledger_has() {
    let (from, to) = (installation(false), installation(false));
    let registry = Arc::new(from.registry().await);
    populate(&registry).await;
    let (stop, batches) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let usage = tokio::spawn({
        let (client, stop, batches) = (from.usage(), stop.clone(), batches.clone());
        async move {
            let rollup = eager(&client);
            while !stop.load(Ordering::Relaxed) {
                let number = batches.load(Ordering::Relaxed) + 1;
                let day = day_ago(i64::try_from(number % 9).unwrap() + 1);
                send(&client, &batch(&mut Random(number), 5, number, day, 24, 500)).await;
                batches.store(number, Ordering::Relaxed);
                if number.is_multiple_of(5) {
                    rollup.pass().await.unwrap();
                }
            }
        }
    });
    let keys = tokio::spawn({
        let (registry, stop) = (registry.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                registry.create_key(new_key()).await.unwrap();
            }
        }
    });
    let before = loop {
        let sent = batches.load(Ordering::Relaxed);
        if sent >= 12 {
            break sent;
        }
        tokio::task::yield_now().await;
    };
    let made = create::create(&from.config, &from.dir.path().join("backups"), 30).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    usage.await.unwrap();
    keys.await.unwrap();
    let after = batches.load(Ordering::Relaxed);
    restore::restore(&to.config, &made.path, Options::default()).await.unwrap();

    let client = to.usage();
    let held = client.held().await.unwrap();
    assert_eq!((held.gone, held.surplus), (0, 0), "the events of each batch that the ledger has");
    let ledger = number(&client, "SELECT uniqExact(batch_seq) FROM liutong.batches").await;
    assert!(ledger >= before && ledger <= after, "{before} <= {ledger} <= {after}");
    // Reports agree with the events that came across, whatever was rolled up at which moment.
    let raw = number(&client, "SELECT count() FROM liutong.usage_events").await;
    let (hourly, _, daily, _) = totals(&client).await;
    assert_eq!((hourly, daily), (raw, raw));
    // What came after the ledger was read is found when it is sent again, not stored twice.
    for number in ledger + 1..=after {
        let present = client.batch_present(hex(5), number).await.unwrap();
        assert!(present == 0 || present == 500, "batch {number}: {present}");
    }
    assert!(to.keys().await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_or_a_running_control_plane_changes_nothing() {
    let from = installation(false);
    let registry = from.registry().await;
    populate(&registry).await;
    registry.create_key(new_key()).await.unwrap();
    let made = create::create(&from.config, &from.dir.path().join("backups"), 30).await.unwrap();
    registry.create_key(new_key()).await.unwrap();
    let options = Options { replace: true, ..Options::default() };
    let present = registry.be_present().unwrap();
    let refused = restore::restore(&from.config, &made.path, options).await.unwrap_err();
    assert!(matches!(refused, BackupError::Registry(RegistryError::InUse)), "{refused}");
    drop(present);
    registry.close().await;
    let file = made.path.join(&Manifest::read(&made.path).unwrap().files.last().unwrap().file);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let refused = restore::restore(&from.config, &made.path, options).await.unwrap_err();
    assert!(matches!(refused, BackupError::Damaged { .. }), "{refused}");
    assert_eq!(from.keys().await, 2);
}
