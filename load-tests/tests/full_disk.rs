//! A spool of 1 MiB fills up while ClickHouse is away, the data plane is killed and started on it, and then
//! there is room again: requests are refused meanwhile, workers go on, nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, Instant};

use load_tests::client::{Amount, Plan, Template, load, post};
use load_tests::harness::consumption::waited_for_cores;
use load_tests::harness::small_disk::SmallDisk;
use load_tests::harness::{SOON, Setup, System, signal, wait_until};
use load_tests::upstream::{Options, Upstream};

const DISK_KIB: u64 = 1024;
/// More than the disk holds: an event takes 104 bytes.
const REQUESTS: u64 = 14_000;
const PROBES: usize = 200;
const SEED: u64 = 11;
const TOKENS: u64 = 3;
/// How long a worker may be held up.
const HELD_UP_MAX: Duration = Duration::from_millis(5);

struct World {
    system: System,
    upstream: Upstream,
    served: u64,
    refused: u64,
}

impl World {
    fn body() -> String {
        format!(r#"{{"model":"small","seed":{SEED},"max_tokens":{TOKENS}}}"#)
    }

    /// Sends requests; each is served or refused, and none of them breaks.
    fn load(&mut self, requests: u64) {
        let request = post("/v1/chat/completions", self.system.key(), &Self::body());
        let template = Template { label: "all".to_owned(), request };
        let plan = Plan::new(self.system.address(), 8, Amount::Requests(requests), vec![template]);
        let report = load::run(&plan).unwrap();
        let count = |status| report.statuses.get(&status).copied().unwrap_or(0);
        assert_eq!((count(200) + count(503), report.failures), (requests, 0), "{report:?}");
        self.served += count(200);
        self.refused += count(503);
    }

    /// Asks again and again; gives how long the refusals took, in order of length. What workers, or we,
    /// waited for a core beside other programs is not in it: it is no hold-up of a worker's own.
    fn refusals(&mut self) -> Vec<Duration> {
        let pid = self.system.pids().unwrap().dataplane;
        let mut took: Vec<Duration> = (0..PROBES)
            .map(|_| {
                let (waited, began) = (waited_for_cores(pid, "worker"), Instant::now());
                let refused = self.system.post("/chat/completions", self.system.key(), &Self::body());
                let took = began.elapsed().saturating_sub(waited_for_cores(pid, "worker") - waited);
                assert_eq!(
                    (refused.status(), refused.header("retry-after")),
                    (503, "1"),
                    "{}",
                    refused.text()
                );
                assert!(refused.text().contains("gateway_overloaded"), "{}", refused.text());
                took
            })
            .collect();
        took.sort_unstable();
        took
    }

    fn figure(&self, name: &str) -> u64 {
        let text = self.system.ops("/metrics").unwrap().text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let value = line.and_then(|line| line.split(' ').nth(1));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Both invariants of the metrics, once they hold still.
    fn wait_balanced(&self) {
        let total = |name: &str| self.figure(&format!("liutong_usage_{name}_total"));
        let gauge = |name: &str| self.figure(&format!("liutong_usage_{name}"));
        wait_until("figures that add up", SOON, || {
            let admitted = total("admitted") == gauge("in_flight") + total("appended");
            let before = total("appended") + total("adopted") + total("found");
            let after = total("acked") + gauge("pending") + total("set_aside") + total("lost");
            (admitted && before == after && total("lost") == 0).then_some(())
        });
    }

    /// Waits until requests are served again; says where the events are if that never happens.
    fn wait_ready(&self) {
        let began = Instant::now();
        while self.system.ops("/readyz").map_or(0, |response| response.status()) != 200 {
            if began.elapsed() > SOON {
                let metrics = self.system.ops("/metrics").unwrap().text();
                let usage = metrics.lines().filter(|line| line.starts_with("liutong_usage"));
                panic!("not ready after {SOON:?}: {:#?}", usage.collect::<Vec<_>>());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_full(&self) {
        wait_until("readiness to say that usage can't be written", SOON, || {
            let ready = self.system.ops("/readyz").ok()?;
            (ready.status() == 503 && ready.text().contains("is the disk full?")).then_some(())
        });
    }
}

#[test]
fn a_full_spool_refuses_and_loses_nothing_also_when_started_full() {
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("data/dataplane/spool");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool).unwrap();
    let _disk = match SmallDisk::mount(&spool, DISK_KIB) {
        Ok(disk) => disk,
        Err(error) => {
            return eprintln!("skipped: this needs to mount a tmpfs, and {error}; run it as root");
        }
    };
    let upstream = Upstream::start(Options::default()).unwrap();
    let system = System::start_in(&Setup::for_upstream(&upstream.base_url()), directory.path()).unwrap();
    let mut world = World { system, upstream, served: 0, refused: 0 };
    world.load(100);

    let pids = world.system.pids().unwrap();
    signal(pids.clickhouse, libc::SIGSTOP);
    world.load(REQUESTS);
    assert!(world.served > 2000 && world.refused > 100, "{} served, {} refused", world.served, world.refused);
    world.wait_full();
    world.wait_balanced();
    let took = world.refusals();
    eprintln!("refusals: median {:?}, longest {:?}", took[PROBES / 2], took[PROBES - 1]);
    // Nine of ten, for what other programs and a virtual machine do to the clock. That a worker can't wait
    // for the disk at all is shown in `dataplane/tests/accounting_makes_no_syscall.rs`.
    assert!(took[PROBES * 9 / 10] < HELD_UP_MAX, "{took:?}");

    signal(pids.dataplane, libc::SIGKILL);
    world.system.wait_restarted("dataplane", pids.dataplane, SOON);
    world.wait_full();
    world.refusals();

    signal(pids.clickhouse, libc::SIGCONT);
    world.wait_ready();
    let refused = world.refused;
    world.load(500);
    assert_eq!(world.refused, refused, "there is room again");
    world.system.wait_for_rows("status = 200", world.served);
    let sums = "SELECT uniqExact(node, boot, seq), sum(prompt_tokens), sum(completion_tokens) \
                FROM usage_events WHERE status = 200";
    let served = world.served;
    let expected = format!("{served}\t{}\t{}", served * SEED, served * TOKENS);
    assert_eq!(world.system.clickhouse(sums), expected);
    assert_eq!(world.upstream.ledger()["scripted"].prompt_tokens, served * SEED);
    world.wait_balanced();
    assert!(world.system.stop());
}
