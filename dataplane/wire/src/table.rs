//! What the data plane knows of the registry: keys, applications, aliases, deployments, settings; and changes
//! of them.
//!
//! A snapshot is a run of `Change`s that begins from nothing; a delta is a few of them. Each names a whole
//! entry, so that applying one twice is the same as once.
//!
//! ```text
//! change:  kind u8 | len u32 | fields, `len` bytes
//! ```
//!
//! A reader skips a kind that it does not know and ignores fields past those it knows.

use crate::codec::{DecodeError, Reader, Write};
use crate::id::{AliasId, ApplicationId, AttributionId, DeploymentId, KeyDigest, KeyId};

/// The longest text in any entry, in bytes.
pub const TEXT_BYTES_MAX: usize = 2048;
const LIST_MAX: usize = 65_536;

/// Which aliases may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allow {
    /// Every alias, also those made later.
    All,
    /// These, and no others. An empty list allows nothing.
    #[default]
    Nothing,
    /// These, and no others; sorted.
    Only(Vec<AliasId>),
}

impl Allow {
    /// Whether `alias` may be used.
    #[must_use]
    pub fn allows(&self, alias: AliasId) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Only(list) => list.binary_search(&alias).is_ok(),
        }
    }
}

/// A key, as far as checking it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// SHA-256 of the whole key.
    pub digest: KeyDigest,
    /// Its number.
    pub id: KeyId,
    /// Its application.
    pub application: ApplicationId,
    /// Who is billed.
    pub attribution: AttributionId,
    /// From when on it is refused, Unix time in milliseconds; 0 is never.
    pub not_after_ms: u64,
    /// Its own list; `None` inherits its application's.
    pub allow: Option<Allow>,
}

/// An application, as far as its keys inherit from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its number.
    pub id: ApplicationId,
    /// What its keys may use.
    pub allow: Allow,
}

/// A model name that clients send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Its number.
    pub id: AliasId,
    /// The name.
    pub name: String,
    /// When it was made, Unix time in seconds; `/v1/models` shows it.
    pub created_s: u64,
    /// What serves it.
    pub deployments: Vec<DeploymentId>,
}

/// How an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Dialect {
    /// OpenAI's own API, or one like it.
    #[default]
    Openai = 0,
    /// Azure OpenAI: `api-key`, and an `api-version` that is the deployment's.
    Azure = 1,
    /// vLLM.
    Vllm = 2,
    /// SGLang.
    Sglang = 3,
    /// llama.cpp's server.
    Llamacpp = 4,
    /// Ollama.
    Ollama = 5,
    /// Text Generation Inference.
    Tgi = 6,
}

impl Dialect {
    /// All of them, with the names that administrators use.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Openai, "openai"),
        (Self::Azure, "azure"),
        (Self::Vllm, "vllm"),
        (Self::Sglang, "sglang"),
        (Self::Llamacpp, "llamacpp"),
        (Self::Ollama, "ollama"),
        (Self::Tgi, "tgi"),
    ];

    /// The dialect of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, n)| *n == name).map(|(dialect, _)| dialect)
    }

    /// The name of a dialect.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Whether `stream_options.continuous_usage_stats` is understood.
    #[must_use]
    pub fn has_continuous_usage(self) -> bool {
        matches!(self, Self::Vllm | Self::Sglang)
    }
}

/// What happens to the upstream's answer when the client leaves in the middle of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum OnDisconnect {
    /// The upstream is cut off; the usage seen so far is recorded.
    #[default]
    Cancel = 0,
    /// The rest is read, bounded in time, for the final usage.
    Drain = 1,
}

/// An upstream, a credential and a model name that serve an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its number.
    pub id: DeploymentId,
    /// Its name, in usage events and metrics.
    pub name: String,
    /// Where it is, with the path prefix: `https://host/v1`.
    pub base_url: String,
    /// How it speaks.
    pub dialect: Dialect,
    /// What the model is called there; empty sends the alias.
    pub upstream_model: String,
    /// The name of the credential in the data plane's environment; empty sends none.
    pub credential: String,
    /// `api-version`, for Azure.
    pub api_version: String,
    /// Its share among its alias's deployments.
    pub weight: u32,
    /// What a client's leaving does.
    pub on_disconnect: OnDisconnect,
    /// Whether a request may be sent again though it may have been executed.
    pub replay_safe: bool,
    /// How long connecting may take, in milliseconds.
    pub connect_timeout_ms: u32,
    /// How long the answer's head may take, in milliseconds.
    pub first_byte_timeout_ms: u32,
    /// How long an answer may pause, in milliseconds.
    pub idle_timeout_ms: u32,
}

