//! The admin API: everything under `/admin/v1` on a listener of its own, for administrators' credentials
//! alone.
//!
//! Every route denies unless `auth` allows, also those that do not exist; `/healthz` and `/readyz` are
//! outside and say one word. Errors are RFC 9457 problems. A secret leaves in the answer that makes it, and
//! in no other.

/// Who may call what.
mod auth;
/// Organizations, teams and applications.
mod entities;
/// Bodies, parameters, and what both have in common.
mod extract;
/// Keys.
mod keys;
/// Aliases and deployments.
mod models;
/// What the client is told when something fails.
mod problem;
/// Health, and the data planes.
mod system;
/// Reports and single events.
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::request_id::RequestIds;

use self::problem::ApiError;
use crate::ingest::store::UsageStore;
use crate::publish::Hub;
use crate::registry::Registry;

/// The longest body.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the routes work with.
#[derive(Clone)]
pub struct Api {
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    store: UsageStore,
    request_ids: RequestIds,
}

impl Api {
    /// The API over these.
    #[must_use]
    pub fn new(registry: Arc<Registry>, hub: Arc<Hub>, store: UsageStore) -> Self {
        let request_ids = RequestIds::new(&registry.settings().request_id_key);
        Self { registry, hub, store, request_ids }
    }

    /// Serves until it is told to stop, and lets what has begun end.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned()).await
    }

    fn router(self) -> Router {
        let authorize = from_fn_with_state(self.clone(), auth::authorize);
        let guarded = Router::new()
            .route("/organizations", get(entities::organizations).post(entities::create_organization))
            .route("/organizations/{id}", get(entities::organization).patch(entities::update_organization))
            .route("/teams", get(entities::teams).post(entities::create_team))
            .route("/teams/{id}", get(entities::team).patch(entities::update_team))
            .route("/applications", get(entities::applications).post(entities::create_application))
            .route("/applications/{id}", get(entities::application).patch(entities::update_application))
            .route("/keys", get(keys::list).post(keys::create))
            .route("/keys/{id}", get(keys::one).patch(keys::update))
            .route("/keys/{id}/revoke", post(keys::revoke))
            .route("/models", get(models::list))
            .route("/models/{*alias}", get(models::one).put(models::set).delete(models::remove))
            .route("/usage", get(usage::report))
            .route("/requests/{id}", get(usage::request))
            .route("/nodes", get(system::nodes))
            .method_not_allowed_fallback(problem::method_not_allowed)
            .fallback(problem::not_found)
            .layer(authorize.clone());
        Router::new()
            .nest("/admin/v1", guarded)
            // The one path below `/admin/v1` that the nested fallback does not get.
            .route("/admin/v1/", any(problem::not_found).layer(authorize))
            .route("/healthz", get(system::healthz))
            .route("/readyz", get(system::readyz))
            .fallback(problem::not_found)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self)
    }
}

#[cfg(test)]
mod tests;
