//! The audit trail through the API: a record for each call, none with a secret; and calls that are repeated.

use super::matrix::{Home, Operation};
use super::*;
use crate::admin::openapi;

async fn newest(server: &Server) -> Value {
    server.get("/audit?order=desc&limit=1").await["data"][0].clone()
}

async fn count(server: &Server) -> u64 {
    server.get("/audit/verify").await["records"].as_u64().unwrap()
}

#[tokio::test]
async fn every_changing_call_of_the_document_leaves_one_record() {
    let server = server().await;
    let document = openapi::document();
    assert_eq!(server.call("PUT", "/models/m", model("http://127.0.0.1:1/v1")).await.0, 200);
    let second = server.made("/administrators", json!({"name": "second", "role": "owner"})).await;
    let owner = second["secret"].as_str().unwrap().to_owned();
    let names: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, all)| all.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .filter(|name| !name.starts_with("get "))
        .collect();
    assert!(names.len() >= 20);
    let mut results = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        // What is revoked or removed is gone, so each call has a home of its own.
        server.registry.see_node(NodeId(9)).await.unwrap();
        let home = Home::new(&server, &format!("home {at}")).await;
        let operations = Operation::all(&document, &server, &home);
        let operation = operations.iter().find(|one| &one.name() == name).unwrap();
        let before = count(&server).await;
        let path = operation.url.trim_end_matches("?dry_run=true");
        let body = operation.body_at(&home);
        let (status, text) = operation.send(&server, Some(&owner), body.as_ref(), (path, &home)).await;
        assert!((200..300).contains(&status) || status == 409, "{name} {status} {text}");
        // Archiving also revokes keys, some at a time.
        let also =
            u64::from(["archive", "service_account.delete"].iter().any(|one| operation.id.contains(one)));
        assert_eq!(count(&server).await, before + 1 + also, "{name}");
        let record = newest(&server).await;
        assert_eq!(record["action"], operation.id, "{name} {record}");
        assert_eq!(record["by"], second["id"]);
        let result = record["result"].as_str().unwrap().to_owned();
        assert_eq!(result == "refused 409", status == 409, "{name} {record}");
        results.insert(name.clone(), result);
        let Ok(answer) = serde_json::from_str::<Value>(&text) else { continue };
        for member in ["secret", "token"] {
            if let Some(secret) = answer[member].as_str() {
                let trail = server.get("/audit?limit=1000").await.to_string();
                assert!(!trail.contains(&secret[secret.len() - 20..]), "{name}");
            }
        }
    }
    assert!(results.values().filter(|one| *one == "done").count() >= 18, "{results:?}");
    let verified = server.get("/audit/verify").await;
    assert_eq!((&verified["is_intact"], &verified["faults"]), (&json!(true), &json!([])));
}

#[tokio::test]
async fn refused_calls_are_in_the_trail_and_others_are_not() {
    let server = server().await;
    server.demo().await;
    let auditor = server.made("/administrators", json!({"name": "a", "role": "auditor"})).await;
    let key = auditor["secret"].as_str().unwrap();
    let before = count(&server).await;
    let (status, _) = server.call_as(key, "PATCH", "/teams/demo", json!({"name": "x"})).await;
    assert_eq!(status, 403);
    let record = newest(&server).await;
    assert_eq!((&record["action"], &record["result"]), (&json!("team.update"), &json!("refused 403")));
    assert_eq!((&record["by"], &record["subjects"]), (&auditor["id"], &json!([])), "a name is not kept");
    let team = server.get("/teams/demo").await["id"].as_str().unwrap().to_owned();
    server.call_as(key, "PATCH", &format!("/teams/{team}"), json!({"name": "x"})).await;
    assert_eq!(newest(&server).await["subjects"], json!([team]), "an id is");
    server.call("POST", "/organizations", json!({"name": "demo"})).await;
    assert_eq!(newest(&server).await["result"], "refused 409");
    // A secret that was pasted for an id is not kept.
    let secret = server.made("/keys", json!({"application": "demo"})).await["secret"].clone();
    let secret = secret.as_str().unwrap();
    server.call("POST", &format!("/keys/{secret}/revoke"), json!({})).await;
    assert_eq!(newest(&server).await["result"], "refused 404");
    assert!(!server.get("/audit").await.to_string().contains(&secret[20..]));
    let after = count(&server).await;
    assert_eq!(after, before + 5);
    server.get("/teams").await;
    server.send("POST", "/admin/v1/teams", None, None).await;
    server.call("POST", "/teams", json!({"colour": "red"})).await;
    server.call("POST", "/organizations?dry_run=true", json!({"name": "tried"})).await;
    assert_eq!(count(&server).await, after);
}

