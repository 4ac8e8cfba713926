//! Supervision of real processes: small shell scripts that say what happened to them in files.

use super::*;

/// A place for the files of one test.
pub(in crate::quickstart) struct Sandbox {
    dir: tempfile::TempDir,
    pub(in crate::quickstart) pids: Pids,
}

impl Sandbox {
    pub(in crate::quickstart) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pids = Pids::new(dir.path().join("pids.json"));
        Self { dir, pids }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The file's text once it has `lines` lines.
    async fn lines(&self, name: &str, lines: usize) -> Vec<String> {
        loop {
            let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
            if text.lines().count() >= lines {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A child that runs `script`, which finds the sandbox as its first argument.
pub(in crate::quickstart) fn shell(name: &'static str, script: &str, sandbox: &Sandbox) -> Program {
    Program {
        name,
        title: name,
        path: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), "sh".into(), sandbox.dir.path().into()],
        env_remove: vec!["LIUTONG_TEST_OTHERS".into()],
        log: sandbox.path(&format!("{name}.log")),
        stop_deadline: Duration::from_secs(30),
    }
}

// Waits for the end of stdin, as both planes do.
const ORDERLY: &str = "echo $$ >> $1/started; cat > /dev/null; echo dataplane >> $1/ended";

#[tokio::test]
async fn a_child_that_is_killed_runs_again_under_its_new_pid() {
    let sandbox = Sandbox::new();
    let child = Child::start(shell("dataplane", ORDERLY, &sandbox), sandbox.pids.clone()).unwrap();
    let first = sandbox.lines("started", 1).await.remove(0);
    assert_eq!(sandbox.pids.table().dataplane.unwrap().to_string(), first);
    std::process::Command::new("kill").args(["-9", &first]).status().unwrap();
    let second = sandbox.lines("started", 2).await.remove(1);
    assert_ne!(first, second);
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("pids.json")).unwrap()).unwrap();
    assert_eq!(file["dataplane"].to_string(), second);
    child.stop(&mut Signals::install().unwrap()).await.unwrap();
    assert!(!Path::new(&format!("/proc/{second}")).exists());
}

#[tokio::test]
async fn a_child_that_ends_by_itself_also_runs_again() {
    let sandbox = Sandbox::new();
    let program = shell("controlplane", "echo x >> $1/started; exit 0", &sandbox);
    let mut child = Child::start(program, sandbox.pids.clone()).unwrap();
    assert_eq!(child.exited().await, "exit status: 0");
    sandbox.lines("started", 3).await;
    child.kill().await;
}

#[tokio::test]
async fn children_stop_one_after_the_other_at_the_end_of_their_stdin() {
    let sandbox = Sandbox::new();
    let slow = "echo $$ >> $1/started; cat > /dev/null; sleep 0.2; echo dataplane >> $1/ended";
    let fast = "echo $$ >> $1/started; cat > /dev/null; echo clickhouse >> $1/ended";
    let dataplane = Child::start(shell("dataplane", slow, &sandbox), sandbox.pids.clone()).unwrap();
    let clickhouse = Child::start(shell("clickhouse", fast, &sandbox), sandbox.pids.clone()).unwrap();
    sandbox.lines("started", 2).await;
    let mut signals = Signals::install().unwrap();
    for child in [dataplane, clickhouse] {
        child.stop(&mut signals).await.unwrap();
    }
    assert_eq!(sandbox.lines("ended", 2).await, ["dataplane", "clickhouse"]);
}

#[tokio::test]
async fn a_child_that_does_not_stop_is_killed_at_its_deadline() {
    let sandbox = Sandbox::new();
    let mut program = shell("dataplane", "echo $$ >> $1/started; while :; do sleep 0.05; done", &sandbox);
    program.stop_deadline = Duration::from_millis(50);
    let child = Child::start(program, sandbox.pids.clone()).unwrap();
    let pid = sandbox.lines("started", 1).await.remove(0);
    let ended = child.stop(&mut Signals::install().unwrap()).await;
    assert_eq!(ended, Err("was killed".to_owned()));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_child_that_is_stopped_while_it_waits_for_its_restart_is_not_started() {
    let sandbox = Sandbox::new();
    let program = shell("dataplane", "echo x >> $1/started; exit 3", &sandbox);
    let mut child = Child::start(program, sandbox.pids.clone()).unwrap();
    child.exited().await;
    let begun = sandbox.lines("started", 6).await.len();
    // It may end just now, which is then what it is stopped with.
    let _ = child.stop(&mut Signals::install().unwrap()).await;
    // Its supervision has ended: nothing is left that could start it.
    assert!(sandbox.lines("started", 6).await.len() <= begun + 1);
}

#[test]
fn delays_grow_only_after_several_quick_deaths_and_have_an_end() {
    assert_eq!(restart_delay(0), RESTART_DELAY_MIN);
    assert!(RESTART_DELAY_MIN < Duration::from_secs(1));
    assert_eq!(restart_delay(PATIENCE), RESTART_DELAY_MIN);
    assert!(restart_delay(PATIENCE + 4) < Duration::from_secs(1));
    assert_eq!(restart_delay(PATIENCE + 8), RESTART_DELAY_MAX);
    assert_eq!(restart_delay(u32::MAX), RESTART_DELAY_MAX);
}

#[test]
fn a_program_that_cannot_be_run_is_told_with_its_path() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let sandbox = Sandbox::new();
    let mut program = shell("dataplane", "", &sandbox);
    program.path = sandbox.path("absent");
    let error = Child::start(program, sandbox.pids.clone()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}
