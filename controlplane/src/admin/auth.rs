//! Whose credential a request carries.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};

use super::{Api, ApiError};
use crate::keys;
use crate::registry::admin::Admin;

/// The administrator whose credential it is. One that holds is found before anything waits.
pub(super) async fn authenticate(api: &Api, headers: &HeaderMap) -> Result<Admin, ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let found = match (given.next(), given.next()) {
        // Nothing was tried.
        (None, _) => return Err(ApiError::Unauthorized),
        (Some(value), None) => find(api, value).await?,
        (Some(_), Some(_)) => None,
    };
    match found {
        Some(admin) => Ok(admin),
        None => {
            Err(api.throttle.failed().await.map_or(ApiError::TooManyFailures, |()| ApiError::Unauthorized))
        }
    }
}

/// None for a wrong form, a data key and an unknown key alike: none of them is an administrator's.
async fn find(api: &Api, value: &HeaderValue) -> Result<Option<Admin>, ApiError> {
    let Some((scheme, key)) = value.as_bytes().split_at_checked(7) else { return Ok(None) };
    // What fails its checksum costs no look-up.
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || !wire::key_format::check_admin(key) {
        return Ok(None);
    }
    Ok(api.registry.admin_by_digest(keys::digest(key)).await?)
}
