//! What administrators may do, and for which part of the installation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an administrator may do.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Owner,
    /// Everything but administrators and erasure.
    Admin,
    /// Reads usage and what it is billed to.
    Finance,
    /// Reads everything but secrets, which no one reads.
    Auditor,
}

impl Role {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Owner, "owner"),
        (Self::Admin, "admin"),
        (Self::Finance, "finance"),
        (Self::Auditor, "auditor"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The role of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.1 == name).map(|one| one.0)
    }
}

/// For which part a role holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Installation,
    /// One organization.
    Organization(i64),
    /// One team.
    Team(i64),
}

impl Scope {
    /// The row of the organization that it is limited to.
    pub(super) fn organization(self) -> Option<i64> {
        match self {
            Self::Organization(row) => Some(row),
            Self::Installation | Self::Team(_) => None,
        }
    }

    /// The row of the team that it is limited to.
    pub(super) fn team(self) -> Option<i64> {
        match self {
            Self::Team(row) => Some(row),
            Self::Installation | Self::Organization(_) => None,
        }
    }
}
