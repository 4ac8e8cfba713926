//! The admin API: everything under `/admin/v1` on a listener of its own, for administrators' credentials
//! alone.
//!
//! `table` is the list of all routes; a route that is not in it does not exist, and one that names no role
//! lets nobody in. `/healthz` and `/readyz` are outside and say one word, `/metrics` says numbers that name
//! no one. Errors are RFC 9457 problems. A secret leaves in the answer that makes it, and in no other.

/// Every route, and who may call it.
mod table;
/// What a route is, and how a call is served.
mod route;
/// Whose credential a request carries.
mod auth;
/// Slowing those who try credentials.
mod throttle;
/// Parameters, bodies and lists.
mod input;
/// Legal holds, erasure, and what is stored.
mod privacy;
/// What the client is told when something fails.
mod problem;
/// Organizations, teams and applications.
mod entities;
/// Keys.
mod keys;
/// When they were used.
mod key_uses;
/// Ending keys, and data planes.
mod revocation;
/// Aliases and deployments.
mod models;
/// Administrators.
mod administrators;
/// Who changed what.
mod audit;
/// Health, and the data planes.
mod system;
/// The form that OpenAI's SDKs speak.
mod openai;
/// Reports and single events.
mod usage;
/// Whether every usage event is accounted for.
mod verify;
/// The routes, described for programs.
mod openapi;
/// Counters, for whoever scrapes them.
mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::routing::{MethodFilter, get, on};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::request_id::RequestIds;

#[cfg(test)]
pub(crate) use self::openapi::document;
use self::problem::ApiError;
use self::throttle::Throttle;
use crate::accounts::Accounts;
use crate::ingest::Ingest;
use crate::ingest::store::UsageStore;
use crate::privacy::Privacy;
use crate::publish::Hub;
use crate::registry::Registry;

/// What all paths of the API begin with.
const PREFIX: &str = "/admin/v1";
/// And what those of OpenAI's form do.
const OPENAI_PREFIX: &str = "/v1/organization";
/// The longest body.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the routes work with.
#[derive(Clone)]
pub struct Api {
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    store: UsageStore,
    ingest: Arc<Ingest>,
    accounts: Arc<Accounts>,
    request_ids: RequestIds,
    privacy: Arc<Privacy>,
    backup_keep_days: u32,
    throttle: Arc<Throttle>,
}

impl Api {
    /// The API over these.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        hub: Arc<Hub>,
        (ingest, accounts): (Arc<Ingest>, Arc<Accounts>),
        (privacy, backup_keep_days): (Arc<Privacy>, u32),
    ) -> Self {
        let request_ids = RequestIds::new(&registry.settings().request_id_key);
        let store = ingest.usage().clone();
        let throttle = Arc::default();
        Self { registry, hub, store, ingest, accounts, request_ids, privacy, backup_keep_days, throttle }
    }

    /// Serves until it is told to stop, and lets what has begun end.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned()).await
    }

    fn router(self) -> Router {
        let mut router = Router::new();
        for route in table::routes().into_iter().map(Arc::new) {
            let method =
                MethodFilter::try_from(route.method.clone()).expect("a route's method is a usual one");
            let path = route.full_path();
            let serve = move |State(api): State<Self>, path: PathNames, request: Request| {
                route.clone().serve(api, path, request)
            };
            router = router.route(&path, on(method, serve));
        }
        router
            .method_not_allowed_fallback(problem::method_not_allowed)
            .route("/healthz", get(system::healthz))
            .route("/readyz", get(system::readyz))
            .route("/metrics", get(metrics::metrics))
            .fallback(problem::not_found)
            .with_state(self)
    }
}

type PathNames = Result<RawPathParams, RawPathParamsRejection>;

#[cfg(test)]
mod tests;
