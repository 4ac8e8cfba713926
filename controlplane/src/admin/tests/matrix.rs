//! Every route of the OpenAPI document, tried by everyone: exactly those are let in whom the document names,
//! and whoever is at home elsewhere finds nothing.
//!
//! Paths, parameters and bodies are made from the document, so that a new route is tried without a word here.

use super::*;
use crate::admin::openapi;
use crate::registry::hold::SubjectKind;

/// An organization with all that can be in one.
pub(super) struct Home {
    ids: BTreeMap<&'static str, String>,
}

impl Home {
    pub(super) async fn new(server: &Server, name: &str) -> Self {
        let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
        let organization = id(&server.made("/organizations", json!({"name": name})).await);
        let team =
            id(&server.made("/teams", json!({"name": "t", "organization": organization.clone()})).await);
        let application = id(&server.made("/applications", json!({"name": "a", "team": team.clone()})).await);
        let key = id(&server.made("/keys", json!({"application": application.clone()})).await);
        let body = json!({"name": name, "role": "finance", "team": team.clone()});
        let administrator = id(&server.made("/administrators", body).await);
        let audit = server.get(&format!("/audit?subject={key}")).await;
        let ids = [
            ("record", id(&audit["data"][0])),
            ("organization", organization),
            ("team", team),
            ("application", application),
            ("key", key),
            ("administrator", administrator),
        ];
        Self { ids: ids.into() }
    }

    fn id(&self, kind: &str) -> &str {
        &self.ids[kind]
    }
}

struct Caller {
    name: String,
    key: Option<String>,
    role: Option<&'static str>,
    scope: &'static str,
    is_foreign: bool,
}

const SCOPES: [&str; 3] = ["installation", "organization", "team"];

async fn callers(server: &Server, home: &Home, other: &Home) -> Vec<Caller> {
    let nobody = |name: &str, key: Option<&str>| Caller {
        name: name.to_owned(),
        key: key.map(str::to_owned),
        role: None,
        scope: "installation",
        is_foreign: false,
    };
    let data_key = server.made("/keys", json!({"application": home.id("application")})).await;
    let unknown = making::new_admin_key().unwrap();
    let expired = server.made("/administrators", json!({"name": "x", "role": "owner"})).await;
    server.registry.age_admin(expired["id"].as_str().unwrap()).await;
    let revoked = server.made("/administrators", json!({"name": "r", "role": "owner"})).await;
    let path = format!("/administrators/{}/revoke", revoked["id"].as_str().unwrap());
    assert_eq!(server.call("POST", &path, json!({})).await.0, 200);
    let mut callers = vec![
        nobody("no credential", None),
        nobody("an empty one", Some("")),
        nobody("a data key", data_key["secret"].as_str()),
        nobody("an unknown credential", Some(unknown.reveal())),
        nobody("a cut one", Some(&server.owner.reveal()[..57])),
        nobody("an expired owner", expired["secret"].as_str()),
        nobody("a revoked owner", revoked["secret"].as_str()),
    ];
    for (_, role) in Role::ALL {
        for (scope, of) in SCOPES.into_iter().flat_map(|scope| [(scope, home), (scope, other)]).skip(1) {
            let mut body = json!({"name": "c", "role": role});
            if scope != "installation" {
                body[scope] = json!(of.id(scope));
            }
            let made = server.made("/administrators", body).await;
            let is_foreign = scope != "installation" && std::ptr::eq(of, other);
            callers.push(Caller {
                name: format!("{role} of {scope}, foreign {is_foreign}"),
                key: made["secret"].as_str().map(str::to_owned),
                role: Some(role),
                scope,
                is_foreign,
            });
        }
    }
    callers
}

