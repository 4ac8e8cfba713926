//! Administrators: made within a scope, seen within it, replaced with an overlap, ended for good.

use super::*;

async fn admin(server: &Server, name: &str, role: &str, scope: Option<(&str, &str)>) -> (String, String) {
    let mut body = json!({"name": name, "role": role});
    if let Some((kind, of)) = scope {
        body[kind] = json!(of);
    }
    let made = server.made("/administrators", body).await;
    (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_credential_is_shown_once_ends_and_is_replaced_with_an_overlap() {
    let server = server().await;
    let (id, first) = admin(&server, "ops", "admin", None).await;
    let shown = server.get(&format!("/administrators/{id}")).await;
    assert!(shown.get("secret").is_none() && !shown.to_string().contains(&first[10..]));
    assert!(shown["expires_at"].is_string(), "without being asked for it has an end");
    let (status, rotated) = server.call_as(&first, "POST", "/administrators/me/rotate", json!({})).await;
    assert_eq!(status, 201, "{rotated}");
    let second = rotated["secret"].as_str().unwrap().to_owned();
    for key in [&first, &second] {
        assert_eq!(server.call_as(key, "GET", "/administrators/me", Value::Null).await.1["id"], json!(id));
    }
    let now = json!({"overlap_seconds": 0});
    let path = format!("/administrators/{id}/rotate");
    let (_, rotated) = server.call("POST", &path, now).await;
    let third = rotated["secret"].as_str().unwrap().to_owned();
    for (key, status) in [(&first, 401), (&second, 401), (&third, 200)] {
        assert_eq!(server.call_as(key, "GET", "/administrators/me", Value::Null).await.0, status);
    }
    let (status, revoked) = server.call("POST", &format!("/administrators/{id}/revoke"), Value::Null).await;
    assert_eq!((status, &revoked["status"]), (200, &json!("revoked")));
    assert_eq!(server.call_as(&third, "GET", "/administrators/me", Value::Null).await.0, 401);
    let (status, _) = server.call("PATCH", &format!("/administrators/{id}"), json!({"name": "x"})).await;
    assert_eq!(status, 409, "revoked is for good");
    for secret in [first, second, third] {
        for entry in std::fs::read_dir(server._dir.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(43).any(|window| window == &secret.as_bytes()[9..52]));
        }
    }
}

#[tokio::test]
async fn the_last_owner_stays() {
    let server = server().await;
    let own = server.get("/administrators/me").await["id"].as_str().unwrap().to_owned();
    for (method, path, body) in [
        ("POST", format!("/administrators/{own}/revoke"), json!({})),
        ("PATCH", format!("/administrators/{own}"), json!({"role": "admin"})),
    ] {
        let (status, problem) = server.call(method, &path, body).await;
        assert_eq!(status, 409, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("last owner"));
    }
    admin(&server, "second", "owner", None).await;
    assert_eq!(server.call("POST", &format!("/administrators/{own}/revoke"), json!({})).await.0, 200);
}

#[tokio::test]
async fn where_no_owner_is_left_others_can_be_revoked_all_the_same() {
    let server = server().await;
    server.demo().await;
    let (_, of_demo) = admin(&server, "demo's", "owner", Some(("organization", "demo"))).await;
    let (leaked, _) = admin(&server, "leaked", "finance", Some(("team", "demo"))).await;
    let own = server.get("/administrators/me").await["id"].as_str().unwrap().to_owned();
    server.registry.age_admin(&own).await;
    for (call, expected) in [("rotate", 201), ("revoke", 200)] {
        let path = format!("/administrators/{leaked}/{call}");
        let (status, answer) = server.call_as(&of_demo, "POST", &path, json!({})).await;
        assert_eq!(status, expected, "{call} {answer}");
    }
}

#[tokio::test]
async fn an_owner_of_an_organization_makes_administrators_of_it_and_of_its_teams_alone() {
    let server = server().await;
    server.demo().await;
    server.made("/organizations", json!({"name": "acme"})).await;
    server.made("/teams", json!({"name": "ml", "organization": "acme"})).await;
    let (_, owner) = admin(&server, "demo's", "owner", Some(("organization", "demo"))).await;
    for (body, status) in [
        (json!({"name": "a", "role": "owner", "organization": "demo"}), 201),
        (json!({"name": "b", "role": "finance", "team": "demo"}), 201),
        (json!({"name": "c", "role": "finance"}), 400),
        (json!({"name": "d", "role": "finance", "organization": "acme"}), 404),
        (json!({"name": "e", "role": "finance", "team": "ml"}), 404),
        (json!({"name": "f", "role": "finance", "organization": "demo", "team": "demo"}), 400),
        (json!({"name": "g", "role": "king", "organization": "demo"}), 400),
        (
            json!({"name": "h", "role": "owner", "organization": "demo", "expires_at": "2001-01-01T00:00:00Z"}),
            400,
        ),
    ] {
        let (got, answer) = server.call_as(&owner, "POST", "/administrators", body.clone()).await;
        assert_eq!(got, status, "{body} {answer}");
    }
    // A team's owner sees the organization that its team is in, and is nothing there.
    let (_, of_team) = admin(&server, "the team's", "owner", Some(("team", "demo"))).await;
    for (body, status) in [
        (json!({"name": "i", "role": "owner", "organization": "demo"}), 400),
        (json!({"name": "i", "role": "owner"}), 400),
        (json!({"name": "i", "role": "auditor", "team": "demo"}), 201),
    ] {
        let (got, answer) = server.call_as(&of_team, "POST", "/administrators", body.clone()).await;
        assert_eq!(got, status, "{body} {answer}");
    }
    let (_, seen) = server.call_as(&owner, "GET", "/administrators", Value::Null).await;
    let names: Vec<&str> =
        seen["data"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["demo's", "a", "b", "the team's", "i"]);
}

#[tokio::test]
async fn rotating_its_own_credential_gives_nobody_more_time_and_a_former_one_rotates_nothing() {
    let server = server().await;
    let body = json!({"name": "guest", "role": "auditor", "expires_at": "2100-01-02T00:00:00Z"});
    let made = server.made("/administrators", body).await;
    let (id, end) = (made["id"].as_str().unwrap(), &made["expires_at"]);
    let mut secret = made["secret"].as_str().unwrap().to_owned();
    for (asked, got) in [
        (json!({"expires_at": null}), end),
        (json!({"expires_at": "2200-01-01T00:00:00Z"}), end),
        (json!({"expires_at": "2100-01-01T00:00:00Z"}), &json!("2100-01-01T00:00:00Z")),
    ] {
        let (status, rotated) = server.call_as(&secret, "POST", "/administrators/me/rotate", asked).await;
        assert_eq!((status, &rotated["expires_at"]), (201, got), "{rotated}");
        let former = std::mem::replace(&mut secret, rotated["secret"].as_str().unwrap().to_owned());
        let own = json!({"overlap_seconds": 0});
        let (status, answer) = server.call_as(&former, "POST", "/administrators/me/rotate", own).await;
        assert_eq!(status, 409, "{answer}");
        assert_eq!(server.call_as(&secret, "GET", "/administrators/me", Value::Null).await.0, 200);
    }
    // An owner decides.
    let path = format!("/administrators/{id}/rotate");
    let (status, rotated) = server.call("POST", &path, json!({"expires_at": null})).await;
    assert_eq!((status, &rotated["expires_at"]), (201, &Value::Null), "{rotated}");
}

#[tokio::test]
async fn administrators_of_an_organization_see_and_change_what_is_theirs_alone() {
    let server = server().await;
    server.demo().await;
    server.made("/organizations", json!({"name": "acme"})).await;
    server.made("/teams", json!({"name": "demo", "organization": "acme"})).await;
    server
        .made(
            "/applications",
            json!({"name": "bot", "team": server.get("/teams?organization=acme").await["data"][0]["id"]}),
        )
        .await;
    let theirs = server.made("/keys", json!({"application": "bot", "description": "theirs"})).await;
    server.made("/keys", json!({"application": "demo", "description": "ours"})).await;
    let (_, key) = admin(&server, "x", "admin", Some(("organization", "demo"))).await;
    let see = async |path: &str| server.call_as(&key, "GET", path, Value::Null).await;
    for (path, count) in [("/organizations", 1), ("/teams", 1), ("/applications", 1), ("/keys", 1)] {
        let (status, listed) = see(path).await;
        assert_eq!((status, listed["data"].as_array().unwrap().len()), (200, count), "{path} {listed}");
        assert!(!listed.to_string().contains("acme") && !listed.to_string().contains("theirs"));
    }
    assert_eq!(see("/teams/demo").await.0, 200, "the other team of that name is not there");
    let id = theirs["id"].as_str().unwrap();
    for wanted in [id, "theirs", theirs["prefix"].as_str().unwrap()] {
        assert_eq!(see(&format!("/keys/{wanted}")).await.0, 404, "{wanted}");
    }
    assert_eq!(see(&format!("/keys?after={id}")).await.0, 404);
    let (_, receipt) = server.call_as(&key, "POST", "/keys/revoke", json!({"keys": [id]})).await;
    assert_eq!((&receipt["revoked"], &receipt["unknown"]), (&json!(0), &json!([id])));
    let (status, _) = server.call_as(&key, "PATCH", "/teams/demo", json!({"organization": "acme"})).await;
    assert_eq!(status, 404, "nothing is moved to where one is not at home");
    assert_eq!(server.get(&format!("/keys/{id}")).await["status"], "active");
}

#[tokio::test]
async fn a_change_of_what_has_changed_meanwhile_is_refused() {
    let server = server().await;
    server.demo().await;
    for (path, change) in [
        ("/organizations/demo", json!({"plan": "gold"})),
        ("/teams/demo", json!({"plan": "gold"})),
        ("/applications/demo", json!({"plan": "gold"})),
        ("/models/m", model("http://127.0.0.1:2/v1")),
    ] {
        let method = if path == "/models/m" { "PUT" } else { "PATCH" };
        let url = format!("{}/admin/v1{path}", server.url);
        let read = server.http.get(&url).bearer_auth(server.owner.reveal()).send().await.unwrap();
        let tag = read.headers()["etag"].to_str().unwrap().to_owned();
        let send = async |tag: &str| {
            let request = server.http.request(method.parse().unwrap(), &url).json(&change);
            let request = request.bearer_auth(server.owner.reveal()).header("if-match", tag);
            request.send().await.unwrap()
        };
        let changed = send(&tag).await;
        assert_eq!(changed.status(), 200, "{path}");
        let now = changed.headers()["etag"].to_str().unwrap().to_owned();
        assert_ne!(now, tag);
        assert_problem(send(&tag).await, StatusCode::PRECONDITION_FAILED, path).await;
        assert_eq!(send(&now).await.status(), 200);
        assert_eq!(send("*").await.status(), 200);
    }
    let request =
        server.http.post(format!("{}/admin/v1/organizations", server.url)).json(&json!({"name": "x"}));
    let refused = request.bearer_auth(server.owner.reveal()).header("if-match", "*").send().await.unwrap();
    assert_problem(refused, StatusCode::BAD_REQUEST, "a route that does not compare says so").await;
}
