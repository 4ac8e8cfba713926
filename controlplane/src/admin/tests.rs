//! The admin API over loopback: who is let in, what each resource says, and where secrets are never seen.

/// Administrators and their credentials.
mod administrators;
/// Who changed what, and calls that are repeated.
mod audit;
/// Credentials that are none.
mod failures;
/// Who is let in where: the document's every route, tried by everyone.
mod matrix;
/// What is stored about a team or a key.
mod export;
/// What others' programs make of it.
mod programs;
/// The organization that a call names.
mod named_organization;

use std::collections::BTreeMap;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use wire::id::{BootId, EventSeq, Generation, NodeId};
use wire::table_sum::TableSum;

use super::*;
use crate::clickhouse::retention::Retention;
use crate::keys as making;
use crate::keys::Secret;
use crate::registry;
use crate::registry::role::Role;

struct Server {
    url: String,
    owner: Secret,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    http: reqwest::Client,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(Registry::open(registry::place(dir.path())).await.unwrap());
    let owner = making::new_admin_key().unwrap();
    registry.create_admin("owner", Role::Owner, owner.digest()).await.unwrap();
    let hub = Arc::new(Hub::new(registry.clone()).await.unwrap());
    let (_, store) = UsageStore::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let ingest = Arc::new(Ingest::new(registry.clone(), store));
    let retention = Retention { raw_days: 90, hourly_days: None, daily_days: None };
    let privacy = Arc::new(Privacy::new(registry.clone(), hub.clone(), ingest.clone(), retention));
    let api = Api::new(registry.clone(), hub.clone(), (ingest, Arc::default()), (privacy, 30));
    tokio::spawn(api.serve(listener, stop.clone()));
    Server { url, owner, registry, hub, http: reqwest::Client::new(), stop, _dir: dir }
}

impl Server {
    async fn send(&self, method: &str, path: &str, key: Option<&str>, body: Option<Value>) -> Response {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// Calls as the owner; the path is the one below `/admin/v1`.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(self.owner.reveal(), method, path, body).await
    }

    /// Calls as someone else, likewise.
    async fn call_as(&self, key: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then_some(body);
        let response = self.send(method, &format!("/admin/v1{path}"), Some(key), body).await;
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.call("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path} {value}");
        value
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.call("POST", path, body).await;
        assert_eq!(status, 201, "{path} {value}");
        value
    }

    async fn demo(&self) {
        self.made("/organizations", json!({"name": "demo"})).await;
        self.made("/teams", json!({"name": "demo", "organization": "demo"})).await;
        self.made("/applications", json!({"name": "demo", "team": "demo"})).await;
        let (status, _) = self.call("PUT", "/models/m", model("http://127.0.0.1:1/v1")).await;
        assert_eq!(status, 200);
    }
}

fn model(upstream: &str) -> Value {
    json!({"deployments": [{"upstream": upstream, "upstream_model": "u"}]})
}

async fn assert_problem(response: Response, status: StatusCode, route: &str) {
    assert_eq!(response.status(), status, "{route}");
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{route}");
    assert_eq!(
        response.headers().contains_key("www-authenticate"),
        status == StatusCode::UNAUTHORIZED,
        "{route}"
    );
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status.as_u16(), "{route}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{route}");
}

#[tokio::test]
async fn a_body_that_is_no_object_is_refused() {
    let server = server().await;
    for body in [json!(["acme", null, null]), json!("acme"), json!(1)] {
        let (status, _) = server.call("POST", "/organizations", body.clone()).await;
        assert_eq!(status, 400, "{body}");
    }
}

#[tokio::test]
async fn two_credentials_are_none() {
    let server = server().await;
    let value = format!("Bearer {}", server.owner.reveal());
    let request = server.http.get(format!("{}/admin/v1/teams", server.url));
    let response =
        request.header("authorization", &value).header("authorization", &value).send().await.unwrap();
    assert_problem(response, StatusCode::UNAUTHORIZED, "/teams").await;
}

#[tokio::test]
async fn health_is_open_and_says_nothing_else() {
    let server = server().await;
    for path in ["/healthz", "/readyz"] {
        let response = server.send("GET", path, None, None).await;
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.text().await.unwrap().len() < 40);
    }
    assert_problem(server.send("GET", "/", None, None).await, StatusCode::NOT_FOUND, "/").await;
}