/// A value that is right for a member of this name, or else of this schema.
fn example(name: &str, schema: &Value, document: &Value, home: &Home) -> Value {
    if let Some(path) = schema["$ref"].as_str() {
        let named = document.pointer(path.trim_start_matches('#')).unwrap();
        return example(name, named, document, home);
    }
    match (name, schema["type"].as_str()) {
        ("organization" | "team" | "application", _) => json!(home.id(name)),
        ("role", _) => json!("auditor"),
        ("upstream", _) => json!("http://127.0.0.1:1/v1"),
        (_, Some("object")) => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let members = required.iter().filter_map(Value::as_str);
            let members = members
                .map(|name| (name.to_owned(), example(name, &schema["properties"][name], document, home)));
            Value::Object(members.collect())
        }
        (_, Some("array")) => json!([example(name, &schema["items"], document, home)]),
        (_, Some("string")) => json!("example"),
        other => panic!("an example for {other:?} is needed: {schema}"),
    }
}

fn path_of(path: &str, server: &Server, home: &Home) -> String {
    let ids = RequestIds::new(&server.registry.settings().request_id_key);
    let request = String::from_utf8(ids.text(BootId(1), EventSeq::admitted(0, 1)).to_vec()).unwrap();
    let mut path = path.replace("{request}", &request).replace("{alias}", "m");
    path = path.replace("{node}", &NodeId(9).to_string()).replace("{hold}", "1");
    for (kind, id) in &home.ids {
        path = path.replace(&format!("{{{kind}}}"), id);
    }
    assert!(!path.contains('{'), "{path}: the test has nothing of that kind");
    if path.starts_with("/v1/organization/usage") || path.ends_with("/costs") {
        return path + "?start_time=0";
    }
    if path.ends_with("/export") { path + "?team=" + home.id("team") } else { path }
}

/// An operation of the document, and a call of it that is right for whoever is at home.
pub(super) struct Operation<'d> {
    pub(super) method: &'d str,
    path: &'d str,
    roles: &'d Vec<Value>,
    scope: &'d str,
    pub(super) id: &'d str,
    pub(super) url: String,
    body: Value,
}

impl<'d> Operation<'d> {
    pub(super) fn all(document: &'d Value, server: &Server, home: &Home) -> Vec<Self> {
        let mut all = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let dry = if method == "get" { "" } else { "?dry_run=true" };
                let body = &operation["requestBody"]["content"]["application/json"]["schema"];
                all.push(Self {
                    method,
                    path,
                    roles: operation["x-liutong-roles"].as_array().unwrap(),
                    scope: operation["x-liutong-scope"].as_str().unwrap(),
                    id: operation["operationId"].as_str().unwrap(),
                    url: path_of(path, server, home) + dry,
                    body: if body.is_null() { Value::Null } else { example("", body, document, home) },
                });
            }
        }
        all
    }

    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The body that is right for this home.
    pub(super) fn body_at(&self, home: &Home) -> Option<Value> {
        let mut body = self.body.clone();
        if ["key.revoke_many", "hold.create", "privacy.erase"].contains(&self.id) {
            body["team"] = json!(home.id("team"));
        }
        (!body.is_null()).then_some(body)
    }

    /// The body as this caller would send it.
    fn body(&self, caller: &Caller, home: &Home) -> Option<Value> {
        let mut body = self.body_at(home)?;
        if self.id == "administrator.create" && caller.scope != "installation" {
            body[caller.scope] = json!(home.id(caller.scope));
        }
        Some(body)
    }

    /// Calls it at this home; where OpenAI's form needs it the header names the organization.
    pub(super) async fn send(
        &self,
        server: &Server,
        key: Option<&str>,
        body: Option<&Value>,
        (url, home): (&str, &Home),
    ) -> (u16, String) {
        let method = Method::from_bytes(self.method.to_uppercase().as_bytes()).unwrap();
        let request = server.http.request(method, format!("{}{url}", server.url));
        let mut request = request.header("openai-organization", home.id("organization"));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    fn names_a_home(&self, body: Option<&Value>) -> bool {
        // By the header.
        if self.path.starts_with(crate::admin::OPENAI_PREFIX) {
            return true;
        }
        let kinds = ["organization", "team", "application", "key", "administrator", "record"];
        kinds.iter().any(|kind| {
            self.path.contains(&format!("{{{kind}}}")) || body.is_some_and(|body| body[kind].is_string())
        })
    }

    /// Whether this answer is the one that the document promises to this caller.
    fn is_right(&self, caller: &Caller, names_a_home: bool, status: u16) -> bool {
        let at = |scope: &str| SCOPES.iter().position(|one| *one == scope).unwrap();
        match caller.role {
            None => status == 401,
            Some(role) if !self.roles.contains(&json!(role)) || at(caller.scope) > at(self.scope) => {
                status == 403
            }
            Some(_) if caller.is_foreign && names_a_home => status == 404,
            // ClickHouse is away, and no other hosts are served.
            Some(_) if status == 503 => {
                ["usage", "requests", "export", "costs", "uses"].iter().any(|one| self.path.contains(one))
            }
            Some(_) if status == 409 => self.path.ends_with("/enroll"),
            Some(_) => (200..300).contains(&status),
        }
    }
}

