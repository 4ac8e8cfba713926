//! Paths, names and the choice among deployments.

use super::*;
use wire::table::{Deployment, Dialect, OnDisconnect};

#[test]
fn paths_lead_to_endpoints_or_are_refused() {
    let ok = |endpoint, model: Option<&'static str>| Ok(Asked { endpoint, model: model.map(str::as_bytes) });
    let cases = [
        (Method::Post, "/v1/chat/completions", ok(Endpoint::ChatCompletions, None)),
        (Method::Post, "/openai/v1/completions", ok(Endpoint::Completions, None)),
        (Method::Post, "/openai/deployments/gpt%204/embeddings", ok(Endpoint::Embeddings, Some("gpt%204"))),
        (Method::Get, "/v1/models", ok(Endpoint::Models, None)),
        (Method::Get, "/v1/models/a/b", ok(Endpoint::Models, Some("a/b"))),
        (Method::Get, "/openai/models", ok(Endpoint::Models, None)),
        (Method::Get, "/openai/models/a%20b", ok(Endpoint::Models, Some("a%20b"))),
        (Method::Get, "/openai/models/", Err(RequestError::Endpoint)),
        (Method::Get, "/openai/modelsx", Err(RequestError::Endpoint)),
        (Method::Post, "/openai/chat/completions", Err(RequestError::Endpoint)),
        (Method::Get, "/models", Err(RequestError::Endpoint)),
        (Method::Get, "/v1/models/", Err(RequestError::Endpoint)),
        (Method::Get, "/v1/files", Err(RequestError::Endpoint)),
        (Method::Post, "/openai/deployments/x/models", Err(RequestError::Endpoint)),
        (Method::Post, "/v1/chat/completions/", Err(RequestError::Endpoint)),
        (Method::Post, "/v1/../v1/chat/completions", Err(RequestError::Endpoint)),
        (Method::Post, "//v1/chat/completions", Err(RequestError::Endpoint)),
        (Method::Get, "/", Err(RequestError::Endpoint)),
        (Method::Get, "/v1/chat/completions", Err(RequestError::Method("POST"))),
        (Method::Post, "/v1/models", Err(RequestError::Method("GET"))),
    ];
    for (method, path, expected) in cases {
        assert_eq!(endpoint(method, path.as_bytes()), expected, "{path}");
    }
}

#[test]
fn percent_encoding_is_undone_or_refused() {
    assert_eq!(decode_model(b"a%2Fb%20c").as_deref(), Some("a/b c"));
    for bad in [&b"%"[..], b"%2", b"%zz", b"%+1", b"%ff", &[b'a'; 257]] {
        assert_eq!(decode_model(bad), None);
    }
}

fn upstream(id: u32, weight: u32) -> Arc<Upstream> {
    let spec = Deployment {
        id: DeploymentId(id),
        name: String::new(),
        base_url: "http://127.0.0.1:1/v1".into(),
        dialect: Dialect::Openai,
        upstream_model: String::new(),
        credential: String::new(),
        api_version: String::new(),
        weight,
        on_disconnect: OnDisconnect::Cancel,
        replay_safe: false,
        connect_timeout_ms: 1,
        first_byte_timeout_ms: 1,
        idle_timeout_ms: 1,
    };
    Arc::new(Upstream::new(spec, None, None).unwrap())
}

fn shares(balance: &Balance, upstreams: &[Arc<Upstream>], now_ms: u64) -> Vec<usize> {
    let mut counts = vec![0; upstreams.len()];
    for _ in 0..3000 {
        let chosen = balance.choose(upstreams, &[], now_ms).unwrap();
        counts[chosen.upstream.spec.id.0 as usize] += 1;
    }
    counts
}

#[test]
fn an_idle_choice_follows_the_weights() {
    let upstreams = [upstream(0, 3), upstream(1, 1), upstream(2, 0)];
    let counts = shares(&Balance::new(7), &upstreams, 0);
    assert!((2000..2500).contains(&counts[0]), "{counts:?}");
    assert_eq!(counts[2], 0, "no weight, no requests");
}

#[test]
fn the_busier_of_two_is_left_alone() {
    let balance = Balance::new(7);
    let upstreams = [upstream(0, 1), upstream(1, 1)];
    let busy = balance.choose(&upstreams[..1], &[], 0).unwrap();
    for _ in 0..100 {
        assert_eq!(balance.choose(&upstreams, &[], 0).unwrap().upstream.spec.id, DeploymentId(1));
    }
    drop(busy);
    assert!(shares(&balance, &upstreams, 0).iter().all(|count| *count > 1000));
}

#[test]
fn one_that_failed_rests_and_is_tried_again_where_there_is_no_other() {
    let balance = Balance::new(7);
    let upstreams = [upstream(0, 1), upstream(1, 1)];
    balance.choose(&upstreams[..1], &[], 0).unwrap().failed(1000);
    assert_eq!(shares(&balance, &upstreams, 1000)[0], 0);
    assert!(shares(&balance, &upstreams, 1000 + DOWN_MS)[0] > 1000);
    let last = balance.choose(&upstreams, &[DeploymentId(1)], 1000).unwrap();
    assert_eq!(last.upstream.spec.id, DeploymentId(0));
    last.answered();
    drop(last);
    assert!(shares(&balance, &upstreams, 1000)[0] > 1000);
    assert!(balance.choose(&upstreams, &[DeploymentId(0), DeploymentId(1)], 1000).is_none());
}
