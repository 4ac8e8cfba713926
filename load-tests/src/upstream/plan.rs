//! An answer as a list of steps: bytes to write, things to wait for, and how it ends.
//!
//! Pure: from the shape of an answer and a script to steps. Faults are put in by offset in the answer's
//! bytes, so "cut at byte N" means the same whatever the answer is.

use std::rc::Rc;
use std::time::Duration;

use super::answer::{STAMP, Shaped};
use super::script::{After, Answer, Delimiter, Script};

/// One thing the upstream does with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Writes these bytes, in one write.
    Send(Rc<Vec<u8>>),
    /// The same with the time put in, its digits at this offset.
    Stamp(Rc<Vec<u8>>, usize),
    /// The usage of this answer has been told: the ledger takes it.
    Report,
    /// Waits.
    Pause(Duration),
    /// Waits until the peer has read all that was written.
    AwaitRead,
    /// Waits until a gate is open.
    Gate(String),
    /// Ends the answer and says what becomes of the connection; always the last step.
    End(After),
}

fn send(bytes: Vec<u8>) -> Step {
    Step::Send(Rc::new(bytes))
}

/// The steps of a model's answer that no script changes: for a plain answer a single write.
pub(crate) fn usual(shaped: &Shaped, delimiter: Delimiter, event_delay: Duration) -> Vec<Step> {
    let mut steps = framed(shaped, delimiter, &[], None);
    if !event_delay.is_zero() {
        pause_between(&mut steps, event_delay);
    }
    if !shaped.content_type.starts_with("text/event-stream") {
        join(&mut steps);
    }
    steps.push(Step::End(if delimiter == Delimiter::Close { After::Close } else { After::Keep }));
    steps
}

/// The steps of an answer that a script changes. `shaped` is what a model would have answered.
pub(crate) fn scripted(script: &Script, shaped: Shaped, usual_delimiter: Delimiter) -> Vec<Step> {
    let mut end = script.after;
    let mut steps = match &script.answer {
        Answer::Never => vec![Step::End(After::Stall)],
        Answer::Raw(bytes) => vec![send(bytes.0.clone())],
        Answer::Model | Answer::Fixed { .. } => {
            let shaped = match &script.answer {
                Answer::Fixed { status, content_type, parts } => Shaped {
                    status: *status,
                    content_type: content_type.clone(),
                    parts: parts.iter().map(|part| part.0.clone()).collect(),
                    usage_part: None,
                },
                _ => shaped,
            };
            let delimiter = match script.delimiter {
                Delimiter::Usual => usual_delimiter,
                other => other,
            };
            if delimiter == Delimiter::Close && end == After::Keep {
                end = After::Close;
            }
            body_steps(script, &shaped, delimiter)
        }
    };
    if !script.before_head.0.is_empty() {
        steps.insert(0, send(script.before_head.0.clone()));
    }
    if script.head_delay_ms > 0 {
        steps.insert(0, Step::Pause(Duration::from_millis(script.head_delay_ms)));
    }
    if !script.surplus.0.is_empty() {
        surplus(&mut steps, &script.surplus.0);
    }
    if !matches!(steps.last(), Some(Step::End(_))) {
        steps.push(Step::End(end));
    }
    split(&mut steps, script);
    if let Some(cut) = script.cut {
        truncate(&mut steps, cut.at);
        if cut.after == After::Reset {
            // A reset destroys what the peer has not read yet, and the cut would be somewhere else.
            steps.push(Step::AwaitRead);
        }
        steps.push(Step::End(cut.after));
    }
    if script.stamp {
        stamp(&mut steps);
    }
    steps
}

