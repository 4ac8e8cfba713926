//! The clients that people use, unmodified, at pinned versions, and the scripts in `sdk/` that drive them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::install::{install, sources, succeed};

/// openai-python as most have it; the line after it has another HTTP client below.
const OPENAI_PYTHON_2: &[&str] = &["openai==2.54.0"];
const PYTHON: &[&str] = &["openai==3.57.0", "langchain-openai==1.7.3", "llm==0.36"];
const SCHEMATHESIS: &[&str] = &["schemathesis==4.32.5"];
const NODE: &[&str] = &[
    "openai@6.49.0",
    "ai@6.0.326",
    "@ai-sdk/openai@3.0.141",
    "@ai-sdk/openai-compatible@2.0.92",
    "@langchain/openai@1.5.8",
    "@langchain/core@1.4.0",
];

/// Clients in one language, and what runs their scripts.
#[derive(Debug)]
pub struct Sdk {
    program: PathBuf,
    arguments: &'static [&'static str],
    /// The folder of `sdk/`.
    scripts: &'static str,
    environment: Option<(&'static str, PathBuf)>,
}

impl Sdk {
    /// openai-python 2, alone.
    pub fn openai_python_2() -> anyhow::Result<Self> {
        Self::python("openai-python", OPENAI_PYTHON_2)
    }

    /// openai-python 3, LangChain, and the command `llm`.
    pub fn python_3() -> anyhow::Result<Self> {
        Self::python("python-clients", PYTHON)
    }

    fn python(name: &str, packages: &[&str]) -> anyhow::Result<Self> {
        let program = environment(name, packages)?.join("bin/python");
        Ok(Self { program, arguments: &["-B"], scripts: "sdk/python", environment: None })
    }

    /// openai-node, the Vercel AI SDK, LangChain.
    pub fn node() -> anyhow::Result<Self> {
        let installed = install("node-clients", &NODE.join(" "), |directory| {
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--no-update-notifier", "--prefix"]);
            succeed(npm.arg(directory).args(NODE))
        })?;
        let environment = Some(("NODE_PATH", installed.join("node_modules")));
        Ok(Self { program: PathBuf::from("node"), arguments: &[], scripts: "sdk/node", environment })
    }

    /// Runs a script with these clients, and returns the objects that it printed, one on each line.
    pub fn run(
        &self,
        script: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Vec<Value>> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments).arg(sources().join(self.scripts).join(script)).args(arguments);
        command.envs(self.environment.clone()).envs(environment.iter().copied());
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
        let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).context("a line that is not JSON")).collect()
    }
}

/// A virtual environment of Python's with these packages.
fn environment(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    install(name, &packages.join(" "), |directory| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(directory))?;
        let mut pip = Command::new(directory.join("bin/pip"));
        succeed(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))
    })
}

/// The command of schemathesis, which tries an API with what its document allows and what it does not.
pub fn schemathesis() -> anyhow::Result<Command> {
    Ok(Command::new(environment("schemathesis", SCHEMATHESIS)?.join("bin/schemathesis")))
}
