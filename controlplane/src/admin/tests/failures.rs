//! Wrong credentials are slowed and then turned away, on either surface; one that holds never is.

use super::*;

const TRIERS: usize = 80;

/// How often each status was told, and whether each that turns away says when to try again.
async fn try_unknown(url: String, key: String, http: reqwest::Client) -> (u16, bool) {
    let response = http.get(url).bearer_auth(key).send().await.unwrap();
    (response.status().as_u16(), response.headers().contains_key("retry-after"))
}

#[tokio::test]
async fn failures_are_slowed_and_turned_away_while_a_credential_that_holds_is_served() {
    let server = server().await;
    let unknown = making::new_admin_key().unwrap();
    let garbage = "x".repeat(60);
    let mut tries = Vec::new();
    for at in 0..TRIERS * 2 {
        let path = if at % 2 == 0 { "/admin/v1/teams" } else { "/v1/organization/projects" };
        let key = if at % 4 < 2 { unknown.reveal() } else { &garbage };
        let url = format!("{}{path}", server.url);
        tries.push(tokio::spawn(try_unknown(url, key.to_owned(), server.http.clone())));
    }
    for _ in 0..20 {
        assert_eq!(
            server.send("GET", "/admin/v1/teams", Some(server.owner.reveal()), None).await.status(),
            200
        );
    }
    let mut told = BTreeMap::new();
    for one in tries {
        let (status, says_when) = one.await.unwrap();
        assert_eq!(says_when, status == 429, "{status}");
        *told.entry(status).or_insert(0) += 1;
    }
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [401, 429], "{told:?}");
    let metrics = server.send("GET", "/metrics", None, None).await.text().await.unwrap();
    let failed = format!("liutong_admin_credential_failures_total {}\n", TRIERS * 2);
    assert!(metrics.contains(&failed), "{metrics}");
    let away = format!("liutong_admin_credential_turned_away_total {}\n", told[&429]);
    assert!(metrics.contains(&away), "{metrics}");
}

#[tokio::test]
async fn a_call_without_any_credential_is_no_attempt() {
    let server = server().await;
    for _ in 0..20 {
        let denied = server.send("GET", "/admin/v1/teams", None, None).await;
        assert_problem(denied, StatusCode::UNAUTHORIZED, "/teams").await;
    }
    let metrics = server.send("GET", "/metrics", None, None).await.text().await.unwrap();
    assert!(metrics.contains("liutong_admin_credential_failures_total 0\n"), "{metrics}");
}
