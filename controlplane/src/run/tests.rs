//! The whole control plane in this process, without ClickHouse.

use super::*;
use crate::config::ClickHouse;
use crate::keys;
use crate::registry::Place;

fn config(dir: &Path, key: &Secret) -> Config {
    Config {
        data_dir: dir.join("data"),
        registry: Place::File(dir.join("data/registry.db")),
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        bootstrap_key: Some(key.clone()),
        sync_socket: dir.join("run/control.sock"),
        sync_listen: None,
        certificate_life: crate::authority::NODE_LIFE,
        // A port of loopback that nobody listens on.
        clickhouse: ClickHouse::Server {
            url: "http://127.0.0.1:1".into(),
            user: "u".into(),
            password: Secret::new(String::new()),
        },
        raw_days: 90,
        hourly_days: None,
        daily_days: None,
        backup_keep_days: 30,
    }
}

async fn start(
    config: Config,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<Result<(), RunError>>) {
    let stop = CancellationToken::new();
    let (tell, told) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(run(config, stop.clone(), |address| tell.send(address).unwrap()));
    (told.await.unwrap(), stop, running)
}

#[tokio::test]
async fn it_serves_administrators_and_data_planes_while_clickhouse_is_away_and_stops_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let key = keys::new_admin_key().unwrap();
    for _ in 0..2 {
        let (address, stop, running) = start(config(dir.path(), &key)).await;
        let url = format!("http://{address}");
        let client = reqwest::Client::new();
        assert_eq!(client.get(format!("{url}/readyz")).send().await.unwrap().status(), 200);
        let teams =
            client.get(format!("{url}/admin/v1/teams")).bearer_auth(key.reveal()).send().await.unwrap();
        assert_eq!(teams.status(), 200);
        let socket = dir.path().join("run/control.sock");
        tokio::net::UnixStream::connect(&socket).await.unwrap();
        drop(client);
        stop.cancel();
        running.await.unwrap().unwrap();
        assert!(!socket.exists());
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.path().join("data")).unwrap());
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_second_control_plane_on_the_same_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = keys::new_admin_key().unwrap();
    let (_, stop, running) = start(config(dir.path(), &key)).await;
    let second = run(config(dir.path(), &key), CancellationToken::new(), |_| ()).await;
    assert!(matches!(second, Err(RunError::SyncSocket { .. })), "{second:?}");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_bootstrap_key_is_kept_as_a_digest_alone() {
    let dir = tempfile::tempdir().unwrap();
    let key = keys::new_admin_key().unwrap();
    let (_, stop, running) = start(config(dir.path(), &key)).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    let secret = &key.reveal().as_bytes()[9..];
    for entry in std::fs::read_dir(dir.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", path.display());
    }
}
