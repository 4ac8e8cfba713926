//! The OpenAPI 3.1 document, made from the table of routes and from the types of their functions.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::input::Nothing;
use super::route::{Answer, Call, DRY_RUN, IDEMPOTENCY_KEY, Route};
use super::table;

pub(super) async fn show(_: Call, _: Nothing) -> Answer<Value> {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    Ok(DOCUMENT.get_or_init(document).clone().into())
}

pub(crate) fn document() -> Value {
    let at =
        |settings: SchemaSettings| settings.with(|one| one.definitions_path = "/components/schemas".into());
    let mut schemas = Schemas {
        given: at(SchemaSettings::draft2020_12().for_deserialize()).into_generator(),
        answered: at(SchemaSettings::draft2020_12().for_serialize()).into_generator(),
    };
    let mut paths = Map::new();
    for route in table::routes() {
        // Paths may have slashes in their last part, which OpenAPI has no word for.
        let path = route.full_path().replace("{*", "{");
        let described = describe(&route, &mut schemas);
        let operations = paths.entry(path).or_insert_with(|| json!({}));
        operations[route.method.as_str().to_lowercase()] = described;
    }
    let mut all = schemas.given.take_definitions(true);
    all.extend(schemas.answered.take_definitions(true));
    all.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Liutong's admin API", "version": env!("CARGO_PKG_VERSION"),
            "description": "Names or ids are accepted wherever one is asked for. Times are RFC 3339 in UTC.",
        },
        "security": [{"administrator": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"administrator": {
                "type": "http", "scheme": "bearer", "description": "An administrator's key, sk-ltadm-...",
            }},
            "schemas": all,
        },
    })
}

/// Types that are read, and types that are written.
struct Schemas {
    given: SchemaGenerator,
    answered: SchemaGenerator,
}

fn describe(route: &Route, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = route.path.split('/').filter_map(path_parameter).collect();
    parameters.extend(query_parameters(&(route.params)(&mut schemas.given), &schemas.given));
    if route.is_change() {
        let description = "Everything is checked, nothing is changed; the answer has the header dry-run.";
        parameters.push(json!({
            "name": DRY_RUN, "in": "query", "description": description, "schema": {"type": "boolean"},
        }));
    }
    if route.is_conditional() {
        let description = "The entity tag that it must have now, else 412; without this it is not compared.";
        parameters.push(json!({
            "name": "If-Match", "in": "header", "description": description, "schema": {"type": "string"},
        }));
    }
    if route.is_making() {
        let description =
            "The same request with the same key is answered as before for a day, and makes nothing again.";
        parameters.push(json!({
            "name": IDEMPOTENCY_KEY, "in": "header", "description": description,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        }));
    }
    let mut operation = json!({
        "operationId": route.id, "summary": route.summary, "tags": [route.id.split('.').next().unwrap_or_default()],
        "x-liutong-roles": route.who.roles, "x-liutong-scope": route.who.reach.name(),
        "parameters": parameters,
    });
    if let Some(body) = route.body {
        let schema = body(&mut schemas.given);
        operation["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    operation["responses"] = responses(route, schemas);
    operation
}

fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let mut done = json!({"description": "Done"});
    if let Some(answer) = route.answer {
        done["content"] = json!({"application/json": {"schema": answer(&mut schemas.answered)}});
    }
    let problem = json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
    json!({
        route.status.as_str(): done,
        "default": {"description": "What went wrong (RFC 9457)", "content": problem},
    })
}

fn path_parameter(part: &str) -> Option<Value> {
    let name = part.strip_prefix('{')?.strip_suffix('}')?.trim_start_matches('*');
    Some(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
}

/// The members of an object, as parameters of a URL.
fn query_parameters(schema: &Schema, generator: &SchemaGenerator) -> Vec<Value> {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let definition = name.and_then(|name| generator.definitions().get(name));
    let members = definition.and_then(|one| one.get("properties")).and_then(Value::as_object);
    let each = members.into_iter().flatten().map(|(name, schema)| {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|one| one.remove("description"));
        let mut parameter = json!({"name": name, "in": "query", "schema": schema});
        if let Some(description) = description {
            parameter["description"] = description;
        }
        parameter
    });
    each.collect()
}

fn problem() -> Value {
    json!({
        "type": "object", "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"}, "title": {"type": "string"},
            "status": {"type": "integer"}, "detail": {"type": "string"},
        },
    })
}
