//! Routes from functions. A function's types are the parameters, the body and the answer of its route.

use std::any::TypeId;
use std::future::Future;

use axum::body::Bytes;
use axum::http::header::ETAG;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Answer, Call, Reply, Route, Surface, Who};
use crate::admin::input::{self, Nothing, Params};

/// What is read of a call: its parameters, or its body.
pub(in crate::admin) trait Read: DeserializeOwned + JsonSchema {}

impl<T: DeserializeOwned + JsonSchema> Read for T {}

/// What is answered.
pub(in crate::admin) trait Told: Serialize + JsonSchema + 'static {}

impl<T: Serialize + JsonSchema + 'static> Told for T {}

/// A call that is being served.
pub(in crate::admin) trait Serving<T>: Future<Output = Answer<T>> + Send + 'static {}

impl<T, F: Future<Output = Answer<T>> + Send + 'static> Serving<T> for F {}

/// A route that changes nothing.
pub(in crate::admin) fn get<P: Read, T: Told, F: Serving<T>>(
    path: &'static str,
    id: &'static str,
    who: Who,
    run: impl Fn(Call, P) -> F + Send + Sync + 'static,
) -> Route {
    let run = move |call, params, _: Nothing| run(call, params);
    Route { body: None, ..route(Method::GET, StatusCode::OK, (path, id, who), run) }
}

/// A route that makes something.
pub(in crate::admin) fn post<P: Read, B: Read, T: Told, F: Serving<T>>(
    path: &'static str,
    id: &'static str,
    who: Who,
    run: impl Fn(Call, P, B) -> F + Send + Sync + 'static,
) -> Route {
    route(Method::POST, StatusCode::CREATED, (path, id, who), run)
}

/// A route that does something to what is there.
pub(in crate::admin) fn act<P: Read, B: Read, T: Told, F: Serving<T>>(
    path: &'static str,
    id: &'static str,
    who: Who,
    run: impl Fn(Call, P, B) -> F + Send + Sync + 'static,
) -> Route {
    route(Method::POST, StatusCode::OK, (path, id, who), run)
}

/// A route that changes members of what is there.
pub(in crate::admin) fn patch<P: Read, B: Read, T: Told, F: Serving<T>>(
    path: &'static str,
    id: &'static str,
    who: Who,
    run: impl Fn(Call, P, B) -> F + Send + Sync + 'static,
) -> Route {
    route(Method::PATCH, StatusCode::OK, (path, id, who), run)
}

/// A route that sets all of something, and makes it where it is not there.
pub(in crate::admin) fn put<P: Read, B: Read, T: Told, F: Serving<T>>(
    path: &'static str,
    id: &'static str,
    who: Who,
    run: impl Fn(Call, P, B) -> F + Send + Sync + 'static,
) -> Route {
    route(Method::PUT, StatusCode::OK, (path, id, who), run)
}

/// A route that removes something.
pub(in crate::admin) fn delete<P: Read, T: Told, F: Serving<T>>(
    path: &'static str,
    id: &'static str,
    who: Who,
    run: impl Fn(Call, P) -> F + Send + Sync + 'static,
) -> Route {
    let run = move |call, params, _: Nothing| run(call, params);
    Route { body: None, ..route(Method::DELETE, StatusCode::OK, (path, id, who), run) }
}

fn route<P: Read, B: Read, T: Told, F: Serving<T>>(
    method: Method,
    status: StatusCode,
    (path, id, who): (&'static str, &'static str, Who),
    run: impl Fn(Call, P, B) -> F + Send + Sync + 'static,
) -> Route {
    let has_answer = TypeId::of::<T>() != TypeId::of::<()>();
    let status = if has_answer { status } else { StatusCode::NO_CONTENT };
    let run = move |call, params: Params, body: Bytes| match params
        .read()
        .and_then(|params| Ok((params, input::body(&body)?)))
    {
        Ok((params, body)) => {
            let answer = run(call, params, body);
            async move { Ok(respond(status, answer.await?)) }.boxed()
        }
        Err(error) => std::future::ready(Err(error)).boxed(),
    };
    Route {
        surface: Surface::Native,
        method,
        path,
        id,
        summary: "",
        who,
        status,
        params: SchemaGenerator::subschema_for::<P>,
        body: Some(SchemaGenerator::subschema_for::<B>),
        answer: has_answer.then_some(SchemaGenerator::subschema_for::<T>),
        run: Box::new(run),
    }
}

fn respond<T: Serialize>(status: StatusCode, reply: Reply<T>) -> Response {
    if status == StatusCode::NO_CONTENT {
        return status.into_response();
    }
    let mut response = (status, axum::Json(reply.value)).into_response();
    if let Some(etag) = reply.etag.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}
