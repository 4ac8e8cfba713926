//! The table of routes: every route there is, who may call it, and for which part of the installation.
//!
//! The router, the OpenAPI document and the tests of who is let in are all made from it. What an
//! administrator of an organization or a team gets to see in a route that lets it in is decided in the
//! registry's queries, see `registry::act`.

use super::route::make::{act, delete, get, patch, post, put};
use super::route::{Route, Who};
use super::{
    administrators, audit, entities, key_uses, keys, models, openai, openapi, privacy, revocation, system,
    usage, verify,
};
use crate::registry::role::Role;

/// Who makes administrators.
const OWNERS: Who = Who::of(&[Role::Owner]);
/// Who changes everything else.
const MANAGERS: Who = Who::of(&[Role::Owner, Role::Admin]);
/// Who reads how the installation is set up.
const AUDITORS: Who = Who::of(&[Role::Owner, Role::Admin, Role::Auditor]);
/// Who reads usage, and whom it is billed to.
const READERS: Who = Who::of(&[Role::Owner, Role::Admin, Role::Finance, Role::Auditor]);

/// All routes: ours below `/admin/v1`, and those of OpenAI's form below `/v1/organization`.
pub(super) fn routes() -> Vec<Route> {
    let ours = [entities(), keys(), installation(), administrators(), reports()].into_iter().flatten();
    ours.chain(openai().into_iter().map(Route::into_openai)).collect()
}

fn entities() -> Vec<Route> {
    use entities::*;
    vec![
        get("/organizations", "organization.list", READERS.organization(), organizations)
            .says("Lists organizations"),
        post("/organizations", "organization.create", MANAGERS, create_organization)
            .says("Makes an organization"),
        get("/organizations/{organization}", "organization.show", READERS.organization(), organization)
            .says("Shows an organization"),
        patch("/organizations/{organization}", "organization.update", MANAGERS, update_organization)
            .says("Changes an organization"),
        get("/teams", "team.list", READERS.team(), teams).says("Lists teams"),
        post("/teams", "team.create", MANAGERS.organization(), create_team).says("Makes a team"),
        get("/teams/{team}", "team.show", READERS.team(), team).says("Shows a team"),
        patch("/teams/{team}", "team.update", MANAGERS.organization(), update_team).says("Changes a team"),
        act("/teams/{team}/archive", "team.archive", MANAGERS.organization(), archive_team)
            .says("Archives a team: its keys are revoked, and nothing is made in it any more"),
        get("/applications", "application.list", READERS.team(), applications).says("Lists applications"),
        post("/applications", "application.create", MANAGERS.team(), create_application)
            .says("Makes an application"),
        get("/applications/{application}", "application.show", READERS.team(), application)
            .says("Shows an application"),
        patch("/applications/{application}", "application.update", MANAGERS.team(), update_application)
            .says("Changes an application"),
        act(
            "/applications/{application}/archive",
            "application.archive",
            MANAGERS.team(),
            archive_application,
        )
        .says("Archives an application, likewise"),
    ]
}

fn keys() -> Vec<Route> {
    vec![
        get("/keys", "key.list", READERS.team(), keys::list).says("Lists keys"),
        post("/keys", "key.create", MANAGERS.team(), keys::create)
            .says("Makes a key; its secret is in this answer and in no other"),
        act("/keys/revoke", "key.revoke_many", MANAGERS.team(), revocation::revoke_many)
            .says("Revokes a list of keys, an application's, or a team's; the answer is the receipt"),
        get("/keys/uses", "key.list_uses", READERS.team(), key_uses::of_all)
            .says("Lists keys that are used though they are revoked or expired, the latest first"),
        get("/keys/{key}", "key.show", READERS.team(), keys::one).says("Shows a key"),
        patch("/keys/{key}", "key.update", MANAGERS.team(), keys::update).says("Changes a key"),
        get("/keys/{key}/uses", "key.uses", READERS.team(), key_uses::of_key)
            .says("Counts the uses of a revoked or expired key, by minute, the latest first"),
        act("/keys/{key}/revoke", "key.revoke", MANAGERS.team(), revocation::revoke)
            .says("Revokes a key; the answer is the receipt"),
        post("/keys/{key}/rotate", "key.rotate", MANAGERS.team(), revocation::rotate)
            .says("Gives a key a successor, whose secret is in this answer and in no other"),
    ]
}

fn installation() -> Vec<Route> {
    vec![
        get("/models", "model.list", AUDITORS, models::list).says("Lists aliases and their deployments"),
        get("/models/{*alias}", "model.show", AUDITORS, models::one).says("Shows an alias"),
        put("/models/{*alias}", "model.set", MANAGERS, models::set)
            .says("Sets an alias with all of its deployments"),
        delete("/models/{*alias}", "model.remove", MANAGERS, models::remove).says("Removes an alias"),
        get("/holds", "hold.list", AUDITORS, privacy::holds).says("Lists legal holds"),
        post("/holds", "hold.create", MANAGERS, privacy::hold).says(
            "Holds an organization, a team, an application or a key: it can't be erased, its usage stays",
        ),
        delete("/holds/{hold}", "hold.release", MANAGERS, privacy::release).says("Ends a legal hold"),
        get("/privacy/report", "privacy.report", AUDITORS, privacy::report)
            .says("Says what is stored where, and for how long"),
        get("/privacy/export", "privacy.export", AUDITORS, privacy::export)
            .says("Everything that is stored about a team or a key"),
        act("/privacy/erase", "privacy.erase", OWNERS, privacy::erase)
            .says("Erases a team or a key, for good"),
        get("/nodes", "node.list", AUDITORS, system::nodes).says("Lists data planes"),
        post("/nodes/enroll", "node.enroll", MANAGERS, revocation::enroll)
            .says("Makes a token for a data plane on another host, which is in this answer and in no other"),
        delete("/nodes/{node}", "node.remove", MANAGERS, revocation::remove_node)
            .says("Removes a data plane"),
    ]
}

