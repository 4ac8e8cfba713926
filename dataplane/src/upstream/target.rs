//! Where an upstream is, and what every request to it carries.
//!
//! A deployment's base URL is taken apart once, when the tables change; its addresses are looked up by a
//! thread of its own, never on a worker. A deployment that can't be used keeps the reason.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, bounded};
use wire::event::Endpoint;
use wire::table::{Deployment, Dialect};

use crate::body::rewrite::ModelText;
use crate::config::Credential;

/// Why a deployment can't be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// The base URL is not `http://` or `https://`, host, optional port, optional path.
    #[error("its base URL is not http(s)://host[:port][/path]")]
    Url,
    /// The data plane has no such credential.
    #[error("this data plane has no credential {0}; add [credentials.{0}] to its configuration")]
    NoCredential(String),
    /// The credential is not for this host.
    #[error(
        "credential {credential} may not be sent to {authority}; add it to the credential's hosts, as http://host:port where it is not encrypted"
    )]
    ForeignHost {
        /// The credential.
        credential: String,
        /// The host and port of the deployment.
        authority: String,
    },
}

/// Where an upstream is.
#[derive(Debug)]
pub struct Target {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What goes before the endpoint's path: no slash at its end.
    pub prefix: String,
    /// Its addresses, as last looked up; empty where that has never succeeded.
    pub addresses: ArcSwap<Vec<SocketAddr>>,
}

impl Target {
    /// Takes a base URL apart.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(TargetError::Url),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, port)) => (host, port),
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| TargetError::Url)?,
            None if port.is_empty() => 80 + 363 * u16::from(tls),
            None => return Err(TargetError::Url),
        };
        let plain = |text: &str, extra: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.as_bytes().contains(&byte))
        };
        if host.is_empty() || !plain(host, "-._:") || !plain(path, "-._~/%:@!$&'()*+,;=") {
            return Err(TargetError::Url);
        }
        let host = host.to_ascii_lowercase();
        let known = host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)).into_iter().collect();
        Ok(Self {
            tls,
            host,
            port,
            prefix: path.trim_end_matches('/').to_owned(),
            addresses: ArcSwap::from_pointee(known),
        })
    }

    /// `host:port`, as credentials name it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Looks the host up in the background, where it is a name whose addresses are not known yet. What is
    /// returned is closed when that is done.
    #[must_use]
    pub fn look_up_soon(self: &Arc<Self>) -> Option<Receiver<()>> {
        if !self.addresses.load().is_empty() {
            return None;
        }
        let (target, (done, looked_up)) = (self.clone(), bounded(0));
        std::thread::spawn(move || {
            target.look_up();
            drop(done);
        });
        Some(looked_up)
    }

    /// Looks the host up; what was known stays where that fails. Blocks.
    pub fn look_up(&self) {
        if self.host.parse::<IpAddr>().is_ok() {
            return;
        }
        if let Ok(found) = (self.host.as_str(), self.port).to_socket_addrs() {
            let found: Vec<_> = found.collect();
            if !found.is_empty() && **self.addresses.load() != found {
                self.addresses.store(Arc::new(found));
            }
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port, &self.prefix) == (other.tls, &other.host, other.port, &other.prefix)
    }
}

/// A deployment as workers use it.
pub struct Upstream {
    /// What the registry says.
    pub spec: Deployment,
    /// Where it is; the same while only other properties change, so that idle connections stay good.
    pub target: Arc<Target>,
    /// What names the model to it; of no use where that is the alias's own name.
    pub model_text: ModelText,
    /// For each endpoint that is forwarded how a request to it begins: the request line, and the header lines
    /// that every one carries (host, accept-encoding, user-agent, the credential's).
    heads: [Vec<u8>; FORWARDED.len()],
}

/// The endpoints that are forwarded, and the end of their path.
const FORWARDED: [(Endpoint, &[u8]); 3] = [
    (Endpoint::ChatCompletions, b"/chat/completions"),
    (Endpoint::Completions, b"/completions"),
    (Endpoint::Embeddings, b"/embeddings"),
];

impl Upstream {
    /// Makes a deployment ready for use; `before` is its former state, if it had one.
    pub fn new(
        spec: Deployment,
        credential: Option<&Credential>,
        before: Option<&Self>,
    ) -> Result<Self, TargetError> {
        let target = Target::parse(&spec.base_url)?;
        let target = match before {
            Some(before) if before.target.is_like(&target) => before.target.clone(),
            _ => Arc::new(target),
        };
        let authority = target.authority();
        let default_port = target.port == 80 + 363 * u16::from(target.tls);
        let host =
            if default_port { authority.rsplit_once(':').map_or("", |(host, _)| host) } else { &authority };
        let mut header_lines =
            format!("host: {host}\r\naccept-encoding: identity\r\nuser-agent: liutong\r\n").into_bytes();
        if !spec.credential.is_empty() {
            let credential = credential.ok_or_else(|| TargetError::NoCredential(spec.credential.clone()))?;
            if !credential.may_go_to(&authority, target.tls) {
                return Err(TargetError::ForeignHost { credential: spec.credential.clone(), authority });
            }
            let field: &[u8] =
                if spec.dialect == Dialect::Azure { b"api-key: " } else { b"authorization: Bearer " };
            header_lines.extend_from_slice(field);
            header_lines.extend_from_slice(credential.secret.reveal().as_bytes());
            header_lines.extend_from_slice(b"\r\n");
        }
        let model_text = ModelText::new(&spec.upstream_model);
        let heads = FORWARDED.map(|(_, operation)| {
            let mut head = b"POST ".to_vec();
            append_path(&spec, &target, operation, &mut head);
            head.extend_from_slice(b" HTTP/1.1\r\n");
            head.extend_from_slice(&header_lines);
            head
        });
        Ok(Self { spec, target, model_text, heads })
    }