#[tokio::test]
async fn organizations_teams_and_applications_are_made_read_changed_and_listed() {
    let server = server().await;
    let organization = server.made("/organizations", json!({"name": "acme", "plan": "gold"})).await;
    assert_eq!(organization["object"], "organization");
    let team =
        server.made("/teams", json!({"name": "ml", "organization": "acme", "cost_centre": "4711"})).await;
    assert_eq!((&team["organization"], &team["organization_id"]), (&json!("acme"), &organization["id"]));
    let application = server.made("/applications", json!({"name": "bot", "team": team["id"]})).await;
    assert_eq!(application["models"], json!(["*"]));
    // From below upwards: a rename shows in what is below.
    for (path, one) in [("applications", &application), ("teams", &team), ("organizations", &organization)] {
        let (id, name) = (one["id"].as_str().unwrap(), one["name"].as_str().unwrap());
        assert_eq!(&server.get(&format!("/{path}/{id}")).await, one);
        assert_eq!(&server.get(&format!("/{path}/{name}")).await, one);
        let listed = server.get(&format!("/{path}")).await;
        assert_eq!(listed, json!({"object": "list", "data": [one], "has_more": false, "next": null}));
        let created: Result<jiff::Timestamp, _> = one["created_at"].as_str().unwrap().parse();
        assert!(created.is_ok());
        let (status, changed) =
            server.call("PATCH", &format!("/{path}/{id}"), json!({"name": "new", "plan": null})).await;
        assert_eq!((status, &changed["name"], &changed["plan"]), (200, &json!("new"), &Value::Null));
    }
    let team = server.get("/teams/new").await;
    assert_eq!(team["cost_centre"], "4711", "what a patch does not name stays");
    assert_eq!(server.get("/teams?organization=new").await["data"][0], team);
    assert_eq!(server.get("/applications?team=new").await["data"][0]["name"], "new");
}

#[tokio::test]
async fn what_is_wrong_is_told_as_a_problem() {
    let server = server().await;
    server.demo().await;
    server.made("/organizations", json!({"name": "acme"})).await;
    server.made("/teams", json!({"name": "demo", "organization": "acme"})).await;
    let too_many = format!("/teams?limit={}", crate::registry::PAGE_ROWS_MAX + 1);
    for (method, path, body, status) in [
        ("POST", "/organizations", json!({"name": "demo"}), 409),
        ("POST", "/organizations", json!({}), 400),
        ("GET", "/organizations/%ff", Value::Null, 400),
        ("POST", "/organizations", json!({"name": "x", "colour": "red"}), 400),
        ("POST", "/organizations", json!({"name": 7}), 400),
        ("POST", "/teams", json!({"name": "x", "organization": "none"}), 404),
        ("POST", "/applications", json!({"name": "x", "team": "demo"}), 409),
        ("POST", "/keys", json!({"application": "demo", "models": ["none"]}), 400),
        ("POST", "/keys", json!({"application": "demo", "expires_at": "soon"}), 400),
        ("POST", "/keys", json!({"application": "demo", "expires_at": "2001-01-01T00:00:00Z"}), 400),
        ("GET", "/teams/demo", Value::Null, 409),
        ("GET", "/teams/none", Value::Null, 404),
        ("GET", "/teams?application=demo", Value::Null, 400),
        ("GET", &too_many, Value::Null, 400),
        ("GET", "/teams?colour=red", Value::Null, 400),
        ("GET", "/nothing", Value::Null, 404),
        ("DELETE", "/teams/demo", Value::Null, 405),
        ("GET", "/models/none", Value::Null, 404),
        ("DELETE", "/models/none", Value::Null, 404),
        ("POST", "/keys/none/revoke", json!({}), 404),
        ("GET", "/requests/x", Value::Null, 400),
        ("GET", "/usage?group_by=colour", Value::Null, 400),
        ("GET", "/usage?from=yesterday", Value::Null, 400),
        ("GET", "/usage?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", Value::Null, 400),
    ] {
        let key = Some(server.owner.reveal());
        let body = (!body.is_null()).then_some(body);
        let response = server.send(method, &format!("/admin/v1{path}"), key, body).await;
        assert_problem(response, StatusCode::from_u16(status).unwrap(), path).await;
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let server = server().await;
    let long = "x".repeat(BODY_BYTES_MAX + 1);
    let key = Some(server.owner.reveal());
    let response = server.send("POST", "/admin/v1/organizations", key, Some(json!({"name": long}))).await;
    assert_problem(response, StatusCode::PAYLOAD_TOO_LARGE, "/organizations").await;
}

#[tokio::test]
async fn a_secret_is_shown_once_and_is_nowhere_else() {
    let server = server().await;
    server.demo().await;
    let body = json!({"application": "demo", "description": "ci", "models": [], "expires_at": "2100-01-01T00:00:00Z"});
    let made = server.made("/keys", body).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(wire::key_format::check(secret.as_bytes()));
    assert!(secret.starts_with(made["prefix"].as_str().unwrap()));
    assert_eq!((&made["status"], &made["models"]), (&json!("active"), &json!([])));
    assert_eq!(made["expires_at"], "2100-01-01T00:00:00Z");
    let id = made["id"].as_str().unwrap();
    let hidden = &secret[15..];
    for path in ["/keys".to_owned(), format!("/keys/{id}"), "/keys?application=demo&team=demo".to_owned()] {
        let text = server.get(&path).await.to_string();
        assert!(text.contains(id) && !text.contains(hidden) && !text.contains("\"secret\""), "{path}");
    }
    let (_, changed) = server.call("PATCH", &format!("/keys/{id}"), json!({"models": null})).await;
    assert_eq!((&changed["models"], changed.get("secret")), (&Value::Null, None));
    let (_, receipt) = server.call("POST", &format!("/keys/{id}/revoke"), json!({})).await;
    assert!(!receipt.to_string().contains(hidden));
    for entry in std::fs::read_dir(server._dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(hidden.len()).any(|window| window == hidden.as_bytes()));
    }
}