fn administrators() -> Vec<Route> {
    use administrators::*;
    vec![
        get("/administrators", "administrator.list", AUDITORS.team(), list).says("Lists administrators"),
        post("/administrators", "administrator.create", OWNERS.team(), create)
            .says("Makes an administrator, whose credential is in this answer and in no other"),
        get("/administrators/me", "administrator.me", READERS.team(), me).says("Shows who is calling"),
        post("/administrators/me/rotate", "administrator.rotate_own", READERS.team(), rotate_own)
            .says("Gives the caller another credential"),
        get("/administrators/{administrator}", "administrator.show", AUDITORS.team(), one)
            .says("Shows an administrator"),
        patch("/administrators/{administrator}", "administrator.update", OWNERS.team(), update)
            .says("Changes an administrator"),
        post("/administrators/{administrator}/rotate", "administrator.rotate", OWNERS.team(), rotate)
            .says("Gives an administrator another credential"),
        act("/administrators/{administrator}/revoke", "administrator.revoke", OWNERS.team(), revoke)
            .says("Ends an administrator's credential, for good"),
    ]
}

fn reports() -> Vec<Route> {
    vec![
        get("/usage", "usage.report", READERS.team(), usage::report).says("Adds up usage"),
        get("/usage/verify", "usage.verify", READERS, verify::verify)
            .says("Accounts for every admitted exchange"),
        get("/requests/{request}", "request.show", READERS.team(), usage::request)
            .says("Shows the usage event behind an x-request-id"),
        get("/audit", "audit.list", AUDITORS.team(), audit::list).says("Lists who changed what"),
        get("/audit/verify", "audit.verify", AUDITORS, audit::verify)
            .says("Finds what was removed from the audit trail, or changed in it"),
        get("/audit/{record}", "audit.show", AUDITORS.team(), audit::one)
            .says("Shows a record of the audit trail"),
        get("/openapi.json", "openapi.show", READERS.team(), openapi::show).says("This document"),
    ]
}

fn openai() -> Vec<Route> {
    use openai::*;
    let mut routes = projects();
    routes.extend([
        get("/admin_api_keys", "admin_api_key.list", AUDITORS.team(), list_admin_keys)
            .says("Lists administrators"),
        act("/admin_api_keys", "admin_api_key.create", OWNERS.organization(), create_admin_key)
            .says("Makes an owner of the organization"),
        get("/admin_api_keys/{administrator}", "admin_api_key.show", AUDITORS.team(), show_admin_key)
            .says("Shows an administrator"),
        delete("/admin_api_keys/{administrator}", "admin_api_key.delete", OWNERS.team(), delete_admin_key)
            .says("Ends an administrator's credential, for good"),
        get("/usage/completions", "organization_usage.completions", READERS.team(), completions)
            .says("Adds up generated text by minute, hour or day"),
        get("/usage/embeddings", "organization_usage.embeddings", READERS.team(), embeddings)
            .says("Adds up embeddings by minute, hour or day"),
        get("/costs", "organization_costs.report", READERS.team(), costs)
            .says("Says what usage cost by day, where prices are known"),
        get("/audit_logs", "audit_log.list", AUDITORS.team(), audit_logs).says("Lists who changed what"),
    ]);
    routes
}

fn projects() -> Vec<Route> {
    use openai::*;
    let (project, account) = ("/projects/{team}", "/projects/{team}/service_accounts/{application}");
    let accounts = "/projects/{team}/service_accounts";
    let account_keys = "/projects/{team}/service_accounts/{application}/api_keys";
    let (keys, key) = ("/projects/{team}/api_keys", "/projects/{team}/api_keys/{key}");
    vec![
        get("/projects", "project.list", READERS.team(), list_projects).says("Lists teams"),
        act("/projects", "project.create", MANAGERS.organization(), create_project).says("Makes a team"),
        get(project, "project.show", READERS.team(), show_project).says("Shows a team"),
        act(project, "project.update", MANAGERS.organization(), update_project).says("Changes a team"),
        act("/projects/{team}/archive", "project.archive", MANAGERS.organization(), archive_project)
            .says("Archives a team: its keys are revoked, and nothing is made in it any more"),
        get(accounts, "service_account.list", READERS.team(), list_accounts).says("Lists applications"),
        act(accounts, "service_account.create", MANAGERS.team(), create_account)
            .says("Makes an application and its first key"),
        get(account, "service_account.show", READERS.team(), show_account).says("Shows an application"),
        act(account, "service_account.update", MANAGERS.team(), update_account)
            .says("Changes an application"),
        delete(account, "service_account.delete", MANAGERS.team(), delete_account)
            .says("Archives an application: its keys are revoked"),
        act(account_keys, "service_account.create_key", MANAGERS.team(), create_key).says("Makes a key"),
        get(keys, "project_api_key.list", READERS.team(), list_keys).says("Lists keys that are not revoked"),
        get(key, "project_api_key.show", READERS.team(), show_key).says("Shows a key"),
        delete(key, "project_api_key.delete", MANAGERS.team(), delete_key).says("Revokes a key"),
    ]
}
