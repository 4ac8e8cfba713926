//! Lost, doubled, under way or out of reach: each is told from the others.

use wire::report::{Report, Totals};

use super::*;
use crate::clickhouse::verify::Held;

const NODE: &str = "0000000000000009";

fn said(boots: &[(u64, Ended, u64)], totals: Totals, is_connected: bool) -> BTreeMap<NodeId, Said> {
    let boots = boots.iter().map(|(boot, ended, last)| wire::report::Numbers {
        boot: BootId(*boot),
        ended: *ended,
        workers: vec![(*last, *last)],
    });
    let report = Report { at_ms: 1, totals, boots: boots.collect() };
    BTreeMap::from([(NodeId(9), Said { report, is_connected, session: 0 })])
}

fn numbers(boot: u64, last: u64, stored: u64) -> Numbers {
    Numbers {
        node: NODE.to_owned(),
        boot: BootId(boot).to_string(),
        worker: 0,
        last,
        stored,
        refused: 0,
        doubled: 0,
        newer: 0,
        gaps: vec![],
        doubles: vec![],
    }
}

fn verdict(said: BTreeMap<NodeId, Said>, evidence: &Evidence) -> Value {
    let limits = limits(&said);
    judge((said, &[]), &limits, evidence)
}

fn of(numbers: Vec<Numbers>) -> Evidence {
    Evidence { numbers, ..Evidence::default() }
}

#[test]
fn every_exchange_is_stored_under_way_or_lost() {
    let running = |in_flight, pending| {
        let totals = Totals { admitted: 10, in_flight, pending, ..Totals::default() };
        said(&[(1, Ended::Runs, 10)], totals, true)
    };
    for (in_flight, pending, stored, expected, lost) in [
        (0, 0, 10, "complete", 0),
        (2, 1, 7, "under_way", 0),
        // Some of what was on its way has arrived since.
        (2, 5, 7, "under_way", 0),
        (0, 0, 9, "lost", 1),
        (1, 1, 6, "lost", 2),
    ] {
        let found = verdict(running(in_flight, pending), &of(vec![numbers(1, stored, stored)]));
        assert_eq!((found["verdict"].as_str(), found["lost"].as_u64()), (Some(expected), Some(lost)));
        let sum =
            ["stored", "in_flight", "pending", "set_aside", "lost"].map(|one| found[one].as_u64().unwrap());
        assert_eq!(sum.iter().sum::<u64>(), 10, "{found}");
    }
}

#[test]
fn what_was_given_back_is_accounted_for_and_what_is_there_twice_is_named() {
    let totals = Totals { admitted: 10, ..Totals::default() };
    let given_back = Numbers { refused: 3, ..numbers(1, 10, 7) };
    let found = verdict(said(&[(1, Ended::Runs, 10)], totals, true), &of(vec![given_back]));
    assert_eq!((found["verdict"].as_str(), found["set_aside"].as_u64()), (Some("complete"), Some(3)));

    let twice = Numbers { doubled: 2, doubles: vec![(4, 5)], ..numbers(1, 10, 10) };
    let found = verdict(said(&[(1, Ended::Runs, 10)], totals, true), &of(vec![twice]));
    assert_eq!((found["verdict"].as_str(), found["doubled"].as_u64()), (Some("doubled"), Some(2)));
    let named = format!("numbers 4 to 5 of worker 0 of process {}", BootId(1));
    assert_eq!(found["nodes"][0]["doubles"], json!([named]));

    let held = Held { surplus: 1, ..Held::default() };
    let evidence = Evidence { held, ..of(vec![numbers(1, 10, 10)]) };
    assert_eq!(verdict(said(&[(1, Ended::Runs, 10)], totals, true), &evidence)["verdict"], "doubled");
}

