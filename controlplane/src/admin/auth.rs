//! Who may call what. Everything is denied that no line here allows.

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;

use super::{Api, ApiError};
use crate::keys;
use crate::registry::admin::{Admin, Role, Scope};

/// Lets a request through whose credential is an administrator's with the right to it.
pub(super) async fn authorize(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let admin = authenticate(&api, request.headers()).await?;
    if !allows(&admin, request.method()) {
        return Err(ApiError::Forbidden);
    }
    Ok(next.run(request).await)
}

async fn authenticate(api: &Api, headers: &HeaderMap) -> Result<Admin, ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return Err(ApiError::Unauthorized) };
    let (scheme, key) = value.as_bytes().split_at_checked(7).ok_or(ApiError::Unauthorized)?;
    // One answer for a wrong form, a data key and an unknown key: none of them is an administrator's.
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || !wire::key_format::check_admin(key) {
        return Err(ApiError::Unauthorized);
    }
    api.registry.admin_by_digest(keys::digest(key)).await?.ok_or(ApiError::Unauthorized)
}

fn allows(admin: &Admin, method: &Method) -> bool {
    // A role for a part of the installation has no routes yet.
    if admin.scope != Scope::Installation {
        return false;
    }
    match admin.role {
        Role::Owner | Role::Admin => true,
        Role::Finance | Role::Auditor => matches!(*method, Method::GET | Method::HEAD),
    }
}
