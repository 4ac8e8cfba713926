//! A client's connection from its first request to its last; `serve` is the whole path of a request.

use std::rc::Rc;

use wire::event::Endpoint;

use crate::auth::{self, Admitted};
use crate::body::rewrite::{Splice, UsageAsk, plan};
use crate::body::scan::{RequestKind, RequestScan, ScannedRequest};
use crate::client::{Body, Client, Received};
use crate::error::{Failure, Overload, RequestError};
use crate::exchange::{CLIENT_LEFT, Exchange};
use crate::forward;
use crate::http::fields::Persist;
use crate::http::head_write;
use crate::log::{self, Entry};
use crate::meter::stream::StreamMode;
use crate::metrics;
use crate::models;
use crate::prices::{Feature, without};
use crate::route::{self, Asked};
use crate::runtime::{self, Panicked};
use crate::sys;
use crate::tables::AliasRoute;
use crate::upstream::target::Upstream;
use crate::worker::Worker;

/// A request that is to be forwarded.
pub struct Request<'a> {
    /// Its head.
    pub received: &'a Received,
    /// Where its body is.
    pub body: Body,
    /// What the scan of the body found.
    pub scanned: ScannedRequest,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The alias, and what serves it.
    pub alias: std::sync::Arc<AliasRoute>,
}

impl Request<'_> {
    /// How the body goes to `upstream`, and what its answer's stream then has that the client did not ask
    /// for.
    pub fn for_upstream<'u>(&'u self, upstream: &'u Upstream) -> (Splice<'u>, StreamMode) {
        if without(Feature::Rewrite) {
            return (Splice::default(), StreamMode::Observe);
        }
        // An upstream without a name of its own for the model knows it by the alias.
        let named =
            !upstream.spec.upstream_model.is_empty() && upstream.spec.upstream_model != self.alias.name;
        let streamed = self.scanned.stream && self.endpoint != Endpoint::Embeddings;
        let asked = self.scanned.asks_usage();
        let continuous = upstream.spec.dialect.has_continuous_usage()
            && upstream.spec.on_disconnect == wire::table::OnDisconnect::Cancel
            && !self.scanned.asks_continuous();
        let (ask, mode) = match (streamed, asked, continuous) {
            (false, ..) | (true, true, false) => (UsageAsk::Leave, StreamMode::Observe),
            (true, false, false) => (UsageAsk::Include, StreamMode::Remove),
            (true, false, true) => (UsageAsk::IncludeContinuous, StreamMode::Cut),
            (true, true, true) => (UsageAsk::IncludeContinuous, StreamMode::CutMembers),
        };
        let model = match named {
            true => Some(&upstream.model_text),
            false if self.scanned.names_model() => None,
            false => Some(&self.alias.model_text),
        };
        (plan(&self.scanned, model, ask), mode)
    }
}

/// Serves a connection until it ends.
pub async fn connection(client: &mut Client) {
    let worker = client.worker().clone();
    while request(client, &worker).await == Persist::KeepAlive && !worker.is_draining() {}
    client.close().await;
}

/// Serves one request, whatever becomes of it.
async fn request(client: &mut Client, worker: &Rc<Worker>) -> Persist {
    let received = match client.read_head().await {
        Ok(Some(received)) => received,
        Ok(None) => return Persist::Close,
        Err(error) => return refuse(client, worker, error, None).await,
    };
    let (mut admitted, mut exchange) = match admit(client, &received, worker) {
        Ok(admitted) => admitted,
        Err(error) => return refuse(client, worker, error, Some(&received)).await,
    };
    let serving = runtime::catch(serve(client, &received, &mut admitted, worker, &mut exchange));
    let served =
        serving.await.unwrap_or_else(|Panicked| Err(panicked(client, &received, worker, &mut exchange)));
    match served {
        Ok(persist) => persist,
        Err(Failure::Refused(error)) => {
            let reply = error.reply();
            exchange.settle(reply.status);
            client.refuse(&reply, exchange.request_id(), Some(&received)).await
        }
        Err(Failure::ClientLeft) => match given_up(client, worker) {
            Some(error) if !exchange.is_settled() => {
                let reply = error.reply();
                exchange.settle(reply.status);
                client.refuse(&reply, exchange.request_id(), Some(&received)).await
            }
            _ => {
                exchange.settle(CLIENT_LEFT);
                client.cut();
                Persist::Close
            }
        },
        Err(Failure::Cut) => {
            client.cut();
            Persist::Close
        }
    }
}

/// Why what looks as if the client had left was given up while the client is there.
fn given_up(client: &Client, worker: &Worker) -> Option<RequestError> {
    if client.watch.is_revoked() {
        return Some(RequestError::BadKey);
    }
    worker.watches.has_ended().then_some(RequestError::Ending)
}

