//! A route of the admin API: who may call it, what goes in, what comes out, and how a call is served.
//!
//! A route is made from its function, whose types are the parameters, the body and the answer; the document
//! (`openapi`) describes those types. So neither the router nor the document can differ from the code.

/// Routes from functions.
pub(super) mod make;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use http_body_util::LengthLimitError;
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::input::{self, Params};
use super::{Api, ApiError, BODY_BYTES_MAX, OPENAI_PREFIX, PREFIX, auth};
use crate::registry::act::{Act, Idempotency, etag};
use crate::registry::admin::Admin;
use crate::registry::role::{Role, Scope};
use crate::registry::{Registry, RegistryError};

/// The parameter of every change that lets it be tried.
pub(super) const DRY_RUN: &str = "dry_run";
/// Says in an answer that nothing was changed.
const DRY_RUN_HEADER: &str = "dry-run";
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";
const ORGANIZATION: &str = "openai-organization";
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Says in an answer that it was given before.
const REPLAYED_HEADER: &str = "idempotency-replayed";

/// The narrowest scope whose administrators may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Installation,
    Organization,
    Team,
}

impl Reach {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Installation => "installation",
            Self::Organization => "organization",
            Self::Team => "team",
        }
    }

    fn of(scope: Scope) -> Self {
        match scope {
            Scope::Installation => Self::Installation,
            Scope::Organization(_) => Self::Organization,
            Scope::Team(_) => Self::Team,
        }
    }
}

/// A call, for the function of its route.
pub(super) struct Call {
    pub(super) api: Api,
    /// The registry as the caller may see and change it.
    pub(super) registry: Registry,
    pub(super) admin: Admin,
    /// What the path names, in its order.
    path: Vec<String>,
    /// What the header `OpenAI-Organization` names.
    pub(super) organization: Option<String>,
}

impl Call {
    /// What the path names first.
    pub(super) fn name(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }

    /// What it names within that.
    pub(super) fn second_name(&self) -> &str {
        self.path.get(1).map_or("", String::as_str)
    }
}

/// What a function answers.
pub(super) struct Reply<T> {
    value: T,
    etag: Option<String>,
}

impl<T> From<T> for Reply<T> {
    fn from(value: T) -> Self {
        Self { value, etag: None }
    }
}

impl<T: Serialize> Reply<T> {
    /// Answers with one thing, under its entity tag.
    pub(super) fn one(value: T) -> Self {
        let etag = Some(etag(&value));
        Self { value, etag }
    }

    /// Answers with one thing, under the entity tag of that part of it which can be changed.
    pub(super) fn tagged(value: T, etag: String) -> Self {
        Self { value, etag: Some(etag) }
    }
}

pub(super) type Answer<T> = Result<Reply<T>, ApiError>;
/// Writes a type's schema.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;
type Run = dyn Fn(Call, Params, Bytes) -> BoxFuture<'static, Result<Response, ApiError>> + Send + Sync;

/// Who may call a route. Nobody may who is not named.
#[derive(Clone, Copy)]
pub(super) struct Who {
    pub(super) roles: &'static [Role],
    pub(super) reach: Reach,
}

impl Who {
    /// Administrators of the installation in these roles.
    pub(super) const fn of(roles: &'static [Role]) -> Self {
        Self { roles, reach: Reach::Installation }
    }

    /// Also those of an organization, for what is theirs.
    pub(super) const fn organization(self) -> Self {
        Self { reach: Reach::Organization, ..self }
    }

    /// Also those of an organization or a team, likewise.
    pub(super) const fn team(self) -> Self {
        Self { reach: Reach::Team, ..self }
    }

    fn has(self, admin: &Admin) -> bool {
        self.roles.contains(&admin.role) && Reach::of(admin.scope) <= self.reach
    }
}

/// In which form errors are told, and below which path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// Ours: problems.
    Native,
    /// That of OpenAI's organization API.
    OpenAi,
}

/// A route.
pub(super) struct Route {
    pub(super) surface: Surface,
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) who: Who,
    pub(super) status: StatusCode,
    pub(super) params: SchemaOf,
    pub(super) body: Option<SchemaOf>,
    pub(super) answer: Option<SchemaOf>,
    run: Box<Run>,
}

