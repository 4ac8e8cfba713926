//! `liutong model`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

const MODEL_EXAMPLES: &str = "\
Examples:
  liutong model set small --dialect vllm \\
      --upstream http://10.0.0.7:8000/v1 --upstream-model Qwen/Qwen3-8B
  liutong model set large --upstream https://api.openai.com/v1 --upstream-model gpt-5 --credential OPENAI
  liutong model set large --file deployments.json

Such a file has several deployments: {\"deployments\":[{...},{...}]}, with the members that the flags name.";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ModelCommand {
    /// Makes an alias, or replaces the deployments of one
    #[command(after_help = MODEL_EXAMPLES)]
    Set(ModelSet),
    /// Lists the aliases
    #[command(after_help = "Example:\n  liutong model list")]
    List,
    /// Shows one alias and its deployments
    #[command(after_help = "Example:\n  liutong model show small -o json")]
    Show {
        /// The alias
        alias: String,
    },
    /// Removes an alias: clients get 404 for it from then on
    #[command(after_help = "Example:\n  liutong model remove small")]
    Remove {
        /// The alias
        alias: String,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ModelSet {
    /// The model name that clients send
    pub(in crate::cli) alias: String,
    /// A JSON file with the deployments, for several or for what has no flag; - is stdin
    #[arg(long, value_name = "FILE", required_unless_present = "upstream", conflicts_with_all = [
        "upstream", "upstream_model", "dialect", "name", "credential", "weight", "on_disconnect",
        "replay_safe", "connect_timeout_ms", "first_byte_timeout_ms", "idle_timeout_ms", "api_version",
    ])]
    pub(in crate::cli) file: Option<PathBuf>,
    /// The upstream's base URL; for most it ends in /v1
    #[arg(long, value_name = "URL", requires = "upstream_model")]
    pub(in crate::cli) upstream: Option<String>,
    /// The model's name there
    #[arg(long, value_name = "NAME", requires = "upstream")]
    pub(in crate::cli) upstream_model: Option<String>,
    /// How the upstream speaks
    #[arg(long, value_enum, default_value = "openai", requires = "upstream")]
    pub(in crate::cli) dialect: DialectName,
    /// A name for the deployment
    #[arg(long)]
    pub(in crate::cli) name: Option<String>,
    /// The name of the credential to send; the data planes' configuration says what it is
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) credential: Option<String>,
    /// Its share among the alias's deployments
    #[arg(long)]
    pub(in crate::cli) weight: Option<u32>,
    /// What happens to the upstream's answer when the client leaves in the middle of it
    #[arg(long, value_enum)]
    pub(in crate::cli) on_disconnect: Option<OnDisconnectName>,
    /// The upstream may be sent a request again that it might have executed
    #[arg(long)]
    pub(in crate::cli) replay_safe: bool,
    /// How long connecting may take
    #[arg(long, value_name = "MS")]
    pub(in crate::cli) connect_timeout_ms: Option<u32>,
    /// How long the first byte of an answer may take
    #[arg(long, value_name = "MS")]
    pub(in crate::cli) first_byte_timeout_ms: Option<u32>,
    /// How long the upstream may pause within an answer
    #[arg(long, value_name = "MS")]
    pub(in crate::cli) idle_timeout_ms: Option<u32>,
    /// Azure's api-version
    #[arg(long, value_name = "VERSION")]
    pub(in crate::cli) api_version: Option<String>,
}

/// The dialects, as arguments: wire's `Dialect::ALL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DialectName {
    Openai,
    Azure,
    Vllm,
    Sglang,
    Llamacpp,
    Ollama,
    Tgi,
}

impl DialectName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Azure => "azure",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Llamacpp => "llamacpp",
            Self::Ollama => "ollama",
            Self::Tgi => "tgi",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum OnDisconnectName {
    /// The upstream is cut off; the usage seen so far is recorded
    Cancel,
    /// The answer is read to its end, bounded in time, so that its usage is known
    Drain,
}

impl OnDisconnectName {
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Drain => "drain",
        }
    }
}
