//! `liutong usage verify`: whether every exchange is accounted for, in words for whoever pays the bill.

use std::fmt::Write as _;

use serde_json::Value;

use super::CliError;
use super::admin::Admin;
use super::output::{Format, Output, print};

/// How many gaps of a data plane are named.
const NAMED_MAX: usize = 20;

pub(super) async fn run(admin: &Admin, out: &Output) -> Result<(), CliError> {
    let found = admin.get("verifying usage".to_owned(), &["usage", "verify"], &[]).await?;
    match out.format() {
        Format::Table => print(&told(&found))?,
        Format::Json | Format::Jsonl => out.one(&found)?,
        Format::Csv => out.list(found["nodes"].as_array().map_or(&[], Vec::as_slice), &[])?,
    }
    match found["verdict"].as_str() {
        Some("complete" | "under_way" | "elsewhere") => Ok(()),
        verdict => Err(CliError::Unaccounted {
            verdict: verdict.unwrap_or("unknown").to_owned(),
            lost: number(&found, "lost"),
            doubled: number(&found, "doubled"),
        }),
    }
}

fn number(of: &Value, field: &str) -> u64 {
    of[field].as_u64().unwrap_or(0)
}

/// The report as text.
fn told(found: &Value) -> String {
    let mut text = String::new();
    for node in found["nodes"].as_array().into_iter().flatten() {
        tell_node(&mut text, node);
    }
    let (rows, gone) = (number(found, "rows_held"), number(found, "rows_gone"));
    line(&mut text, "Single events in ClickHouse", rows);
    if gone > 0 {
        line(&mut text, "  in the ledger and no longer there as rows", gone);
        line(&mut text, "    nor in any sum: lost in ClickHouse", number(found, "rows_lost"));
    }
    for batch in found["batches_with_surplus_rows"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  more rows than were sent: batch {}", batch.as_str().unwrap_or_default());
    }
    let _ = writeln!(text, "\n{}", conclusion(found));
    text
}

fn tell_node(text: &mut String, node: &Value) {
    let connected = match (&node["connected"], &node["elsewhere"]) {
        (_, Value::Bool(true)) => " (served by another control plane)",
        (Value::Bool(true), _) => "",
        _ => " (not connected)",
    };
    let _ = writeln!(text, "Data plane {}{connected}", node["node"].as_str().unwrap_or_default());
    let as_of = node["reported_at"].as_str();
    let _ = writeln!(text, "  {:<50}{:>26}", "As of", as_of.unwrap_or("what is stored; it was not heard"));
    line(text, "  Exchanges admitted (their key was accepted)", number(node, "admitted"));
    line(text, "    under way, not written yet", number(node, "in_flight"));
    line(text, "    written down", number(node, "appended"));
    line(text, "      stored in ClickHouse", number(node, "stored"));
    line(text, "      on the data plane's disk, to be stored", number(node, "pending"));
    line(text, "      set aside, can never be stored", number(node, "set_aside"));
    line(text, "      not heard of, here", number(node, "unheard"));
    line(text, "      lost", number(node, "lost"));
    line(text, "  Stored more than once", number(node, "doubled"));
    if number(node, "newer") > 0 {
        line(text, "  Stored later, not judged yet", number(node, "newer"));
    }
    line(text, "  Batches stored", number(node, "batches"));
    line(text, "    missing below the newest", number(node, "batches_missing"));
    if number(node, "power_cuts") > 0 {
        line(text, "  Power cuts", number(node, "power_cuts"));
        line(text, "    exchanges they may have cost, at most", number(node, "maybe_lost"));
    }
    let named = |field: &str| node[field].as_array().cloned().unwrap_or_default();
    for (label, field) in [("missing", "gaps"), ("more than once", "doubles")] {
        let all = named(field);
        for one in all.iter().take(NAMED_MAX) {
            let _ = writeln!(text, "  {label}: {}", one.as_str().unwrap_or_default());
        }
        if all.len() > NAMED_MAX {
            let _ = writeln!(text, "  {label}: and {} more", all.len() - NAMED_MAX);
        }
    }
    text.push('\n');
}

fn line(text: &mut String, label: &str, value: u64) {
    // Writing into a String does not fail.
    let _ = writeln!(text, "{label:<52}{:>16}", grouped(value));
}

/// 1234567 as 1,234,567.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn conclusion(found: &Value) -> String {
    let maybe = match number(found, "maybe_lost") {
        0 => String::new(),
        most => {
            format!(" A power cut may have cost up to {} more; nothing tells whether it did.", grouped(most))
        }
    };
    let text = match found["verdict"].as_str() {
        Some("complete") => "Every admitted exchange is stored once or set aside.".to_owned(),
        Some("under_way") => {
            "Nothing is lost and nothing is doubled; what is missing is on its way. Ask again when it has arrived."
                .to_owned()
        }
        Some("unheard") => {
            "Nothing is known to be lost. A data plane that still has events is not connected: start it.".to_owned()
        }
        Some("elsewhere") => {
            "Nothing is known to be lost. A data plane that still has events is served by another control plane: \
             ask that one, too."
                .to_owned()
        }
        Some("doubled") => format!("DOUBLED: {} events are stored more than once.", number(found, "doubled")),
        _ => format!("LOST: {} events were admitted and are nowhere.", number(found, "lost")),
    };
    text + &maybe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let shown = [0, 12, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "12", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_last_line_says_what_it_comes_to() {
        let node = json!({"node": "00ab", "connected": true, "admitted": 1200, "stored": 1199, "lost": 1,
            "reported_at": "2026-11-30T00:53:21.000Z", "newer": 5,
            "gaps": ["numbers 7 to 7 of worker 0 of process 01"]});
        let text = told(&json!({"verdict": "lost", "lost": 1, "nodes": [node], "rows_held": 1199}));
        assert!(text.contains("missing: numbers 7 to 7"), "{text}");
        assert!(text.contains("1,200\n"), "{text}");
        assert!(text.contains("As of") && text.contains("2026-11-30T00:53:21.000Z\n"), "{text}");
        assert!(text.contains("Stored later, not judged yet"), "{text}");
        assert!(text.ends_with("LOST: 1 events were admitted and are nowhere.\n"), "{text}");
        let text = told(&json!({"verdict": "complete", "maybe_lost": 64, "nodes": []}));
        assert!(text.ends_with("up to 64 more; nothing tells whether it did.\n"), "{text}");
    }
}
