//! Whose credential a request carries.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use super::{Api, ApiError};
use crate::keys;
use crate::registry::admin::Admin;

/// The administrator whose credential it is.
pub(super) async fn authenticate(api: &Api, headers: &HeaderMap) -> Result<Admin, ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return Err(ApiError::Unauthorized) };
    let (scheme, key) = value.as_bytes().split_at_checked(7).ok_or(ApiError::Unauthorized)?;
    // One answer for a wrong form, a data key and an unknown key: none of them is an administrator's.
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || !wire::key_format::check_admin(key) {
        return Err(ApiError::Unauthorized);
    }
    api.registry.admin_by_digest(keys::digest(key)).await?.ok_or(ApiError::Unauthorized)
}