async fn post(server: &Server, key: &str, path: &str, idempotency_key: &str, body: Value) -> Response {
    let request = server.http.post(format!("{}/admin/v1{path}", server.url)).bearer_auth(key);
    request.header("idempotency-key", idempotency_key).json(&body).send().await.unwrap()
}

#[tokio::test]
async fn the_same_call_under_the_same_idempotency_key_makes_nothing_twice() {
    let server = server().await;
    server.demo().await;
    let (owner, body) = (server.owner.reveal(), json!({"application": "demo", "description": "once"}));
    let first: Value = post(&server, owner, "/keys", "k1", body.clone()).await.json().await.unwrap();
    let secret = first["secret"].as_str().unwrap();
    let again = post(&server, owner, "/keys", "k1", body.clone()).await;
    assert_eq!(again.status(), StatusCode::CREATED);
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let again: Value = again.json().await.unwrap();
    assert_eq!((&again["id"], &again["secret"]), (&first["id"], &Value::Null));
    assert_eq!(server.get("/keys").await["data"].as_array().unwrap().len(), 1);
    for (path, body) in [("/keys", json!({"application": "demo"})), ("/organizations", json!({"name": "x"}))]
    {
        let other = post(&server, owner, path, "k1", body).await;
        assert_problem(other, StatusCode::UNPROCESSABLE_ENTITY, path).await;
    }
    let bad = post(&server, owner, "/keys", "two words", body.clone()).await;
    assert_problem(bad, StatusCode::BAD_REQUEST, "/keys").await;
    let second = server.made("/administrators", json!({"name": "b", "role": "admin"})).await;
    let theirs = post(&server, second["secret"].as_str().unwrap(), "/keys", "k1", body.clone()).await;
    let theirs: Value = theirs.json().await.unwrap();
    assert_ne!(theirs["id"], first["id"], "another administrator's keys are its own");
    let both = [post(&server, owner, "/keys", "k2", body.clone()), post(&server, owner, "/keys", "k2", body)];
    let mut ids = Vec::new();
    for one in futures_util::future::join_all(both).await {
        ids.push(one.json::<Value>().await.unwrap()["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    for entry in std::fs::read_dir(server._dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(40).any(|window| window == &secret.as_bytes()[20..60]));
    }
}

#[tokio::test]
async fn a_call_that_failed_is_done_anew() {
    let server = server().await;
    let (owner, body) = (server.owner.reveal(), json!({"name": "t", "organization": "later"}));
    assert_eq!(post(&server, owner, "/teams", "k", body.clone()).await.status(), 404);
    server.made("/organizations", json!({"name": "later"})).await;
    assert_eq!(post(&server, owner, "/teams", "k", body.clone()).await.status(), 201);
    assert_eq!(post(&server, owner, "/teams", "k", body).await.status(), 201);
    assert_eq!(server.get("/teams").await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_log_that_is_far_behind_others_is_on_the_first_page() {
    let server = server().await;
    server.demo().await;
    // More than are looked at for a page in a test.
    for n in 0..120 {
        let (status, _) = server.call("POST", "/teams", json!({"name": "x", "organization": "none"})).await;
        assert_eq!(status, 404, "{n}");
    }
    let get = async |query: &str| -> Value {
        let path = format!("/v1/organization/audit_logs?{query}");
        let response = server.send("GET", &path, Some(server.owner.reveal()), None).await;
        response.json().await.unwrap()
    };
    let found = get("event_types[]=service_account.created&limit=5").await;
    assert_eq!(found["data"][0]["type"], "service_account.created", "{found}");
    assert_eq!(found["has_more"], false);
    let nothing = get("event_types[]=tenant.nothing").await;
    assert_eq!((&nothing["data"], &nothing["has_more"]), (&json!([]), &json!(false)));
    let me = server.get("/administrators/me").await["id"].as_str().unwrap().to_owned();
    let mine = get(&format!("actor_ids[]={me}&effective_at[gte]=1&limit=1")).await;
    assert_eq!((mine["data"].as_array().unwrap().len(), &mine["has_more"]), (1, &json!(true)));
}