#[tokio::test]
async fn revoking_answers_with_the_receipt() {
    let server = server().await;
    server.demo().await;
    let made = server.made("/keys", json!({"application": "demo"})).await;
    server.registry.see_node(NodeId(9)).await.unwrap();
    let path = format!("/keys/{}/revoke", made["id"].as_str().unwrap());
    // With and without a body, and again: the answer is the same.
    for body in [Value::Null, json!({})] {
        let (status, receipt) = server.call("POST", &path, body).await;
        assert_eq!(status, 200);
        let pending = json!({
            "node": NodeId(9).to_string(), "name": "", "last_seen": receipt["pending"][0]["last_seen"],
        });
        assert!(pending["last_seen"].is_string(), "{receipt}");
        let expected = json!({"id": made["id"], "status": "revoked", "nodes": [], "pending": [pending]});
        assert_eq!(receipt, expected);
    }
    let mut attached = server.hub.attach(NodeId(9), Generation(1));
    let hub = server.hub.clone();
    tokio::spawn(async move {
        let Some(wire::frame::Frame::Revoke { revocation, .. }) = attached.urgent.recv().await else {
            return;
        };
        hub.revoked(attached.session, revocation);
    });
    let (_, receipt) = server.call("POST", &path, json!({})).await;
    assert_eq!(receipt["nodes"][0]["node"], NodeId(9).to_string());
    assert!(receipt["nodes"][0]["milliseconds"].is_u64());
    assert_eq!(receipt["pending"], json!([]));
}

#[tokio::test]
async fn a_key_is_answered_once_the_connected_data_planes_have_it() {
    let server = server().await;
    server.demo().await;
    let attached = server.hub.attach(NodeId(9), Generation(1));
    let (hub, mut generations) = (server.hub.clone(), server.registry.subscribe());
    let applied = tokio::spawn(async move {
        generations.changed().await.unwrap();
        let generation = *generations.borrow();
        hub.applied(attached.session, generation, TableSum(7));
        generation
    });
    server.made("/keys", json!({"application": "demo"})).await;
    let generation = applied.await.unwrap();
    assert_eq!(server.hub.connected()[0].applied, generation);
    let node = &server.get("/nodes").await["data"];
    assert_eq!(node, &json!([]), "a session alone enrols nobody");
    server.registry.see_node(NodeId(9)).await.unwrap();
    let node = &server.get("/nodes").await["data"][0];
    assert_eq!((&node["connected"], &node["behind"]), (&json!(true), &json!(0)));
    assert_eq!(node["tables"], "0000000000000007");
}

