//! On whose behalf the registry is looked at and changed.
//!
//! A handle that acts for an administrator sees only what is in that administrator's scope: the condition is
//! part of every query, so that what is elsewhere is not there, under whatever name. A handle that acts for
//! no one is the control plane's own, and sees all.

use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Registry;
use super::role::Scope;

/// Who the control plane is where it changes something by itself.
pub(super) const ITSELF: &str = "liutong";

/// One call of an administrator's, or something that the control plane does by itself.
#[derive(Clone, Debug)]
pub struct Act {
    /// The administrator's id.
    pub by: String,
    /// The ids of the organization and the team that the administrator is limited to.
    pub home: (Option<String>, Option<String>),
    /// The operation's id, such as `team.create`.
    pub action: &'static str,
    /// What may be seen and changed.
    pub scope: Scope,
    /// Everything is checked, nothing is changed.
    pub dry_run: bool,
    /// The entity tag that what is changed must have now.
    pub if_match: Option<String>,
    /// Under which name the answer is kept, so that the same call makes nothing twice.
    pub idempotency: Option<Idempotency>,
}

/// How a call is known again. What clients send is not kept, only its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Of the `Idempotency-Key`.
    pub key: [u8; 32],
    /// Of all of the request that matters.
    pub request: [u8; 32],
}

impl Act {
    /// Something that the control plane does by itself.
    #[must_use]
    pub fn itself(action: &'static str) -> Self {
        Self {
            by: ITSELF.to_owned(),
            home: (None, None),
            action,
            scope: Scope::Installation,
            dry_run: false,
            if_match: None,
            idempotency: None,
        }
    }

    /// Whether it is an administrator's.
    pub(super) fn is_call(&self) -> bool {
        self.by != ITSELF
    }
}

/// What an administrator changes.
pub(super) trait Subject: Serialize {
    /// Its public id.
    fn subject(&self) -> &str;

    /// The ids of the organization and the team that it belongs to, where it does.
    fn owner(&self) -> (Option<&str>, Option<&str>);
}

impl Registry {
    /// The registry as this call may see and change it.
    #[must_use]
    pub fn acting(&self, act: Act) -> Self {
        Self { act: Some(Arc::new(act)), ..self.clone() }
    }

    /// Whether changes are only tried.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.act.as_ref().is_some_and(|act| act.dry_run)
    }

    /// What may be seen and changed.
    pub(super) fn scope(&self) -> Scope {
        self.act.as_ref().map_or(Scope::Installation, |act| act.scope)
    }
}

/// The entity tag of what the admin API shows: 128 bits of its SHA-256, in quotes (RFC 9110 §8.8.3).
#[must_use]
pub fn etag(shown: &impl Serialize) -> String {
    // What is shown is made of strings and numbers, which can always be written.
    let text = serde_json::to_vec(shown).unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(&text).into();
    format!("\"{}\"", digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Whether an `If-Match` allows this tag: `*`, or a list of tags that has it. A weak tag never matches.
pub(super) fn matches(if_match: &str, tag: &str) -> bool {
    if_match.trim() == "*" || if_match.split(',').any(|one| one.trim() == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_matches_itself_in_any_list_and_the_star() {
        let tag = etag(&"x");
        assert_eq!(tag.len(), 34);
        for one in [tag.clone(), format!("\"a\" , {tag}"), "*".to_owned(), format!(" {tag} ")] {
            assert!(matches(&one, &tag), "{one}");
        }
        for one in [etag(&"y"), format!("W/{tag}"), String::new(), tag.trim_matches('"').to_owned()] {
            assert!(!matches(&one, &tag), "{one}");
        }
    }
}
