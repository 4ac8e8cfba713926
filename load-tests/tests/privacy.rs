//! Nothing that was said, and nothing about who said it from where, is kept: not in a file, a table, a log, a
//! metric.
//!
//! Markers go into every place that a client or an upstream can write to, while things go well and while they
//! break. Then everything that the system keeps is searched for them, in the encodings that software puts
//! text into. The search first has to find markers that were planted on purpose: a search that finds nothing
//! proves nothing.
#![allow(clippy::unwrap_used, reason = "a test")]

use load_tests::client::raw::Response;
use load_tests::client::{Connection, request};
use load_tests::harness::process::files;
use load_tests::harness::{SOON, Setup, System, wait_until};
use load_tests::upstream::{After, Cut, Options, Script, Upstream};
use serde_json::json;

/// The client's address: loopback, and in no file by chance.
const CLIENT_ADDRESS: &str = "127.77.66.55";
const ADDRESS_CLAIMED: &str = "203.0.113.77";

/// Thirty-two digits that nobody has.
fn marker() -> String {
    let bytes = std::fs::read("/proc/sys/kernel/random/uuid").unwrap();
    String::from_utf8(bytes).unwrap().trim().replace('-', "")
}

/// What is searched for: a text, and how to name it without repeating it.
struct Secret {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn new(name: &'static str, text: &str) -> Self {
        let utf16 = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let percent: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut forms = vec![
            text.as_bytes().to_vec(),
            serde_json::to_vec(text).unwrap()[1..].split_last().unwrap().1.to_vec(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            percent.into_bytes(),
            text.bytes().rev().collect(),
        ];
        forms.extend((0..3).map(|offset| base64_inside(text.as_bytes(), offset)));
        Self { name, forms }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| memchr::memmem::find(bytes, form).is_some())
    }
}

/// The digits of base64 that depend on `text` alone when it begins `offset` bytes into a group of three.
fn base64_inside(text: &[u8], offset: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Bytes before the first whole group are shared with what stands before the text.
    let groups = text[(3 - offset) % 3..].chunks_exact(3);
    let digits = groups.flat_map(|group| {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize])
    });
    digits.collect()
}

/// Every place where one of the secrets is found.
fn search(system: &System, secrets: &[Secret]) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |place: &str, bytes: &[u8]| {
        let hits = secrets.iter().filter(|secret| secret.is_in(bytes));
        found.extend(hits.map(|secret| format!("{} in {place}", secret.name)));
    };
    for file in files(system.directory()) {
        look(&format!("the path {}", file.display()), file.as_os_str().as_encoded_bytes());
        // A file may go away between the listing and the reading.
        look(&file.display().to_string(), &std::fs::read(&file).unwrap_or_default());
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        look(path, system.ops(path).unwrap().body());
    }
    for table in tables(system) {
        let rows = system.clickhouse(&format!("SELECT * FROM {table} FORMAT JSONEachRow"));
        look(&table, rows.as_bytes());
        // Escaping would hide what is not plain text.
        let raw = system.clickhouse(&format!("SELECT * FROM {table} FORMAT TSVRaw"));
        look(&table, raw.as_bytes());
    }
    found
}

/// Our tables and views, and whatever logs ClickHouse itself keeps in tables.
fn tables(system: &System) -> Vec<String> {
    let sql = "SELECT database || '.' || name FROM system.tables \
               WHERE database = 'liutong' OR (database = 'system' AND engine LIKE '%MergeTree')";
    system.clickhouse(sql).lines().map(str::to_owned).collect()
}

struct Client<'a> {
    system: &'a System,
    marker: &'a str,
}

