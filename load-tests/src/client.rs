//! The client's side: requests as exact bytes, responses as they arrive, and load.

/// Many connections, driven by a plan: counts, sums and latencies.
pub mod load;
/// One connection, driven by hand: what is sent and what comes back is exact.
pub mod raw;

pub use load::{Amount, Order, Pace, Plan, Report, Template};
pub use raw::{Connection, Response};

/// Builds an HTTP/1.1 request with Host and Content-Length, and the headers given.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !body.is_empty() || method == "POST" {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Builds a POST of JSON with a key, as an SDK would send it.
pub fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    request("POST", path, &headers, body.as_bytes())
}
