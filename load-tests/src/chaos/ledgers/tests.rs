//! Ledgers that agree, and each way in which they may not.

use super::*;

fn event(seq: u64) -> Event {
    Event { boot: 1, seq }
}

fn whole(number: u64) -> Exchange {
    let end = End::Whole { prompt: Some(number), completion: 3 };
    Exchange { number, tokens: 3, event: Some(event(number)), end }
}

fn row(number: u64) -> Row {
    Row { event: event(number), status: 200, source: "final".into(), prompt: number, completion: 3 }
}

fn cut_row(number: u64) -> Row {
    Row { status: 499, source: "none".into(), prompt: 0, completion: 0, ..row(number) }
}

fn told(numbers: &[u64]) -> HashMap<u64, Told> {
    numbers.iter().map(|n| (*n, Told { requests: 1, reported: 1, completion_tokens: 3 })).collect()
}

fn faults(seen: &[Exchange], told_of: &[u64], rows: &[Row]) -> Vec<String> {
    compare(seen, &told(told_of), rows).faults
}

#[track_caller]
fn assert_fault(found: &[String], what: &str) {
    assert!(found.iter().any(|fault| fault.contains(what)), "{what}: {found:?}");
}

#[test]
fn ledgers_that_agree_are_without_fault() {
    let cut = Exchange { end: End::Cut, ..whole(3) };
    let headless = Exchange { end: End::Cut, event: None, ..whole(4) };
    let settled = Exchange { end: End::Cut, ..whole(5) };
    let seen = [whole(1), whole(2), cut, headless, settled];
    let rows = [row(1), row(2), cut_row(3), cut_row(99), row(5)];
    let verdict = compare(&seen, &told(&[1, 2, 3, 4, 5]), &rows);
    assert_eq!(verdict.faults, Vec::<String>::new());
    assert_eq!((verdict.sent, verdict.whole, verdict.cut, verdict.flagged), (5, 2, 3, 2));
    assert_eq!(verdict.tokens, (9, 9));
}

#[test]
fn a_lost_a_doubled_and_an_altered_row_are_seen() {
    assert_fault(&faults(&[whole(1)], &[1], &[]), "without a row");
    assert_fault(&faults(&[whole(1)], &[1], &[row(1), row(1)]), "two rows of one event");
    let other = Row { event: event(7), ..row(1) };
    assert_fault(&faults(&[whole(1)], &[1], &[row(1), other]), "has two rows");
    let fewer = Row { completion: 2, ..row(1) };
    assert_fault(&faults(&[whole(1)], &[1], &[fewer]), "says otherwise");
    let flagged = Row { source: "partial".into(), ..row(1) };
    assert_fault(&faults(&[whole(1)], &[1], &[flagged]), "says otherwise");
}

#[test]
fn a_cut_exchange_needs_its_row_and_the_row_must_say_so() {
    let cut = Exchange { end: End::Cut, ..whole(1) };
    assert_fault(&faults(&[cut], &[1], &[]), "cut, without a row");
    let unmarked = Row { completion: 1, ..row(1) };
    assert_fault(&faults(&[cut], &[1], &[unmarked]), "does not say that it was cut");
    let headless = Exchange { event: None, ..cut };
    assert_fault(&faults(&[headless], &[1], &[]), "reached the upstream");
    assert_fault(&faults(&[headless], &[1], &[cut_row(8), cut_row(9)]), "no client knows of");
    assert_fault(&faults(&[headless], &[1], &[row(9)]), "of no request");
}

#[test]
fn a_refusal_has_a_row_exactly_where_it_was_admitted() {
    let refused = |event| Exchange { event: Some(event), end: End::Refused { status: 503 }, ..whole(1) };
    let refusal = Row { status: 503, ..cut_row(1) };
    assert_eq!(faults(&[refused(event(1))], &[], std::slice::from_ref(&refusal)), Vec::<String>::new());
    assert_fault(&faults(&[refused(event(1))], &[], &[]), "refusal without a row");
    assert_fault(&faults(&[refused(event(1))], &[], &[cut_row(1)]), "says otherwise");
    let never = event(EventSeq::not_admitted(0, 1).0);
    assert_eq!(faults(&[refused(never)], &[], &[]), Vec::<String>::new());
}

#[test]
fn what_no_client_should_see_is_a_fault() {
    assert_fault(&faults(&[Exchange { end: End::Hung, ..whole(1) }], &[], &[]), "no answer came");
    assert_fault(&faults(&[Exchange { end: End::Odd, ..whole(1) }], &[], &[]), "before its end");
    let others = Exchange { end: End::Whole { prompt: Some(2), completion: 3 }, ..whole(1) };
    assert_fault(&faults(&[others], &[1], &[row(1)]), "not the answer");
    assert_fault(&faults(&[whole(1)], &[], &[row(1)]), "told 0 times");
}