/// What the whole installation shares.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The key of the permutation behind `x-request-id`.
    pub request_id_key: [u8; 16],
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// One change: an entry as it is now, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The settings are these.
    Settings(Settings),
    /// The key is this.
    Key(Key),
    /// The key is gone, or revoked.
    NoKey(KeyDigest),
    /// The application is this.
    Application(Application),
    /// The application is gone.
    NoApplication(ApplicationId),
    /// The alias is this.
    Alias(Alias),
    /// The alias is gone.
    NoAlias(AliasId),
    /// The deployment is this.
    Deployment(Deployment),
    /// The deployment is gone.
    NoDeployment(DeploymentId),
}

const SETTINGS: u8 = 1;
const KEY: u8 = 2;
const NO_KEY: u8 = 3;
const APPLICATION: u8 = 4;
const NO_APPLICATION: u8 = 5;
const ALIAS: u8 = 6;
const NO_ALIAS: u8 = 7;
const DEPLOYMENT: u8 = 8;
const NO_DEPLOYMENT: u8 = 9;

impl Change {
    /// Appends the change.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u8(self.kind());
        out.put_u32(0);
        match self {
            Self::Settings(settings) => out.extend_from_slice(&settings.request_id_key),
            Self::Key(key) => encode_key(key, out),
            Self::NoKey(digest) => out.extend_from_slice(&digest.0),
            Self::Application(application) => {
                out.put_u64(application.id.0);
                encode_allow(Some(&application.allow), out);
            }
            Self::NoApplication(id) => out.put_u64(id.0),
            Self::Alias(alias) => {
                out.put_u32(alias.id.0);
                out.put_bytes(alias.name.as_bytes());
                out.put_u64(alias.created_s);
                encode_list(alias.deployments.iter().map(|id| id.0), out);
            }
            Self::NoAlias(id) => out.put_u32(id.0),
            Self::Deployment(deployment) => encode_deployment(deployment, out),
            Self::NoDeployment(id) => out.put_u32(id.0),
        }
        let len = u32::try_from(out.len() - start - 5).expect("an entry is short");
        out[start + 1..start + 5].copy_from_slice(&len.to_le_bytes());
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Settings(_) => SETTINGS,
            Self::Key(_) => KEY,
            Self::NoKey(_) => NO_KEY,
            Self::Application(_) => APPLICATION,
            Self::NoApplication(_) => NO_APPLICATION,
            Self::Alias(_) => ALIAS,
            Self::NoAlias(_) => NO_ALIAS,
            Self::Deployment(_) => DEPLOYMENT,
            Self::NoDeployment(_) => NO_DEPLOYMENT,
        }
    }

    /// Takes one change; `None` where its kind is a newer one, which is skipped.
    pub fn decode(r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let kind = r.u8("change")?;
        let mut r = Reader::new(r.bytes("change", 1 << 20)?);
        let r = &mut r;
        Ok(Some(match kind {
            SETTINGS => Self::Settings(Settings { request_id_key: r.array("request_id_key")? }),
            KEY => Self::Key(decode_key(r)?),
            NO_KEY => Self::NoKey(KeyDigest(r.array("digest")?)),
            APPLICATION => Self::Application(Application {
                id: ApplicationId(r.u64("application")?),
                allow: decode_allow(r)?.unwrap_or_default(),
            }),
            NO_APPLICATION => Self::NoApplication(ApplicationId(r.u64("application")?)),
            ALIAS => Self::Alias(Alias {
                id: AliasId(r.u32("alias")?),
                name: r.text("name", TEXT_BYTES_MAX)?.to_owned(),
                created_s: r.u64("created_s")?,
                deployments: decode_list(r)?.into_iter().map(DeploymentId).collect(),
            }),
            NO_ALIAS => Self::NoAlias(AliasId(r.u32("alias")?)),
            DEPLOYMENT => Self::Deployment(decode_deployment(r)?),
            NO_DEPLOYMENT => Self::NoDeployment(DeploymentId(r.u32("deployment")?)),
            _ => return Ok(None),
        }))
    }
}

