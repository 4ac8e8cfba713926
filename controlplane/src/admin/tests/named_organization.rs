//! The header by which a call in OpenAI's form names an organization: nothing else is there for that call.

use super::*;

async fn call(server: &Server, method: Method, path: &str, headers: &[(&str, &[u8])]) -> (u16, Value) {
    let url = format!("{}/v1/organization{path}", server.url);
    let mut request = server.http.request(method, url).bearer_auth(server.owner.reveal());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn what_is_in_another_organization_is_not_there() {
    let server = server().await;
    for name in ["acme", "Müller"] {
        server.made("/organizations", json!({"name": name})).await;
    }
    server.made("/teams", json!({"name": "research", "organization": "acme"})).await;
    server.made("/administrators", json!({"name": "theirs", "role": "owner", "organization": "acme"})).await;
    let of = |name: &'static str| [("openai-organization", name.as_bytes())];
    for (method, path) in [
        (Method::GET, "/projects/research"),
        (Method::POST, "/projects/research/archive"),
        (Method::GET, "/projects/research/api_keys"),
    ] {
        assert_eq!(call(&server, method, path, &of("Müller")).await.0, 404, "{path}");
    }
    assert_eq!(call(&server, Method::GET, "/projects/research", &of("acme")).await.0, 200);
    let count = async |path: &str, name: &'static str| {
        call(&server, Method::GET, path, &of(name)).await.1["data"].as_array().unwrap().len()
    };
    for (path, theirs) in [("/admin_api_keys", 1), ("/audit_logs", 3), ("/projects", 1)] {
        assert_eq!(count(path, "acme").await, theirs, "{path}");
    }
    assert_eq!([count("/admin_api_keys", "Müller").await, count("/audit_logs", "Müller").await], [0, 1]);
    let broken: &[(&str, &[u8])] = &[("openai-organization", b"M\xfcller")];
    assert_eq!(call(&server, Method::GET, "/projects", broken).await.0, 400);
}

#[tokio::test]
async fn an_idempotency_key_is_refused_there_and_not_passed_over() {
    let server = server().await;
    server.demo().await;
    let headers: &[(&str, &[u8])] = &[("idempotency-key", b"k1")];
    let (status, answer) = call(&server, Method::POST, "/projects/demo/archive", headers).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("Idempotency-Key"), "{answer}");
    assert_eq!(server.get("/teams/demo").await["archived_at"], Value::Null);
}
