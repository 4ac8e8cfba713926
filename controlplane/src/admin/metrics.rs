//! Counters in Prometheus's text format: what ingest did, and where each data plane says its usage events
//! are.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use wire::report::Totals;

use super::Api;

/// A metric's name, its help, and where its value is.
type Total = (&'static str, &'static str, fn(&Totals) -> u64);

const TOTALS: [Total; 10] = [
    ("admitted", "Exchanges admitted by the running process.", |totals| totals.admitted),
    ("in_flight", "Of those, not in the spool yet.", |totals| totals.in_flight),
    ("appended", "Of those, written to the spool.", |totals| totals.appended),
    ("adopted", "Usage events taken over from processes that are gone.", |totals| totals.adopted),
    ("found", "Usage events in batches that earlier processes left.", |totals| totals.found),
    ("acked", "Usage events that are stored.", |totals| totals.acked),
    ("pending", "Usage events on the data plane's disk.", |totals| totals.pending),
    ("set_aside", "Usage events that can never be stored.", |totals| totals.set_aside),
    ("lost", "Usage events that can't be read any more.", |totals| totals.lost),
    ("lost_slots", "Slots that could not be read.", |totals| totals.lost_slots),
];

/// For each data plane, of its running process: `admitted = in_flight + appended + lost_slots`, and
/// `appended + adopted + found = acked + pending + set_aside + lost`, whenever nothing is on the move.
pub(super) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let mut out = String::new();
    // Writing into a String does not fail.
    for (name, kind, help, value) in api.ingest.counters().each() {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let (name, help) = ("liutong_tables_differed_total", "Data planes whose tables were not the registry's.");
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", api.hub.differed());
    for (name, help, value) in api.throttle.counters() {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
    }
    let mut said: Vec<_> = api.accounts.all().into_iter().collect();
    said.sort_by_key(|(node, _)| *node);
    for (name, help, of) in TOTALS {
        let name = format!("liutong_node_usage_{name}");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (node, said) in &said {
            let _ = writeln!(out, "{name}{{node=\"{node}\"}} {}", of(&said.report.totals));
        }
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out)
}