/// What served the exchange panicked: the client is told so, or, where an answer had begun, its connection
/// broken off.
fn panicked(client: &Client, received: &Received, worker: &Worker, exchange: &mut Exchange) -> Failure {
    log::log(&Entry::Panicked);
    metrics::add(&worker.counters.panics, 1);
    client.watch.ignore_client();
    if !client.is_answering() {
        return RequestError::Internal.into();
    }
    exchange.settle(RequestError::Internal.reply().status);
    if received.head.http_1_0 {
        // An orderly close would be the end of a whole answer.
        sys::reset_on_close(client.fd());
    }
    Failure::Cut
}

/// Accepts the key and opens the exchange: from here on there is a usage event.
fn admit(
    client: &mut Client,
    received: &Received,
    worker: &Rc<Worker>,
) -> Result<(Admitted, Exchange), RequestError> {
    let revision = worker.catch_up();
    let (known, tables, cache) = (client.known_digest(), &worker.tables, &worker.cache);
    let admitted = auth::admit(&received.head, client.input(), known, revision, tables, cache);
    let admitted = admitted.inspect_err(|error| {
        if *error == RequestError::BadKey {
            worker.note_refused_key(&received.head, client.input());
        }
    })?;
    client.key_accepted(admitted.digest);
    if worker.spool_full() {
        return Err(RequestError::Overloaded(Overload::Spool));
    }
    let exchange = Exchange::open(worker, &admitted, received.at)?;
    Ok((admitted, exchange))
}

/// Serves an admitted request. The rest of the data plane is a detail of one of these lines.
async fn serve(
    client: &mut Client,
    received: &Received,
    admitted: &mut Admitted,
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
) -> Result<Persist, Failure> {
    let asked = route::endpoint(received.head.method, received.head.path.of(client.input()))?;
    let (endpoint, model_in_path) = (asked.endpoint, decoded_model(asked)?);
    exchange.set_request(endpoint, false);
    if endpoint == Endpoint::Models {
        return models::answer(client, received, admitted, model_in_path.as_deref(), worker, exchange).await;
    }
    let (body, scanned) = read_body(client, received, endpoint, model_in_path.is_some()).await?;
    exchange.set_request(endpoint, scanned.stream);
    // The body may have taken a while: is the key still good?
    admitted.renew(worker.catch_up(), &worker.tables, &worker.cache)?;
    let alias = {
        let (in_body, routes) = (scanned.model(&client.input()[body.range.clone()]), worker.routes());
        let model = match (in_body, model_in_path.as_deref()) {
            (Some(in_body), Some(in_path)) if in_body != in_path => {
                return Err(RequestError::ModelMismatch.into());
            }
            (in_body, in_path) => in_body.or(in_path).unwrap_or_default(),
        };
        let (alias, allowed) = route::alias(&routes, model, &admitted.caller);
        if let Some(alias) = alias {
            exchange.set_alias(alias.id);
        }
        alias.filter(|_| allowed).ok_or(RequestError::Model)?.clone()
    };
    let request = Request { received, body, scanned, endpoint, alias };
    forward::exchange(client, &request, worker, exchange).await
}

/// Reads and scans the body.
async fn read_body(
    client: &mut Client,
    received: &Received,
    endpoint: Endpoint,
    model_in_path: bool,
) -> Result<(Body, ScannedRequest), Failure> {
    let streamable = endpoint != Endpoint::Embeddings;
    let kind = if streamable { RequestKind::Streamable } else { RequestKind::Whole };
    let mut scan = RequestScan::new(kind).with_model_in_path(model_in_path);
    let body = client.read_body(received, |piece| Ok(scan.feed(piece)?)).await?;
    let scanned = scan.finish(&client.input()[body.range.clone()])?;
    Ok((body, scanned))
}

fn decoded_model(asked: Asked<'_>) -> Result<Option<String>, RequestError> {
    asked.model.map(|encoded| route::decode_model(encoded).ok_or(RequestError::Model)).transpose()
}

/// Answers a request that was never admitted; its id leads to no usage event.
async fn refuse(
    client: &mut Client,
    worker: &Rc<Worker>,
    error: RequestError,
    received: Option<&Received>,
) -> Persist {
    metrics::add(&worker.counters.not_admitted, 1);
    if error == RequestError::BadKey {
        metrics::add(&worker.counters.keys_refused, 1);
    }
    let id = worker.refused_request_id();
    client.refuse(&error.reply(), &id, received).await
}

/// Appends the lines that every answer's head has: the request's id, and how the connection goes on.
pub fn append_closing_lines(out: &mut Vec<u8>, request_id: &[u8], http_1_0: bool, persist: Persist) {
    head_write::header(out, "x-request-id", request_id);
    match persist {
        Persist::Close => head_write::connection_close(out),
        Persist::KeepAlive if http_1_0 => head_write::connection_keep_alive(out),
        Persist::KeepAlive => {}
    }
    head_write::end(out);
}