#[tokio::test]
async fn models_are_set_read_listed_and_removed() {
    let server = server().await;
    let body = json!({"deployments": [
        {"upstream": "https://a.example/v1/", "upstream_model": "u", "dialect": "vllm", "credential": "A_KEY",
         "weight": 3, "on_disconnect": "drain", "replay_safe": true, "idle_timeout_ms": 1000},
        {"name": "second", "upstream": "http://10.0.0.1:8000/v1"},
    ]});
    for alias in ["m", "meta-llama%2FLlama-3.1"] {
        let body = if alias == "m" { body.clone() } else { model("http://h/v1") };
        let (status, made) = server.call("PUT", &format!("/models/{alias}"), body).await;
        assert_eq!(status, 200, "{made}");
        assert_eq!(server.get(&format!("/models/{alias}")).await, made);
    }
    let first = &server.get("/models/m").await["deployments"][0];
    assert_eq!((&first["name"], &first["upstream"]), (&json!("m-1"), &json!("https://a.example/v1")));
    assert_eq!((&first["on_disconnect"], &first["idle_timeout_ms"]), (&json!("drain"), &json!(1000)));
    let listed = server.get("/models").await;
    assert_eq!(listed["data"][1]["alias"], "meta-llama/Llama-3.1");
    let (status, body) = server.call("DELETE", "/models/m", Value::Null).await;
    assert_eq!((status, body), (204, Value::Null));
    assert_eq!(server.call("GET", "/models/m", Value::Null).await.0, 404);
}

#[tokio::test]
async fn deployments_that_could_not_work_or_carry_a_secret_are_refused() {
    let server = server().await;
    let with = |member: &str, value: Value| {
        let mut body = model("http://h/v1");
        body["deployments"][0][member] = value;
        body
    };
    for (body, says) in [
        (with("upstream", json!("ftp://h/v1")), "http or https"),
        (with("upstream", json!("h:80")), "upstream"),
        (with("upstream", json!("http://u:hunter2@h/v1")), "without user and password"),
        (with("upstream", json!("http://h/v1?key=hunter2")), "without query"),
        (with("upstream", json!("http://h/v1#x")), "fragment"),
        (with("dialect", json!("klingon")), "vllm"),
        (with("on_disconnect", json!("hope")), "cancel, drain"),
        (with("weight", json!(0)), "weight"),
        (with("connect_timeout_ms", json!(0)), "connect_timeout_ms"),
        (with("credential", json!("sk-hunter2")), "not the secret"),
        (with("credential", json!("a b")), "not the secret"),
        (with("api_key", json!("hunter2")), "api_key"),
        (json!({"deployments": []}), "deployments"),
    ] {
        let (status, problem) = server.call("PUT", "/models/m", body.clone()).await;
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(status, 400, "{body} {problem}");
        assert!(detail.contains(says) && !detail.contains("hunter2"), "{body} {detail}");
    }
    assert_eq!(server.get("/models").await["data"], json!([]));
}

#[tokio::test]
async fn without_clickhouse_reports_are_503_and_the_rest_is_served() {
    let server = server().await;
    let ids = RequestIds::new(&server.registry.settings().request_id_key);
    let text = |seq| String::from_utf8(ids.text(BootId(1), seq).to_vec()).unwrap();
    let admitted = format!("/requests/{}", text(EventSeq::admitted(0, 1)));
    for path in ["/usage?group_by=team,model&interval=day", &admitted] {
        let (status, problem) = server.call("GET", path, Value::Null).await;
        assert_eq!(status, 503, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains("clickhouse"));
    }
    let refused = format!("/requests/{}", text(EventSeq::not_admitted(0, 1)));
    let (status, problem) = server.call("GET", &refused, Value::Null).await;
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().unwrap().contains("before it was admitted"));
    assert_eq!(server.get("/teams").await["data"], json!([]));
}
