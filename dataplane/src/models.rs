//! `GET /v1/models` and `GET /v1/models/{id}`: the aliases that the caller may use, in OpenAI's shape.

use std::rc::Rc;
use std::sync::Arc;

use crate::auth::Admitted;
use crate::client::{Client, Gone, Received};
use crate::error::{Failure, RequestError};
use crate::exchange::Exchange;
use crate::http::fields::Persist;
use crate::http::framing::BodyFraming;
use crate::http::head_write;
use crate::json::text::escape;
use crate::route;
use crate::serve::append_closing_lines;
use crate::tables::{AliasRoute, Caller, Routes};
use crate::worker::Worker;

/// Answers with one model, or with all.
pub async fn answer(
    client: &mut Client,
    received: &Received,
    admitted: &Admitted,
    model: Option<&str>,
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
) -> Result<Persist, Failure> {
    let end = client.read_body(received, |_| Ok(())).await?.end;
    let mut body = Vec::new();
    match model {
        None => append_all(&mut body, &worker.routes(), &admitted.caller),
        Some(name) => {
            let routes = worker.routes();
            let (alias, allowed) = route::alias(&routes, name, &admitted.caller);
            let alias = alias.filter(|_| allowed).ok_or(RequestError::Model)?;
            exchange.set_alias(alias.id);
            append_model(&mut body, alias);
        }
    }
    client.release(end);
    let persist = if worker.is_draining() { Persist::Close } else { received.head.persist };
    let mut out = worker.buffers.take();
    head_write::status_line(&mut out, 200);
    head_write::header(&mut out, "content-type", b"application/json");
    head_write::framing(&mut out, BodyFraming::Length(body.len() as u64));
    append_closing_lines(&mut out, exchange.request_id(), received.head.http_1_0, persist);
    out.extend_from_slice(&body);
    exchange.settle(200);
    let len = out.len();
    let out = client.write(out, 0..len).await.map_err(|Gone| Failure::ClientLeft)?;
    worker.buffers.give(out);
    Ok(persist)
}

fn append_all(out: &mut Vec<u8>, routes: &Routes, caller: &Caller) {
    let mut aliases: Vec<&Arc<AliasRoute>> =
        routes.aliases.values().filter(|alias| caller.allow.allows(alias.id)).collect();
    aliases.sort_by(|a, b| a.name.cmp(&b.name));
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for (index, alias) in aliases.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        append_model(out, alias);
    }
    out.extend_from_slice(b"]}");
}

fn append_model(out: &mut Vec<u8>, alias: &AliasRoute) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(escape(&alias.name).as_bytes());
    out.extend_from_slice(b"\",\"object\":\"model\",\"created\":");
    head_write::decimal(out, alias.created_s);
    out.extend_from_slice(b",\"owned_by\":\"liutong\"}");
}
