//! The first words of a connection: who a data plane is, or who it wants to be known as.

use crate::codec::{DecodeError, Reader, Write};
use crate::id::{BootId, Generation, NodeId, RegistryId};

/// The longest token.
const TOKEN_BYTES_MAX: usize = 64;
/// The longest public key: P-256, uncompressed.
const PUBLIC_KEY_BYTES_MAX: usize = 65;
/// The longest certificate.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Snapshot, deltas, revocations.
    Sync = 1,
    /// Batches of usage events.
    Ship = 2,
    /// Where usage events are, and what ClickHouse lost.
    Account = 3,
}

/// A data plane's first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub role: Role,
    /// The node.
    pub node: NodeId,
    /// The running process.
    pub boot: BootId,
    /// The registry whose tables it holds; 0 where it holds none.
    pub registry: RegistryId,
    /// The generation of those tables.
    pub generation: Generation,
}

/// Asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enroll {
    /// The node.
    pub node: NodeId,
    /// What `liutong node enroll` printed, without the authority's fingerprint; empty to renew.
    pub token: Vec<u8>,
    /// The P-256 key that the certificate is to be for, as an uncompressed point.
    pub public_key: Vec<u8>,
}

/// Certificates in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// The node's.
    pub node: Vec<u8>,
    /// The authority's.
    pub authority: Vec<u8>,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.role as u8);
        out.put_u64(self.node.0);
        out.put_u64(self.boot.0);
        out.put_u64(self.registry.0);
        out.put_u64(self.generation.0);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            role: match r.u8("role")? {
                1 => Role::Sync,
                2 => Role::Ship,
                3 => Role::Account,
                value => return Err(DecodeError::Value { field: "role", value: value.into() }),
            },
            node: NodeId(r.u64("node")?),
            boot: BootId(r.u64("boot")?),
            registry: RegistryId(r.u64("registry")?),
            generation: Generation(r.u64("generation")?),
        })
    }
}

impl Enroll {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.node.0);
        out.put_bytes(&self.token);
        out.put_bytes(&self.public_key);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node: NodeId(r.u64("node")?),
            token: r.bytes("token", TOKEN_BYTES_MAX)?.to_vec(),
            public_key: r.bytes("public_key", PUBLIC_KEY_BYTES_MAX)?.to_vec(),
        })
    }
}

impl Certificates {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.node);
        out.put_bytes(&self.authority);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node: r.bytes("node", CERTIFICATE_BYTES_MAX)?.to_vec(),
            authority: r.bytes("authority", CERTIFICATE_BYTES_MAX)?.to_vec(),
        })
    }
}