    /// How a request for `endpoint` begins; empty for one that is never forwarded.
    #[must_use]
    pub fn head(&self, endpoint: Endpoint) -> &[u8] {
        let index = FORWARDED.iter().position(|(forwarded, _)| *forwarded == endpoint);
        index.map_or(&[], |index| &self.heads[index])
    }
}

/// Appends the path and query of an operation.
fn append_path(spec: &Deployment, target: &Target, operation: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(target.prefix.as_bytes());
    let version = spec.api_version.as_bytes();
    if spec.dialect == Dialect::Azure && !version.is_empty() {
        out.extend_from_slice(b"/openai/deployments/");
        percent_encode(spec.upstream_model.as_bytes(), out);
        out.extend_from_slice(operation);
        out.extend_from_slice(b"?api-version=");
        percent_encode(version, out);
    } else {
        out.extend_from_slice(operation);
    }
}

fn percent_encode(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                b"0123456789ABCDEF"[usize::from(byte >> 4)],
                b"0123456789ABCDEF"[usize::from(byte & 15)],
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use secret::Secret;

    use super::*;
    use crate::config::Host;
    use wire::id::DeploymentId;
    use wire::table::OnDisconnect;

    fn spec(base_url: &str, dialect: Dialect, credential: &str) -> Deployment {
        Deployment {
            id: DeploymentId(1),
            name: "d".into(),
            base_url: base_url.into(),
            dialect,
            upstream_model: "gpt 4".into(),
            credential: credential.into(),
            api_version: "2024-10-21".into(),
            weight: 1,
            on_disconnect: OnDisconnect::Cancel,
            replay_safe: false,
            connect_timeout_ms: 1,
            first_byte_timeout_ms: 1,
            idle_timeout_ms: 1,
        }
    }

    fn head(upstream: &Upstream) -> String {
        String::from_utf8(upstream.head(Endpoint::ChatCompletions).to_vec()).unwrap()
    }

    fn path(upstream: &Upstream) -> String {
        let head = head(upstream);
        head.strip_prefix("POST ").and_then(|head| head.split_once(" HTTP/1.1\r\n")).unwrap().0.to_owned()
    }

    #[test]
    fn base_urls_are_taken_apart_or_refused() {
        let cases = [
            ("http://10.0.0.1:8000/v1", Some(("10.0.0.1:8000", "/v1"))),
            ("https://api.example.com/v1/", Some(("api.example.com:443", "/v1"))),
            ("http://[::1]:9/x", Some(("[::1]:9", "/x"))),
            ("http://Host", Some(("host:80", ""))),
            ("ftp://h/v1", None),
            ("http://user:secret@h/v1", None),
            ("http://h:99999/", None),
            ("http:///v1", None),
            ("http://h/v1?x=1", None),
            ("http://h/v1\r\nx: y", None),
            ("http://[::1]x/", None),
        ];
        for (url, expected) in cases {
            let got = Target::parse(url).ok().map(|target| (target.authority(), target.prefix));
            let expected = expected.map(|(a, p)| (a.to_owned(), p.to_owned()));
            assert_eq!(got, expected, "{url}");
        }
    }

    #[test]
    fn a_credential_goes_only_to_its_hosts_and_as_the_dialect_has_it() {
        let hosts = vec![Host::parse("good.example:443").unwrap()];
        let credential = Credential { secret: Secret::new("s3".into()), hosts };
        let lines = |dialect, url: &str| {
            Upstream::new(spec(url, dialect, "C"), Some(&credential), None).map(|upstream| head(&upstream))
        };
        let openai = lines(Dialect::Openai, "https://good.example/v1").unwrap();
        assert!(openai.contains("host: good.example\r\n") && openai.contains("authorization: Bearer s3\r\n"));
        assert!(lines(Dialect::Azure, "https://good.example").unwrap().contains("api-key: s3\r\n"));
        let evil = lines(Dialect::Openai, "https://evil.example/v1");
        assert!(matches!(evil, Err(TargetError::ForeignHost { .. })));
        let readable = lines(Dialect::Openai, "http://good.example:443/v1");
        assert!(matches!(readable, Err(TargetError::ForeignHost { .. })));
        let missing = Upstream::new(spec("http://h/v1", Dialect::Openai, "C"), None, None);
        assert!(matches!(missing, Err(TargetError::NoCredential(_))));
    }

    #[test]
    fn azure_has_the_model_and_the_api_version_in_its_path() {
        let azure = Upstream::new(spec("https://x.example", Dialect::Azure, ""), None, None).unwrap();
        assert_eq!(path(&azure), "/openai/deployments/gpt%204/chat/completions?api-version=2024-10-21");
        let openai = Upstream::new(spec("http://h:1/v1", Dialect::Openai, ""), None, None).unwrap();
        assert_eq!(path(&openai), "/v1/chat/completions");
    }

    #[test]
    fn a_target_survives_a_change_that_leaves_its_place() {
        let first = Upstream::new(spec("http://h:1/v1", Dialect::Openai, ""), None, None).unwrap();
        let same = Upstream::new(spec("http://h:1/v1", Dialect::Vllm, ""), None, Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first.target, &same.target));
        let moved = Upstream::new(spec("http://h:2/v1", Dialect::Vllm, ""), None, Some(&first)).unwrap();
        assert!(!Arc::ptr_eq(&first.target, &moved.target));
    }
}
