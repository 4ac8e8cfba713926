//! The load generator itself: what it says of when requests were due, and when events came, is so.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::cell::Cell;
use std::time::{Duration, Instant};

use load_tests::client::{Amount, Order, Pace, Plan, Template, load, post};
use load_tests::upstream::{Options, Script, Upstream};

/// How often a busy machine may spoil what is measured.
const TRIES: usize = 30;
const PATH: &str = "/v1/chat/completions";

fn plan(upstream: &Upstream, connections: usize, amount: Amount, members: &str) -> Plan {
    let request = post(PATH, "key", &format!(r#"{{"model":"m"{members}}}"#));
    let template = Template { label: String::new(), request };
    Plan::new(upstream.address(), connections, amount, vec![template])
}

#[test]
fn in_an_open_loop_a_stall_counts_for_every_request_that_was_due_meanwhile() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let mut plan = plan(&upstream, 1, Amount::For(Duration::from_millis(600)), "");
    plan.pace = Pace::Rate(500.0);
    let late = || {
        upstream.script(Script { times: Some(1), head_delay_ms: 300, ..Script::default() });
        let report = load::run(&plan).unwrap();
        assert_eq!((report.responses(), report.failures), (300, 0));
        // 150 requests were due in the 300 ms of the stall; the last of them waited least.
        let late = report.latency.count_between(50_000_000, u64::MAX);
        assert!(late >= 110, "{late} requests of 300 were late");
        late
    };
    // A busy machine has stalls of its own, now and then.
    assert!(std::iter::repeat_with(late).take(TRIES).any(|late| late <= 200), "too many were late each time");
}

#[test]
fn an_open_loop_spreads_its_requests_evenly_over_time() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let mut plan = plan(&upstream, 16, Amount::For(Duration::from_millis(400)), "");
    (plan.pace, plan.warm_up) = (Pace::Rate(5_000.0), Duration::from_millis(20));
    let median_us = || {
        let report = load::run(&plan).unwrap();
        assert_eq!((report.responses(), report.failures, report.connects), (2_000, 0, 0));
        report.latency.value_at_quantile(0.5) / 1000
    };
    // In bunches of a millisecond no median would be below half of one; on a busy machine some are above.
    assert!(
        std::iter::repeat_with(median_us).take(TRIES).any(|median| median < 400),
        "no median below 400 µs"
    );
}

#[test]
fn what_counts_begins_after_every_connection_is_warm() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let mut plan = plan(&upstream, 32, Amount::Requests(64), "");
    (plan.threads, plan.warm_up) = (2, Duration::from_nanos(1));
    let warm = Cell::new((0, 0));
    let report = load::run_measured(&plan, || {
        warm.set((upstream.requests(), upstream.connections()));
    })
    .unwrap();
    assert_eq!(warm.get(), (32, 32));
    assert_eq!((report.responses(), report.connects, upstream.requests()), (64, 0, 96));
}

#[test]
fn a_run_leaves_no_file_open() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let plan = plan(&upstream, 200, Amount::Requests(400), "");
    load::run(&plan).unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..5 {
        load::run(&plan).unwrap();
    }
    // Other tests of this program open some; five runs made a thousand connections, two files each.
    assert!(open() < before + 400, "{before} files before, {} after", open());
}

#[test]
fn stamped_events_tell_how_long_they_were_under_way() {
    let upstream = Upstream::start(Options::default()).unwrap();
    upstream.script(Script { stamp: true, event_delay_ms: 5, ..Script::default() });
    let begun = Instant::now();
    let plan = plan(&upstream, 4, Amount::Requests(8), r#","stream":true,"max_tokens":10"#);
    let report = load::run(&plan).unwrap();
    assert_eq!((report.responses(), report.event.len()), (8, 80));
    // Two streams, one after the other, each with eleven pauses: after each token, and before the end.
    assert!(begun.elapsed() >= Duration::from_millis(2 * 11 * 5));
    assert!(u128::from(report.event.max()) < begun.elapsed().as_nanos(), "{} ns", report.event.max());
}

#[test]
fn a_connection_is_one_client_or_carries_the_requests_of_all_in_turn() {
    for (order, distinct) in [(Order::OneEach, 1), (Order::InTurn, 3)] {
        let upstream = Upstream::start(Options::default()).unwrap();
        let keys = ["a", "b", "c"];
        let template =
            |key: &&str| Template { label: (*key).to_owned(), request: post(PATH, key, r#"{"model":"m"}"#) };
        let templates = keys.iter().map(template).collect();
        let mut plan = Plan::new(upstream.address(), 1, Amount::Requests(6), templates);
        plan.order = order;
        let report = load::run(&plan).unwrap();
        assert_eq!((report.labels.len(), report.responses()), (distinct, 6), "{order:?}");
    }
}