/// An answer without records of calls that were refused: they hold what the callers themselves asked for.
fn without_refusals(text: &str) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    if let Some(records) = answer["data"].as_array_mut() {
        records.retain(|one| !one.to_string().contains("\"result\":\"refused"));
    }
    answer.to_string()
}

#[tokio::test]
async fn exactly_those_are_let_in_whom_the_document_names() {
    let server = server().await;
    let (home, other) = (Home::new(&server, "home").await, Home::new(&server, "other").await);
    assert_eq!(server.call("PUT", "/models/m", model("http://127.0.0.1:1/v1")).await.0, 200);
    server.registry.see_node(NodeId(9)).await.unwrap();
    server.registry.add_hold(SubjectKind::Team, other.id("team"), "case 17").await.unwrap();
    let callers = callers(&server, &home, &other).await;
    let before = server.registry.generation().await.unwrap();
    let document = openapi::document();
    let operations = Operation::all(&document, &server, &home);
    for operation in &operations {
        for caller in &callers {
            let body = operation.body(caller, &home);
            let names_a_home = operation.names_a_home(body.as_ref());
            let key = caller.key.as_deref();
            let at = (operation.url.as_str(), &home);
            let (status, text) = operation.send(&server, key, body.as_ref(), at).await;
            let method = operation.method;
            let told = format!("{method} {} by {}: {status} {text}", operation.path, caller.name);
            assert!(operation.is_right(caller, names_a_home, status), "{told}");
            if caller.is_foreign && status != 404 {
                let text = without_refusals(&text);
                let is_told = home.ids.values().any(|id| text.contains(&format!("{id:?}")));
                let told = told.chars().take(500).collect::<String>();
                assert!(!is_told, "{told}: what is at home is told elsewhere");
            }
        }
    }
    assert!(operations.len() >= 35 && callers.len() >= 25, "{} {}", operations.len(), callers.len());
    assert_eq!(server.registry.generation().await.unwrap(), before, "nothing was changed by all that");
}

#[tokio::test]
async fn what_is_no_route_is_told_to_administrators_alone() {
    let server = server().await;
    for (method, path, status) in [
        ("GET", "/admin/v1/", 404),
        ("GET", "/admin/v1/nothing", 404),
        ("GET", "/admin/v1", 404),
        ("DELETE", "/admin/v1/teams", 405),
    ] {
        let denied = server.send(method, path, None, None).await;
        assert_problem(denied, StatusCode::UNAUTHORIZED, path).await;
        let told = server.send(method, path, Some(server.owner.reveal()), None).await;
        assert_problem(told, StatusCode::from_u16(status).unwrap(), path).await;
    }
}

#[tokio::test]
async fn the_document_describes_every_route_once() {
    let document = openapi::document();
    let operations = document["paths"].as_object().unwrap().values();
    let operations = operations.flat_map(|one| one.as_object().unwrap().values());
    let mut ids: Vec<&str> = operations.map(|one| one["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), crate::admin::table::routes().len());
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), crate::admin::table::routes().len(), "no id twice");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
}
