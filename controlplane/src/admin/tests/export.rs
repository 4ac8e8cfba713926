//! What is stored about a team or a key, without ClickHouse: all that the registry has, and nobody else's.

use super::*;

/// All pages until ClickHouse would be asked.
async fn exported(server: &Server, subject: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) =
            server.call("GET", &format!("/privacy/export?{subject}{after}"), Value::Null).await;
        if status == 503 {
            return all;
        }
        assert_eq!(status, 200, "{page}");
        let data = page["data"].as_array().unwrap();
        assert!(!data.is_empty() && data.len() <= 1000, "{page}");
        all.extend(data.iter().cloned());
        after = format!("&after={}", page["next"].as_str().unwrap());
    }
}

#[tokio::test]
async fn all_that_the_registry_has_about_a_team_or_a_key_is_exported_and_nothing_of_others() {
    let server = server().await;
    server.demo().await;
    server.made("/teams", json!({"name": "other", "organization": "demo"})).await;
    server.made("/applications", json!({"name": "other", "team": "other"})).await;
    let post = async |body: Value, key: &str| -> Value {
        let request = server.http.post(format!("{}/admin/v1/keys", server.url));
        let request = request.bearer_auth(server.owner.reveal()).header("idempotency-key", key);
        request.json(&body).send().await.unwrap().json().await.unwrap()
    };
    let mine = post(json!({"application": "demo", "description": "mine"}), "a").await;
    let theirs = post(json!({"application": "other", "description": "theirs"}), "b").await;
    let (mine, theirs) = (mine["id"].as_str().unwrap(), theirs["id"].as_str().unwrap());
    for key in [mine, theirs] {
        server.made("/holds", json!({"key": key, "reason": "case 17"})).await;
    }
    for subject in ["team=demo".to_owned(), format!("key={mine}")] {
        let all = exported(&server, &subject).await;
        let kinds: std::collections::BTreeSet<&str> =
            all.iter().filter_map(|one| one["object"].as_str()).collect();
        let mut expected = vec!["attribution", "audit_record", "hold", "kept_answer", "key"];
        if subject.starts_with("team") {
            expected.extend(["application", "team"]);
            expected.sort_unstable();
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected, "{subject}");
        let text = Value::Array(all).to_string();
        assert!(text.contains(mine) && !text.contains(theirs), "{subject} {text}");
    }
    for wrong in ["x", "audit:x", "else:1"] {
        let path = format!("/privacy/export?team=demo&after={wrong}");
        assert_eq!(server.call("GET", &path, Value::Null).await.0, 400, "{wrong}");
    }
}