impl Route {
    /// What it does, for the document.
    pub(super) fn says(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    /// Stands below OpenAI's path, and tells errors in its form.
    pub(super) fn into_openai(self) -> Self {
        Self { surface: Surface::OpenAi, ..self }
    }

    /// The whole path, as the router has it.
    pub(super) fn full_path(&self) -> String {
        match self.surface {
            Surface::Native => format!("{PREFIX}{}", self.path),
            Surface::OpenAi => format!("{OPENAI_PREFIX}{}", self.path),
        }
    }

    /// Whether it changes something.
    pub(super) fn is_change(&self) -> bool {
        self.method != Method::GET
    }

    /// Whether it takes `If-Match`: where it changes one thing. In OpenAI's form nothing has an entity tag.
    pub(super) fn is_conditional(&self) -> bool {
        self.surface == Surface::Native && matches!(self.method, Method::PATCH | Method::PUT | Method::DELETE)
    }

    /// Serves a call. The rest of the admin API is a detail of one of these lines.
    pub(super) async fn serve(
        self: Arc<Self>,
        api: Api,
        path: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Response {
        match self.answer(api, path, request).await {
            Ok(response) => response,
            Err(error) if self.surface == Surface::OpenAi => error.into_openai(),
            Err(error) => error.into_response(),
        }
    }

    async fn answer(
        &self,
        api: Api,
        path: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Response, ApiError> {
        let (head, body) = request.into_parts();
        let admin = auth::authenticate(&api, &head.headers).await?;
        if !self.who.has(&admin) {
            let act = self.act(&admin, &mut Params::parse("")?, &HeaderMap::new())?;
            let about = names(path)?.into_iter().next().unwrap_or_default();
            self.refused(&api.registry.acting(act), &ApiError::Forbidden, &about).await;
            return Err(ApiError::Forbidden);
        }
        let mut params = Params::parse(head.uri.query().unwrap_or_default())?;
        let body = if self.is_change() { read(body).await? } else { Bytes::new() };
        let mut act = self.act(&admin, &mut params, &head.headers)?;
        act.idempotency = self.idempotency(&head, &body)?;
        let organization = self.organization(&head.headers)?;
        if let Some(wanted) = &organization {
            act.scope = api.registry.acting(act.clone()).scope_within(wanted).await?;
        }
        let registry = api.registry.acting(act);
        let call = Call { registry: registry.clone(), api, admin, path: names(path)?, organization };
        let about = call.name().to_owned();
        match (self.run)(call, params, body).await {
            Ok(mut response) => {
                if registry.is_dry() {
                    response.headers_mut().insert(DRY_RUN_HEADER, HeaderValue::from_static("true"));
                }
                Ok(response)
            }
            Err(ApiError::Registry(RegistryError::Replayed { answer })) => Ok(self.replayed(answer)),
            Err(error) => {
                self.refused(&registry, &error, &about).await;
                Err(error)
            }
        }
    }

    /// The answer that the same call got before.
    fn replayed(&self, answer: String) -> Response {
        let headers = [("content-type", "application/json"), (REPLAYED_HEADER, "true")];
        (self.status, headers, answer).into_response()
    }

    /// Records that a change was refused: not allowed, or in conflict with what is there.
    async fn refused(&self, registry: &Registry, error: &ApiError, about: &str) {
        let status = error.status();
        let is_told = matches!(
            status,
            StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
                | StatusCode::CONFLICT
                | StatusCode::PRECONDITION_FAILED
        );
        if !self.is_change() || registry.is_dry() || !is_told {
            return;
        }
        if let Err(error) = registry.record_refusal(status.as_u16(), about).await {
            tracing::error!(%error, "a refused call is not in the audit trail");
        }
    }

    /// The organization that a call in OpenAI's form names: what is elsewhere is not there for it.
    fn organization(&self, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
        let named = headers.get(ORGANIZATION).filter(|_| self.surface == Surface::OpenAi);
        let text = |value: &HeaderValue| match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(ApiError::Invalid("OpenAI-Organization: an id or a name, in UTF-8".to_owned())),
        };
        named.map(text).transpose()
    }

    /// How a call that makes something is known again, where its client asks for that.
    fn idempotency(&self, head: &Parts, body: &[u8]) -> Result<Option<Idempotency>, ApiError> {
        let Some(key) = head.headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        if self.surface == Surface::OpenAi && self.is_change() {
            // What is kept is an answer in our own form; to take no notice would make a thing twice.
            let instead = format!("calls below {OPENAI_PREFIX} do not take it; those below {PREFIX} do");
            return Err(ApiError::Invalid(format!("Idempotency-Key: {instead}")));
        }
        if !self.is_making() {
            return Ok(None);
        }
        let key = key.as_bytes();
        if !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
            let allowed = format!("1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters of ASCII");
            return Err(ApiError::Invalid(format!("Idempotency-Key: {allowed}")));
        }
        let mut request = Sha256::new();
        for part in [head.method.as_str(), head.uri.path(), head.uri.query().unwrap_or_default()] {
            request.update(part);
            request.update([0]);
        }
        let request = request.chain_update(body).finalize().into();
        Ok(Some(Idempotency { key: Sha256::digest(key).into(), request }))
    }

    /// Whether it makes something: what it answers once, it does not do again.
    pub(super) fn is_making(&self) -> bool {
        self.method == Method::POST && self.status == StatusCode::CREATED
    }

    fn act(&self, admin: &Admin, params: &mut Params, headers: &HeaderMap) -> Result<Act, ApiError> {
        let if_match = headers.get(IF_MATCH).map(|value| {
            let text = value.to_str().ok().filter(|_| self.is_conditional());
            let refused = || ApiError::Invalid("If-Match: this route does not take it".to_owned());
            text.map(str::to_owned).ok_or_else(refused)
        });
        Ok(Act {
            by: admin.id.clone(),
            home: (admin.organization_id.clone(), admin.team_id.clone()),
            action: self.id,
            scope: admin.scope,
            dry_run: self.is_change() && params.take_flag(DRY_RUN)?,
            if_match: if_match.transpose()?,
            idempotency: None,
        })
    }
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    let read = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    read.map_err(|error| {
        if error.into_inner().is::<LengthLimitError>() {
            ApiError::TooLarge
        } else {
            ApiError::Invalid("the body can't be read".to_owned())
        }
    })
}

fn names(path: Result<RawPathParams, RawPathParamsRejection>) -> Result<Vec<String>, ApiError> {
    match path {
        Ok(path) => {
            let named =
                path.iter().map(|(_, value)| input::check_text("path", value).map(|()| value.to_owned()));
            named.collect()
        }
        Err(_) => Err(ApiError::Invalid("path: percent-encoded UTF-8".to_owned())),
    }
}