impl Client<'_> {
    fn open(&self) -> Connection {
        Connection::open_from(CLIENT_ADDRESS.parse().unwrap(), self.system.address()).unwrap()
    }

    /// A request with the marker in every header that a client might send.
    fn request(&self, method: &str, path: &str, key: &str, body: &str) -> Vec<u8> {
        let marker = self.marker;
        let bearer = format!("Bearer {key}");
        let (cookie, traceparent) = (format!("session={marker}"), format!("00-{marker}-00f067aa0ba902b7-01"));
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("user-agent", marker),
            ("cookie", &cookie),
            ("referer", marker),
            ("idempotency-key", marker),
            ("openai-organization", marker),
            ("openai-beta", marker),
            ("x-request-id", marker),
            ("traceparent", &traceparent),
            ("x-forwarded-for", ADDRESS_CLAIMED),
            ("x-custom", marker),
            (marker, "1"),
        ];
        request(method, path, &headers, body.as_bytes())
    }

    fn chat(&self, key: &str, model: &str, more: &str) -> Vec<u8> {
        let marker = self.marker;
        let body = json!({
            "model": model,
            "messages": [{"role": "system", "content": marker}, {"role": "user", "content": [
                {"type": "text", "text": format!("say {marker}")},
                {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{marker}")}},
            ]}],
            "tools": [{"type": "function", "function": {"name": marker}}],
            "user": marker, "metadata": {marker: marker}, "safety_identifier": marker, "stop": marker,
        });
        let body = body.to_string();
        let body = format!("{}{more}}}", &body[..body.len() - 1]);
        self.request("POST", &format!("/v1/chat/completions?q={marker}"), key, &body)
    }

    fn exchange(&self, request: &[u8]) -> Response {
        self.open().exchange(request).unwrap()
    }
}

