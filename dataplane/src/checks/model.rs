//! A request body beside `serde_json`: the same model, and after the splice the same document but for what
//! was to change.

use serde_json::Value;

use crate::body::rewrite::{ModelText, UsageAsk, plan};
use crate::body::scan::{self, MODEL_BYTES_MAX, RequestKind, RequestScan, ScanError, ScannedRequest};

/// What the upstream calls the model: longer than most, and with something to escape.
const UPSTREAM_MODEL: &str = "an \"upstream's\" \\ model";

/// A request body: what it says, and what becomes of it.
pub fn model(data: &[u8]) {
    scan::fuzz(data);
    let theirs: Option<Value> = serde_json::from_slice(data).ok().filter(Value::is_object);
    for (kind, in_path) in
        [(RequestKind::Streamable, false), (RequestKind::Streamable, true), (RequestKind::Whole, false)]
    {
        match (scanned(kind, in_path, data), &theirs) {
            (Ok(ours), _) => {
                if let Some(theirs) = &theirs {
                    agree(kind, data, &ours, theirs);
                }
                let asks = match (kind, ours.stream) {
                    (RequestKind::Streamable, true) => {
                        &[UsageAsk::Leave, UsageAsk::Include, UsageAsk::IncludeContinuous][..]
                    }
                    _ => &[UsageAsk::Leave],
                };
                asks.iter().for_each(|ask| splice(kind, data, &ours, *ask, theirs.clone()));
            }
            (Err(ScanError::InvalidJson { at }), Some(_)) => panic!("JSON is refused at {at}"),
            (Err(ScanError::MissingModel), Some(theirs)) => {
                assert!(!in_path && theirs.get("model").is_none());
            }
            (Err(ScanError::OtherCase(name)), Some(theirs)) => {
                let options = theirs.get("stream_options").unwrap_or(&Value::Null);
                assert!(has_other_case(theirs, name) || has_other_case(options, name), "{name}");
            }
            (Err(_), _) => {}
        }
    }
}

fn scanned(kind: RequestKind, in_path: bool, body: &[u8]) -> Result<ScannedRequest, ScanError> {
    let mut scan = RequestScan::new(kind).with_model_in_path(in_path);
    scan.feed(body)?;
    scan.finish(body)
}

/// Whether `object` has a member that Go would take for `name`, and we would not.
fn has_other_case(object: &Value, name: &str) -> bool {
    let folded = |symbol| match symbol {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    let mut keys = object.as_object().into_iter().flat_map(|object| object.keys());
    keys.any(|key| key != name && key.chars().map(folded).eq(name.chars()))
}

/// Holds that `serde_json` reads what we read.
fn agree(kind: RequestKind, data: &[u8], ours: &ScannedRequest, theirs: &Value) {
    match &theirs["model"] {
        Value::Null => assert_eq!(ours.model(data), None),
        name => {
            let name = name.as_str().expect("a model that was taken is a string");
            let known = if name.len() > MODEL_BYTES_MAX { "" } else { name };
            assert_eq!(ours.model(data), Some(known));
        }
    }
    assert!(!has_other_case(theirs, "model"));
    if kind == RequestKind::Streamable {
        assert!(!has_other_case(theirs, "stream") && !has_other_case(theirs, "stream_options"));
        if ours.stream {
            let options = &theirs["stream_options"];
            assert!(!has_other_case(options, "include_usage"));
            assert!(!has_other_case(options, "continuous_usage_stats"));
        }
        assert_eq!(ours.stream, theirs["stream"] == true);
        assert_eq!(ours.asks_usage(), ours.stream && theirs["stream_options"]["include_usage"] == true);
    }
}

/// Plans the edits, and holds that they make the document that was meant.
fn splice(kind: RequestKind, data: &[u8], ours: &ScannedRequest, ask: UsageAsk, theirs: Option<Value>) {
    let text = ModelText::new(UPSTREAM_MODEL);
    let splice = plan(ours, Some(&text), ask);
    let whole = splice.slices(data).collect::<Vec<_>>().concat();
    assert_eq!(whole.len(), splice.rewritten_len(data.len()));
    for size in [1, 7, 4096] {
        let mut pieces = Vec::new();
        while splice.append_piece(data, pieces.len(), size, &mut pieces) > 0 {}
        assert_eq!(pieces, whole, "pieces of {size}");
    }
    let again = scanned(kind, false, &whole).expect("what was edited can be read again");
    assert_eq!(again.model(&whole), Some(UPSTREAM_MODEL));
    assert_eq!(again.asks_usage(), ours.asks_usage() || ask != UsageAsk::Leave);
    let Some(mut expected) = theirs else { return };
    expected["model"] = UPSTREAM_MODEL.into();
    if ask != UsageAsk::Leave {
        expected["stream_options"]["include_usage"] = true.into();
    }
    if ask == UsageAsk::IncludeContinuous {
        expected["stream_options"]["continuous_usage_stats"] = true.into();
    }
    assert_eq!(serde_json::from_slice::<Value>(&whole).ok(), Some(expected));
}
