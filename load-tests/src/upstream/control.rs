//! The upstream's control API, on the same listener as its answers; for those who run it as a program.
//!
//! | request | does |
//! |---|---|
//! | `POST /script` | adds a script (JSON of `Script`) |
//! | `DELETE /scripts` | removes all scripts |
//! | `POST /gates/NAME` | opens a gate |
//! | `GET /received` | `{"requests","connections","last":[{"connection","head","body"}]}` |
//! | `GET /ledger` | the totals of each model |
//! | `POST /close-idle` | closes the connections that wait for a request |
//! | `POST /reset` | forgets everything |

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::answer::Shaped;
use super::request::Request;
use super::script::Script;
use super::state::Shared;

/// Answers a request to the control API; `None` if it is not one.
pub(crate) fn answer(shared: &Shared, request: &Request<'_>) -> Option<Shaped> {
    if request.path.starts_with(shared.options.prefix.as_str()) && !shared.options.prefix.is_empty() {
        return None;
    }
    let value = match (request.method, request.path) {
        ("POST", "/script") => match serde_json::from_slice::<Script>(&request.body) {
            Ok(script) => {
                shared.add_script(script);
                json!({})
            }
            Err(error) => return Some(reply(400, &json!({ "error": error.to_string() }))),
        },
        ("DELETE", "/scripts") => {
            shared.clear_scripts();
            json!({})
        }
        ("GET", "/received") => json!({
            "requests": shared.requests.load(Ordering::Relaxed),
            "connections": shared.connections.load(Ordering::Relaxed),
            "last": shared.received(),
        }),
        ("GET", "/ledger") => json!(shared.ledger()),
        ("POST", "/close-idle") => json!({ "closed": shared.shut_down(true) }),
        ("POST", "/reset") => {
            shared.reset();
            json!({})
        }
        ("POST", path) => {
            shared.open_gate(path.strip_prefix("/gates/")?);
            json!({})
        }
        _ => return None,
    };
    Some(reply(200, &value))
}

fn reply(status: u16, value: &Value) -> Shaped {
    Shaped {
        status,
        content_type: "application/json".to_owned(),
        parts: vec![value.to_string().into_bytes()],
        usage_part: None,
    }
}