/// While all goes well.
fn speak(client: &Client<'_>, key: &str) {
    assert_eq!(client.exchange(&client.chat(key, "small", "")).status(), 200);
    let streamed = client.exchange(&client.chat(key, "small", r#","stream":true"#));
    assert!(streamed.is_complete() && streamed.status() == 200);
    let embedding = format!(r#"{{"model":"small","input":"{}"}}"#, client.marker);
    assert_eq!(client.exchange(&client.request("POST", "/v1/embeddings", key, &embedding)).status(), 200);
}

/// While things break: each of these is a path that could log what it choked on.
fn stumble(client: &Client<'_>, upstream: &Upstream, key: &str) {
    let marker = client.marker;
    let path = format!("/v1/{marker}");
    for (what, request, status) in [
        ("unknown alias", client.chat(key, marker, ""), 404),
        ("unknown path", client.request("POST", &path, key, marker), 404),
        ("unknown key", client.chat(&format!("sk-lt-{marker}"), "small", ""), 401),
        (
            "bad JSON",
            client.request("POST", "/v1/chat/completions", key, &format!("{{\"model\":{marker}")),
            400,
        ),
        ("bad method", client.request("PATCH", "/v1/chat/completions", key, marker), 405),
        ("long head", client.request("GET", &format!("/v1/models?{}", marker.repeat(1100)), key, ""), 431),
        ("bad head", format!("GET / HTTP/1.1\r\nhost: a\r\n{marker} : b\r\n\r\n").into_bytes(), 400),
        ("basic", request("GET", "/v1/models", &[("authorization", &format!("Basic {marker}"))], b""), 401),
    ] {
        assert_eq!(client.exchange(&request).status(), status, "{what}");
    }
    let body = format!(r#"{{"error":{{"message":"{marker}"}}}}"#);
    let said = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{marker}\"}}}}]}}\n\n");
    let garbage = Script::default().answer(load_tests::upstream::Answer::Raw(marker.into()));
    for (status, script) in [
        (400, Script::default().json(400, &body).header("x-error", marker).header("set-cookie", marker)),
        (500, Script::default().json(500, &body)),
        (503, Script::default().json(401, &body)),
        (502, Script::default().json(302, &body).header("location", marker)),
        (502, Script { after: After::Close, ..garbage }),
        (
            200,
            Script {
                cut: Some(Cut { at: 200, after: After::Reset }),
                ..Script::default().events([&said; 9])
            },
        ),
    ] {
        upstream.script(script.times(1));
        assert_eq!(client.exchange(&client.chat(key, "small", r#","stream":true"#)).status(), status);
    }
    // The client leaves in the middle of an answer.
    upstream.script(Script::default().times(1).events([&said, &said]).gate(1, "leave"));
    let mut connection = client.open();
    connection.send(&client.chat(key, "small", r#","stream":true"#)).unwrap();
    connection.read(&mut Response::of(b""), |response| !response.body().is_empty()).unwrap();
    drop(connection);
    upstream.open_gate("leave");
}

#[test]
fn markers_are_kept_nowhere() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let mut setup = Setup::for_upstream(&upstream.base_url());
    // As talkative as an operator could make it.
    setup.environment = ["RUST_LOG=trace", "LIUTONG_LOG=trace", "RUST_BACKTRACE=full"]
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let system = System::start(&setup).unwrap();
    let (marker, control) = (marker(), self::marker());
    let (second, second_key) = system.create_key("demo");
    // Names that administrators give are kept, in the registry and in ClickHouse: the search has to find this
    // one.
    system.cli(&["organization", "create", &format!("control-{control}")]);
    let client = Client { system: &system, marker: &marker };
    speak(&client, system.key());
    speak(&client, &second_key);
    stumble(&client, &upstream, system.key());
    // Two times three that went well, and of the rest those that were admitted.
    wait_until("the exchanges in ClickHouse", SOON, || {
        let sql =
            "SELECT countIf(status = 200 AND usage_source = 'final') >= 6 AND countIf(status != 200) >= 5";
        (system.count(&format!("{sql} FROM usage_events")) == 1).then_some(())
    });
    // Its use is counted, with nothing of the request.
    system.cli(&["key", "revoke", &second]);
    assert_eq!(client.exchange(&client.chat(&second_key, "small", "")).status(), 401);
    wait_until("the use of a revoked key", 2 * SOON, || {
        (system.count("SELECT count() FROM key_uses") > 0).then_some(())
    });
    controls_are_found(&system, &control);

    let secrets = [
        Secret::new("the marker", &marker),
        Secret::new("the first key", system.key()),
        Secret::new("the second key", &second_key),
        // The part after the public id, which is shown to administrators.
        Secret::new("the first key's secret half", &system.key()[15..]),
        Secret::new("the second key's secret half", &second_key[15..]),
        Secret::new("the client's address", CLIENT_ADDRESS),
        Secret::new("the claimed address", ADDRESS_CLAIMED),
    ];
    assert_eq!(search(&system, &secrets), [""; 0]);
}

/// Plants the control marker in a file in each form, and expects it in a file, in the registry and in
/// ClickHouse.
fn controls_are_found(system: &System, control: &str) {
    let secret = Secret::new("control", control);
    for (index, form) in secret.forms.iter().enumerate() {
        let file = system.ready.data_dir.join(format!("control-{index}.log"));
        std::fs::write(&file, [b"before ", form.as_slice(), b" after"].concat()).unwrap();
        let found = search(system, std::slice::from_ref(&secret));
        assert!(found.iter().any(|place| place.contains(&format!("control-{index}.log"))), "form {index}");
        std::fs::remove_file(file).unwrap();
    }
    wait_until("the control marker in the registry and in ClickHouse", SOON, || {
        let found = search(system, std::slice::from_ref(&secret));
        let in_table = found.iter().any(|place| place.contains("liutong.names"));
        let in_file = found.iter().any(|place| place.contains(&*system.ready.data_dir.to_string_lossy()));
        (in_table && in_file).then_some(())
    });
    let metrics = Secret::new("a metric", "liutong_");
    assert!(search(system, &[metrics]).contains(&"a metric in /metrics".to_owned()));
}

#[test]
fn base64_is_found_at_every_offset() {
    let secret = Secret::new("text", "0123456789abcdef");
    for encoded in ["MDEyMzQ1Njc4OWFiY2RlZg==", "eDAxMjM0NTY3ODlhYmNkZWY=", "eHgwMTIzNDU2Nzg5YWJjZGVm"] {
        assert!(secret.is_in(encoded.as_bytes()), "{encoded}");
    }
    assert!(!secret.is_in(b"MDEyMzQ1Njc4OWFiY2R"));
}
