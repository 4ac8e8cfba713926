//! The journeys of the README, as their people make them: the commands are read from the README itself and
//! run one after the other. Only the addresses and the data directory are put in the place of the README's.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use load_tests::harness::{SOON, Setup, System, binary, wait_until};
use serde_json::Value;
use tempfile::TempDir;

const FIRST_TOKEN: &str = "### From nothing to the first token";
const LEAK: &str = "### A key stands on a public site";
const COST_CENTRE: &str = "### A team moves to another cost centre";

/// The commands of a section of the README, each in one line.
fn commands(heading: &str) -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    let text: String =
        blocks.map(|block| block.strip_prefix("sh\n").expect("each block is one of sh")).collect();
    text.replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// Someone with a shell, in a directory of their own, beside a system that runs.
struct Person {
    system: System,
    directory: TempDir,
    programs: PathBuf,
    exports: Vec<String>,
}

impl Person {
    fn new() -> Self {
        let programs = binary("liutong").unwrap().parent().unwrap().to_owned();
        let system = System::start(&Setup::demo()).unwrap();
        // Who types takes longer than that.
        wait_until("the control plane to have found ClickHouse", SOON, || system.try_cli(&["usage"]).ok());
        Self { system, directory: tempfile::tempdir().unwrap(), programs, exports: Vec::new() }
    }

    /// Someone who has made the first journey.
    fn at_home() -> Self {
        let mut person = Self::new();
        person.make(FIRST_TOKEN);
        person
    }

    /// Runs a section's commands, and returns what each printed.
    fn make(&mut self, heading: &str) -> Vec<(String, String)> {
        let commands = commands(heading);
        assert!(commands.len() > 1, "{heading}: {commands:?}");
        commands.into_iter().map(|command| (command.clone(), self.run(&command))).collect()
    }

    fn run(&mut self, command: &str) -> String {
        let ready = &self.system.ready;
        let here = command
            .replace("http://127.0.0.1:8080/v1", &ready.base_url)
            .replace("http://127.0.0.1:8090", &ready.admin_url)
            .replace("~/.local/share/liutong", &ready.data_dir.to_string_lossy());
        if here.starts_with("export ") {
            self.exports.push(here);
            return String::new();
        }
        let script = format!("set -e\n{}\n{here}\n", self.exports.join("\n"));
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(&self.directory).env("PATH", path);
        shell.env_remove("LIUTONG_PROFILE").env("LIUTONG_CONFIG", "/absent");
        let output = shell.output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{here}: {}\n{stdout}\n{stderr}", output.status);
        stdout.into_owned()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap().trim().to_owned()
    }

    /// A request with a key; its status.
    fn ask(&self, key: &str) -> u16 {
        let body = r#"{"model":"demo","messages":[{"role":"user","content":"hello"}]}"#;
        self.system.post("/chat/completions", key, body).status()
    }

    fn usage(&self, by: &str) -> Vec<Value> {
        let rows = self.system.cli(&["usage", "--by", by]);
        rows.as_array().unwrap().clone()
    }
}

#[test]
fn from_nothing_to_the_first_token() {
    let mut person = Person::new();
    let said = person.make(FIRST_TOKEN);
    let (_, streamed) = said.iter().find(|(command, _)| command.starts_with("curl ")).unwrap();
    assert!(streamed.contains("hello") && streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    let key = person.file("chatbot.key");
    assert!(key.starts_with("sk-lt-"));
    assert!(said.iter().all(|(_, output)| !output.contains(&key)), "the secret is in its file alone");
    let (usage, _) = said.last().unwrap().clone();
    let report = wait_until("the request in the report", SOON, || {
        let report = person.run(&usage);
        report.contains("research").then_some(report)
    });
    assert!(report.contains("demo"), "{report}");
}

#[test]
fn a_key_on_a_public_site_is_found_revoked_and_replaced() {
    let mut person = Person::at_home();
    let leaked = person.file("chatbot.key");
    let page = format!("<html><pre>client = OpenAI(api_key=\"{leaked}\")</pre></html>\n");
    std::fs::write(person.directory.path().join("page.html"), page).unwrap();
    assert_eq!(person.ask(&leaked), 200);
    let said = person.make(LEAK);
    assert!(said[0].1.contains(&leaked[..14]) && !said[0].1.contains(&leaked), "{}", said[0].1);
    let (_, receipt) = said.iter().find(|(command, _)| command.contains("key revoke")).unwrap();
    assert!(receipt.contains("true") && !receipt.contains("false"), "{receipt}");
    assert_eq!(person.ask(&leaked), 401);
    assert_eq!(person.ask(&person.file("chatbot-2.key")), 200);
}

#[test]
fn a_team_that_moves_is_billed_to_its_new_cost_centre_from_then_on() {
    let mut person = Person::at_home();
    let key = person.file("chatbot.key");
    person.make(COST_CENTRE);
    let requests = |person: &Person, centre: &str| {
        let of_it = |row: &Value| (row["cost_centre"] == centre).then(|| row["requests"].as_u64()).flatten();
        person.usage("cost_centre,team").iter().filter(|row| row["team"] == "research").find_map(of_it)
    };
    let after = wait_until("usage of the new cost centre", SOON, || {
        assert_eq!(person.ask(&key), 200);
        requests(&person, "4712")
    });
    assert!(after > 0);
    // The one request of the first journey stays where it was, and what came before the move was known.
    assert!(requests(&person, "4711").is_some_and(|before| before >= 1));
}