fn encode_key(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.digest.0);
    out.put_u64(key.id.0);
    out.put_u64(key.application.0);
    out.put_u64(key.attribution.0);
    out.put_u64(key.not_after_ms);
    encode_allow(key.allow.as_ref(), out);
}

fn decode_key(r: &mut Reader<'_>) -> Result<Key, DecodeError> {
    Ok(Key {
        digest: KeyDigest(r.array("digest")?),
        id: KeyId(r.u64("key")?),
        application: ApplicationId(r.u64("application")?),
        attribution: AttributionId(r.u64("attribution")?),
        not_after_ms: r.u64("not_after_ms")?,
        allow: decode_allow(r)?,
    })
}

pub(crate) fn encode_allow(allow: Option<&Allow>, out: &mut Vec<u8>) {
    match allow {
        None => out.put_u8(0),
        Some(Allow::All) => out.put_u8(1),
        Some(Allow::Nothing) => out.put_u8(2),
        Some(Allow::Only(list)) => {
            out.put_u8(3);
            encode_list(list.iter().map(|id| id.0), out);
        }
    }
}

fn decode_allow(r: &mut Reader<'_>) -> Result<Option<Allow>, DecodeError> {
    Ok(match r.u8("allow")? {
        0 => None,
        1 => Some(Allow::All),
        2 => Some(Allow::Nothing),
        3 => {
            let mut list: Vec<AliasId> = decode_list(r)?.into_iter().map(AliasId).collect();
            list.sort_unstable();
            Some(Allow::Only(list))
        }
        value => return Err(DecodeError::Value { field: "allow", value: value.into() }),
    })
}

fn encode_list(list: impl ExactSizeIterator<Item = u32>, out: &mut Vec<u8>) {
    out.put_u32(u32::try_from(list.len()).expect("a list is short"));
    list.for_each(|id| out.put_u32(id));
}

fn decode_list(r: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    let len = r.u32("list")? as usize;
    if len > LIST_MAX {
        return Err(DecodeError::TooLong { field: "list", len, max: LIST_MAX });
    }
    (0..len).map(|_| r.u32("list")).collect()
}

fn encode_deployment(deployment: &Deployment, out: &mut Vec<u8>) {
    out.put_u32(deployment.id.0);
    for text in [
        &deployment.name,
        &deployment.base_url,
        &deployment.upstream_model,
        &deployment.credential,
        &deployment.api_version,
    ] {
        out.put_bytes(text.as_bytes());
    }
    out.put_u8(deployment.dialect as u8);
    out.put_u8(deployment.on_disconnect as u8);
    out.put_u8(u8::from(deployment.replay_safe));
    out.put_u32(deployment.weight);
    out.put_u32(deployment.connect_timeout_ms);
    out.put_u32(deployment.first_byte_timeout_ms);
    out.put_u32(deployment.idle_timeout_ms);
}

fn decode_deployment(r: &mut Reader<'_>) -> Result<Deployment, DecodeError> {
    let id = DeploymentId(r.u32("deployment")?);
    let mut text = |field| r.text(field, TEXT_BYTES_MAX).map(str::to_owned);
    let (name, base_url) = (text("name")?, text("base_url")?);
    let (upstream_model, credential) = (text("upstream_model")?, text("credential")?);
    let api_version = text("api_version")?;
    let dialect = r.u8("dialect")?;
    Ok(Deployment {
        id,
        name,
        base_url,
        upstream_model,
        credential,
        api_version,
        dialect: Dialect::ALL
            .get(usize::from(dialect))
            .ok_or(DecodeError::Value { field: "dialect", value: dialect.into() })?
            .0,
        on_disconnect: match r.u8("on_disconnect")? {
            0 => OnDisconnect::Cancel,
            1 => OnDisconnect::Drain,
            value => return Err(DecodeError::Value { field: "on_disconnect", value: value.into() }),
        },
        replay_safe: r.u8("replay_safe")? != 0,
        weight: r.u32("weight")?,
        connect_timeout_ms: r.u32("connect_timeout_ms")?,
        first_byte_timeout_ms: r.u32("first_byte_timeout_ms")?,
        idle_timeout_ms: r.u32("idle_timeout_ms")?,
    })
}

#[cfg(test)]
mod tests;
