//! With the control plane or ClickHouse away, data planes serve and meter, across their own restarts;
//! afterwards the sums are exact.
#![allow(clippy::unwrap_used, reason = "a test")]

use load_tests::client::{Amount, Plan, Template, load, post};
use load_tests::harness::{SOON, Setup, System, signal};
use load_tests::upstream::{Options, Upstream};

const REQUESTS: u64 = 200;
const SEED: u64 = 11;
const TOKENS: u64 = 3;

struct World {
    system: System,
    upstream: Upstream,
    sent: u64,
}

impl World {
    fn start() -> Self {
        let upstream = Upstream::start(Options::default()).unwrap();
        let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
        Self { system, upstream, sent: 0 }
    }

    /// Sends requests, plain and streamed, all of which must succeed.
    fn load(&mut self, when: &str) {
        let key = self.system.key();
        let body = |more: &str| format!(r#"{{"model":"small","seed":{SEED},"max_tokens":{TOKENS}{more}}}"#);
        let template = |more: &str| Template {
            label: "all".to_owned(),
            request: post("/v1/chat/completions", key, &body(more)),
        };
        let templates = vec![template(""), template(r#","stream":true"#)];
        let plan = Plan::new(self.system.address(), 8, Amount::Requests(REQUESTS), templates);
        let report = load::run(&plan).unwrap();
        assert_eq!((report.statuses.get(&200), report.failures), (Some(&REQUESTS), 0), "{when}: {report:?}");
        self.sent += REQUESTS;
    }

    /// Waits until every request is in ClickHouse, once, with its tokens.
    fn assert_sums(&self) {
        self.system.wait_for_rows("status = 200", self.sent);
        let sums = "SELECT uniqExact(node, boot, seq), sum(prompt_tokens), sum(completion_tokens) \
                    FROM usage_events WHERE status = 200";
        let expected = format!("{}\t{}\t{}", self.sent, self.sent * SEED, self.sent * TOKENS);
        assert_eq!(self.system.clickhouse(sums), expected);
        assert_eq!(self.upstream.ledger()["scripted"].prompt_tokens, self.sent * SEED);
    }
}

#[test]
fn the_data_plane_serves_on_without_the_control_plane() {
    let mut world = World::start();
    world.load("before");
    let pids = world.system.pids().unwrap();
    // Stopped, not killed: quickstart restarts what exits, and this is to last.
    signal(pids.controlplane, libc::SIGSTOP);
    world.load("control plane stopped");
    signal(pids.dataplane, libc::SIGKILL);
    world.system.wait_restarted("dataplane", pids.dataplane, SOON);
    world.system.wait_ready(SOON);
    world.load("control plane stopped, data plane restarted");
    signal(pids.controlplane, libc::SIGCONT);
    world.assert_sums();
    world.load("after");
    world.assert_sums();
}

#[test]
fn events_wait_for_clickhouse() {
    let mut world = World::start();
    let pids = world.system.pids().unwrap();
    signal(pids.clickhouse, libc::SIGSTOP);
    world.load("ClickHouse stopped");
    signal(pids.controlplane, libc::SIGKILL);
    world.system.wait_restarted("controlplane", pids.controlplane, SOON);
    world.load("ClickHouse stopped, control plane restarted");
    signal(pids.clickhouse, libc::SIGCONT);
    world.assert_sums();
}

#[test]
fn each_process_may_be_killed_between_requests() {
    let mut world = World::start();
    for name in ["controlplane", "clickhouse", "dataplane"] {
        world.load(name);
        let pids = world.system.pids().unwrap();
        let pid = match name {
            "controlplane" => pids.controlplane,
            "clickhouse" => pids.clickhouse,
            _ => pids.dataplane,
        };
        signal(pid, libc::SIGKILL);
        world.system.wait_restarted(name, pid, SOON);
        world.system.wait_ready(SOON);
    }
    world.load("after");
    world.system.wait_clickhouse(SOON);
    world.assert_sums();
}