#[test]
fn rows_that_are_neither_there_nor_in_any_sum_are_lost() {
    let totals = Totals { admitted: 10, ..Totals::default() };
    let evidence = Evidence { unsummed: 3, ..of(vec![numbers(1, 10, 10)]) };
    let found = verdict(said(&[(1, Ended::Runs, 10)], totals, true), &evidence);
    assert_eq!((found["verdict"].as_str(), found["lost"].as_u64()), (Some("lost"), Some(3)));
    assert_eq!((found["rows_lost"].as_u64(), found["nodes"][0]["lost"].as_u64()), (Some(3), Some(0)));
}

#[test]
fn a_verdict_says_as_of_when_it_is_and_what_came_later() {
    let totals = Totals { admitted: 10, ..Totals::default() };
    let mut all = said(&[(1, Ended::Runs, 10)], totals, true);
    let mut older = said(&[(2, Ended::Runs, 4)], Totals { admitted: 4, ..totals }, true);
    all.get_mut(&NodeId(9)).unwrap().report.at_ms = 1_796_000_002_000;
    older.get_mut(&NodeId(9)).unwrap().report.at_ms = 1_796_000_001_000;
    all.insert(NodeId(8), older.remove(&NodeId(9)).unwrap());
    let later = Numbers { newer: 7, ..numbers(1, 10, 10) };
    let other = Numbers { node: NodeId(8).to_string(), ..numbers(2, 4, 4) };
    let found = verdict(all, &of(vec![later, other]));
    assert_eq!((found["verdict"].as_str(), found["newer"].as_u64()), (Some("complete"), Some(7)));
    let [old, new] = ["2026-11-30T00:53:21.000Z", "2026-11-30T00:53:22.000Z"];
    assert_eq!(found["as_of"], old, "no newer than its oldest part");
    let reported = [0, 1].map(|at| found["nodes"][at]["reported_at"].as_str().unwrap());
    assert_eq!(reported, [old, new]);
    // Nobody is there to say anything.
    assert_eq!(verdict(BTreeMap::new(), &Evidence::default())["as_of"], Value::Null);
}

#[test]
fn a_data_plane_that_is_away_may_still_have_what_is_missing() {
    let written = Boot {
        node: NODE.to_owned(),
        boot: BootId(1).to_string(),
        ended: Ended::Runs as u8,
        admitted: vec![8],
        reserved: vec![64],
    };
    let mut gaps = numbers(1, 9, 7);
    gaps.gaps = vec![(3, 4)];
    let evidence = Evidence { boots: vec![written], ..of(vec![gaps]) };
    let found = verdict(BTreeMap::new(), &evidence);
    assert_eq!(found["verdict"], "unheard");
    // A number that is stored was given out, whatever was written down before.
    assert_eq!((found["admitted"].as_u64(), found["nodes"][0]["unheard"].as_u64()), (Some(9), Some(2)));
    assert_eq!(found["nodes"][0]["gaps"].as_array().unwrap().len(), 1);
    // Or it is not away at all, but heard by another control plane.
    let found = judge((BTreeMap::new(), &[NodeId(9)]), &[], &evidence);
    let node = &found["nodes"][0];
    assert_eq!((&found["verdict"], &node["elsewhere"]), (&json!("elsewhere"), &json!(true)));
    assert_eq!((node["unheard"].as_u64(), node["lost"].as_u64()), (Some(2), Some(0)));
}

#[test]
fn after_a_power_cut_it_is_said_how_many_may_be_lost_at_most() {
    let written = Boot {
        node: NODE.to_owned(),
        boot: BootId(1).to_string(),
        ended: Ended::PowerCut as u8,
        admitted: vec![100],
        reserved: vec![356],
    };
    let evidence = Evidence { boots: vec![written], ..of(vec![numbers(1, 120, 120), numbers(2, 5, 5)]) };
    let totals = Totals { admitted: 5, ..Totals::default() };
    let found = verdict(said(&[(2, Ended::Runs, 5)], totals, true), &evidence);
    assert_eq!((found["verdict"].as_str(), found["maybe_lost"].as_u64()), (Some("complete"), Some(236)));
}