fn body_steps(script: &Script, shaped: &Shaped, delimiter: Delimiter) -> Vec<Step> {
    let mut steps = framed(shaped, delimiter, &script.headers, script.chunk_bytes);
    // Step 0 is the head; each part is one Send, so part k is the Send number k + 1.
    for (part, gate) in &script.gates {
        if let Some(at) = nth_send(&steps, part + 1) {
            steps.insert(at, Step::Gate(gate.clone()));
        }
    }
    if script.event_delay_ms > 0 {
        pause_between(&mut steps, Duration::from_millis(script.event_delay_ms));
    }
    let undisturbed = script.gates.is_empty() && script.event_delay_ms == 0;
    if undisturbed && delimiter == Delimiter::Length {
        join(&mut steps);
    }
    steps
}

/// Head, parts and the end of the body, each a write of its own.
fn framed(
    shaped: &Shaped,
    delimiter: Delimiter,
    headers: &[(String, String)],
    chunk_bytes: Option<usize>,
) -> Vec<Step> {
    let length: usize = shaped.parts.iter().map(Vec::len).sum();
    let mut head =
        format!("HTTP/1.1 {} Scripted\r\ncontent-type: {}\r\n", shaped.status, shaped.content_type);
    match delimiter {
        Delimiter::Length | Delimiter::Usual => head.push_str(&format!("content-length: {length}\r\n")),
        Delimiter::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
        Delimiter::Close => head.push_str("connection: close\r\n"),
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut steps = vec![send(head.into_bytes())];
    for (index, part) in shaped.parts.iter().enumerate() {
        let last = index + 1 == shaped.parts.len();
        let mut bytes = match delimiter {
            Delimiter::Chunked => chunked(part, chunk_bytes),
            _ => part.clone(),
        };
        if last && delimiter == Delimiter::Chunked {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        steps.push(send(bytes));
        if shaped.usage_part == Some(index) {
            steps.push(Step::Report);
        }
    }
    steps
}

fn chunked(part: &[u8], chunk_bytes: Option<usize>) -> Vec<u8> {
    let size = chunk_bytes.unwrap_or(part.len()).max(1);
    let mut bytes = Vec::with_capacity(part.len() + 16);
    for chunk in part.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn nth_send(steps: &[Step], n: usize) -> Option<usize> {
    let sends = steps.iter().enumerate().filter(|(_, step)| matches!(step, Step::Send(_)));
    sends.map(|(at, _)| at).nth(n)
}

/// Puts a pause before every part but the first.
fn pause_between(steps: &mut Vec<Step>, pause: Duration) {
    let mut n = 2;
    while let Some(at) = nth_send(steps, n) {
        steps.insert(at, Step::Pause(pause));
        n += 1;
    }
}

/// Makes one write of all writes.
fn join(steps: &mut Vec<Step>) {
    let mut all = Vec::new();
    let mut rest = Vec::new();
    for step in steps.drain(..) {
        match step {
            Step::Send(bytes) => all.extend_from_slice(&bytes),
            other => rest.push(other),
        }
    }
    steps.push(send(all));
    steps.append(&mut rest);
}

/// Breaks writes up at the script's offsets, with a wait for the peer's read at each.
fn split(steps: &mut Vec<Step>, script: &Script) {
    let total: usize = steps.iter().map(sent).sum();
    let mut offsets = script.split.clone();
    if let Some(every) = script.split_every.filter(|&every| every > 0) {
        offsets.extend((every..total).step_by(every));
    }
    offsets.sort_unstable();
    offsets.dedup();
    for &offset in offsets.iter().filter(|&&offset| offset > 0 && offset < total) {
        let at = break_at(steps, offset);
        steps.insert(at, Step::AwaitRead);
    }
}

/// Puts bytes behind the answer, in its last write: later ones might meet the connection in other hands.
fn surplus(steps: &mut Vec<Step>, bytes: &[u8]) {
    match steps.iter_mut().rev().find(|step| matches!(step, Step::Send(_))) {
        Some(Step::Send(last)) => Rc::make_mut(last).extend_from_slice(bytes),
        _ => steps.push(send(bytes.to_vec())),
    }
}

/// Makes a `Stamp` of each write that has room for one.
fn stamp(steps: &mut [Step]) {
    for step in steps {
        let Step::Send(bytes) = step else { continue };
        if let Some(at) = memchr::memmem::find(bytes, STAMP.as_bytes()) {
            // Behind the `@`.
            *step = Step::Stamp(Rc::clone(bytes), at + 1);
        }
    }
}

fn sent(step: &Step) -> usize {
    if let Step::Send(bytes) = step { bytes.len() } else { 0 }
}

/// Makes `offset` a boundary between two steps, and returns the index of the step that begins there.
fn break_at(steps: &mut Vec<Step>, offset: usize) -> usize {
    let mut before = 0;
    for at in 0..steps.len() {
        if before == offset {
            return at;
        }
        let Step::Send(bytes) = &steps[at] else { continue };
        if before + bytes.len() > offset {
            let (first, second) = bytes.split_at(offset - before);
            let second = send(second.to_vec());
            steps[at] = send(first.to_vec());
            steps.insert(at + 1, second);
            return at + 1;
        }
        before += bytes.len();
    }
    steps.len()
}

fn truncate(steps: &mut Vec<Step>, offset: usize) {
    let at = break_at(steps, offset);
    steps.truncate(at);
    if matches!(steps.last(), Some(Step::End(_))) {
        steps.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::script::Cut;

    fn bytes(steps: &[Step]) -> Vec<u8> {
        let parts = steps.iter().filter_map(|step| match step {
            Step::Send(bytes) => Some(bytes.to_vec()),
            _ => None,
        });
        parts.collect::<Vec<_>>().concat()
    }

    fn answer(script: &Script) -> Vec<Step> {
        scripted(script, Shaped::error(404, "none"), Delimiter::Length)
    }

    #[test]
    fn splits_change_no_byte() {
        let script = Script::default().events(["data: a\n\n", "data: b\n\n"]);
        let whole = bytes(&answer(&script));
        assert!(whole.ends_with(b"9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n"));
        for every in 1..whole.len() {
            let steps = answer(&Script { split_every: Some(every), ..script.clone() });
            assert_eq!(bytes(&steps), whole);
            let waits = steps.iter().filter(|step| **step == Step::AwaitRead).count();
            assert_eq!(waits, (whole.len() - 1) / every);
        }
    }

    #[test]
    fn a_cut_leaves_so_many_bytes() {
        let script = Script::default().json(200, "{}");
        let whole = bytes(&answer(&script));
        for at in 0..whole.len() {
            let steps = answer(&Script { cut: Some(Cut { at, after: After::Reset }), ..script.clone() });
            assert_eq!(bytes(&steps), whole[..at]);
            assert_eq!(steps.last(), Some(&Step::End(After::Reset)));
        }
    }

    #[test]
    fn each_event_with_content_is_stamped() {
        let body = br#"{"model":"m","stream":true,"max_tokens":3}"#;
        let ask = super::super::request::Ask::read("/chat/completions", body).unwrap();
        let script = Script { stamp: true, ..Script::default() };
        let steps = scripted(&script, Shaped::model(&ask, true), Delimiter::Chunked);
        let stamped: Vec<_> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Stamp(bytes, at) => Some((bytes, *at)),
                _ => None,
            })
            .collect();
        assert_eq!(stamped.len(), 3);
        for (bytes, at) in stamped {
            assert_eq!(&bytes[at - 1..at + 20], STAMP.as_bytes());
        }
    }

    #[test]
    fn a_gate_stands_before_its_part() {
        let steps = answer(&Script::default().events(["a", "b"]).gate(1, "second"));
        let at = steps.iter().position(|step| *step == Step::Gate("second".to_owned())).unwrap();
        assert!(bytes(&steps[..at]).ends_with(b"1\r\na\r\n"));
        assert!(bytes(&steps[at..]).starts_with(b"1\r\nb\r\n"));
    }
}
