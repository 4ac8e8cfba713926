//! Texts: words that look like a secret, or stand where one does, and addresses but loopback's, go; so do the
//! secrets and names that configurations name, wherever they stand. When in doubt it goes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use secret::Secret;

use super::{NAME, REMOVED, is_own};

/// The shortest text that is taken out for being a secret of the configuration's: shorter ones would take
/// ordinary words with them.
pub(in crate::cli::support) const SECRET_BYTES_MIN: usize = 6;
/// A word of letters in both cases and digits that is as long as this is taken for a secret.
const RANDOM_CHARS_MIN: usize = 24;
/// So is one of hexadecimal digits: 128 bits.
const HEX_DIGITS_MIN: usize = 32;
/// Shorter names are ordinary words.
const NAME_BYTES_MIN: usize = 3;
/// The longest IPv6 address.
const ADDRESS_BYTES_MAX: usize = 45;
/// What may stand between the name of a secret and the secret.
const SEPARATORS: &[char] = &[':', '=', '>', '"', '\'', '`', '\\', ' ', '\t'];
/// What is behind these goes to the end of the line: a cookie has several parts.
const TO_THE_END: [&str; 4] = ["authorization", "proxy_authorization", "cookie", "set_cookie"];
/// A value of these is a secret, also as the end of a longer name.
const SECRET_NAMES: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "access_key",
    "secret_key",
    "private_key",
    "admin_key",
    "authorization",
];

/// Takes secrets, names and addresses out of texts.
pub(in crate::cli::support) struct Scrubber {
    secrets: Vec<Secret>,
    names: BTreeSet<String>,
}

impl Scrubber {
    /// Also takes out these, wherever they stand.
    pub(in crate::cli::support) fn new(secrets: Vec<Secret>, names: BTreeSet<String>) -> Self {
        Self { secrets, names }
    }

    /// The text, line by line.
    pub(in crate::cli::support) fn scrub(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| secret.reveal().len() >= SECRET_BYTES_MIN) {
            text = text.replace(secret.reveal(), REMOVED);
            // As it stands in a string of JSON.
            let escaped = serde_json::Value::from(secret.reveal()).to_string();
            text = text.replace(escaped.trim_matches('"'), REMOVED);
        }
        for name in self.names.iter().filter(|name| name.len() >= NAME_BYTES_MIN) {
            text = without_name(&text, name);
        }
        text.split_inclusive('\n').map(line).collect()
    }
}

/// The text without a name, where it is no part of a longer word.
fn without_name(text: &str, name: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(name) {
        let (before, behind) = (&rest[..at], &rest[at + name.len()..]);
        out.push_str(before);
        let is_whole = !before.ends_with(is_part) && !behind.starts_with(is_part);
        out.push_str(if is_whole { NAME } else { name });
        rest = behind;
    }
    out + rest
}

/// A line without the words that may be a secret.
fn line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut rest, mut version_next) = (line, false);
    while !rest.is_empty() {
        let (word, tail) = rest.split_at(word_len(rest));
        let between = &tail[..tail.find(|c| !is_between(c)).unwrap_or(tail.len())];
        rest = &tail[between.len()..];
        if !word.contains(char::is_alphanumeric) {
            out.extend([word, between]);
            continue;
        }
        if let Some((separator, value)) = announced(word, tail) {
            out.push_str(&shown(word, version_next));
            out.extend([&tail[..separator], if value > 0 { REMOVED } else { "" }]);
            rest = &tail[separator + value..];
            version_next = false;
            continue;
        }
        out.push_str(&shown(word, version_next));
        out.push_str(between);
        version_next = word == "version";
    }
    out
}

/// What stays of a word by itself. The versions of some have the form of addresses.
fn shown(word: &str, is_version: bool) -> String {
    let goes = is_secret(word) || (has_address(word) && !is_version) || word.contains('@');
    if goes { REMOVED.to_owned() } else { without_host(word) }
}

/// How long the next word is; it ends behind the colon in `password:hunter2`.
fn word_len(rest: &str) -> usize {
    let word = &rest[..rest.find(is_between).unwrap_or(rest.len())];
    let names_secret = |at: &usize| {
        let name = word[..*at].to_ascii_lowercase().replace('-', "_");
        TO_THE_END.iter().chain(&SECRET_NAMES).any(|one| name.ends_with(one))
    };
    word.match_indices(':').map(|(at, _)| at).find(names_secret).map_or(word.len(), |at| at + 1)
}

fn is_between(c: char) -> bool {
    c.is_whitespace() || "\"'`=,;<>{}".contains(c)
}

/// Where a secret is behind this word: how long what separates it from the word is, and it itself.
fn announced(word: &str, tail: &str) -> Option<(usize, usize)> {
    let name = word.trim_end_matches([':', '\\']).to_ascii_lowercase().replace('-', "_");
    let separator = &tail[..tail.find(|c: char| !SEPARATORS.contains(&c)).unwrap_or(tail.len())];
    let value = &tail[separator.len()..];
    // "the token was ..." is prose; `token=`, `token: `, `"token":` and `token "` are not.
    let behind_quotes = separator.trim_start_matches(['"', '\'', '`', '\\']);
    let is_quoted = behind_quotes.starts_with([' ', '\t']) && behind_quotes.contains(['"', '\'', '`']);
    let is_given = word.ends_with(':') || separator.contains([':', '=']) || is_quoted;
    let ends_with = |names: &[&str]| names.iter().any(|one| name.ends_with(one));
    let len = if is_given && ends_with(&TO_THE_END) {
        to_the_end(value)
    } else if (is_given && ends_with(&SECRET_NAMES))
        || matches!(name.as_str(), "bearer" | "basic" | "x_api_key" | "api_key")
    {
        value_len(separator, value)
    } else {
        return None;
    };
    Some((separator.len(), len))
}

fn to_the_end(value: &str) -> usize {
    value.trim_end_matches(['\r', '\n']).len()
}

/// How long a value is: to the quote that ends it, or to the next space outside of quotes.
fn value_len(separator: &str, value: &str) -> usize {
    if let Some(quote) = separator.chars().next_back().filter(|c| "\"'`".contains(*c)) {
        let is_escaped = separator[..separator.len() - 1].ends_with('\\');
        let ends = |(at, _): &(usize, &str)| is_escaped == value[..*at].ends_with('\\');
        let end = value.match_indices(quote).find(ends).map(|(at, _)| at);
        return end.map_or_else(|| to_the_end(value), |at| if is_escaped { at - 1 } else { at });
    }
    // A list or a table has several.
    if value.starts_with(['[', '{', '(']) && !value.starts_with(REMOVED) {
        return to_the_end(value);
    }
    let mut is_inside = false;
    let ends = |c: char| {
        is_inside ^= c == '"';
        matches!(c, '\r' | '\n') || (c.is_whitespace() && !is_inside)
    };
    value.find(ends).unwrap_or(value.len())
}

fn is_secret(word: &str) -> bool {
    let has = |class: fn(&char) -> bool| word.chars().any(|c| class(&c));
    let mut parts = word.split([':', '/', '(']);
    let begins =
        parts.any(|part| ["sk-", "eyJ", "ghp_", "AKIA"].iter().any(|prefix| part.starts_with(prefix)));
    let has_key = word.contains("sk-lt");
    let is_random = word.len() >= RANDOM_CHARS_MIN
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "+/_-".contains(c))
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_digit);
    begins || has_key || is_random || has_hex(word)
}

/// Whether there is a long hexadecimal number, but for directories, which have such names.
fn has_hex(word: &str) -> bool {
    let is_path = word.trim_start_matches('(').starts_with('/');
    let mut parts = word.split(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c));
    !is_path
        && parts.any(|part| part.len() >= HEX_DIGITS_MIN && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether there is an IP address anywhere in a word that is not this machine's own.
fn has_address(word: &str) -> bool {
    let is_foreign = |ip: IpAddr| !ip.is_loopback() && !ip.is_unspecified();
    let four = |part: &str| part.split(':').any(|part| has_v4(part.trim_matches('.')));
    word.split(|c: char| !c.is_ascii_digit() && !".:".contains(c)).any(four)
        || v6(word).any(|ip| is_foreign(ip.into()))
}

/// Four numbers, or more, with points between.
fn has_v4(part: &str) -> bool {
    let numbers: Vec<&str> = part.split('.').collect();
    numbers.windows(4).any(|four| {
        let ip = four.join(".").parse::<Ipv4Addr>();
        ip.is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
    })
}

/// Whatever in a word reads as an IPv6 address between what is no letter and no digit.
fn v6(word: &str) -> impl Iterator<Item = Ipv6Addr> + '_ {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let starts = word.char_indices().map(|(at, _)| at);
    let starts = starts.filter(move |at| is_edge(word[..*at].chars().next_back()));
    let starts = starts.filter(move |_| word.matches(':').count() >= 2);
    starts.flat_map(move |start| {
        let rest = &word[start..];
        let may_be = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
        let most = rest.find(|c| !may_be(c)).unwrap_or(rest.len()).min(ADDRESS_BYTES_MAX);
        let ends = (2..=most).filter(move |end| is_edge(rest[*end..].chars().next()));
        ends.filter_map(move |end| rest[..end].parse().ok())
    })
}

/// A URL without its host, where that has a name.
fn without_host(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', ')']).unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, format!(":{port}")),
        _ => (authority, String::new()),
    };
    // What is in brackets was put there by us.
    if host.starts_with('(') || is_own(host) || !host.contains(char::is_alphanumeric) {
        return word.to_owned();
    }
    format!("{scheme}://{NAME}{port}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_addresses_go_from_logs_and_what_helps_stays() {
        let scrubber = Scrubber::new(
            vec![Secret::new("correct horse battery".to_owned())],
            ["acme-key".to_owned()].into(),
        );
        for (line, shown) in [
            ("authorization: Bearer abc123\n", "authorization: (removed)\n"),
            ("key sk-lt-Abcd1234-xyz refused", "key (removed) refused"),
            ("{\"password\":\"hunter2\",\"n\":1}", "{\"password\":\"(removed)\",\"n\":1}"),
            ("password=hunter2 user=x", "password=(removed) user=x"),
            ("from 203.0.113.7:443 and [2001:db8::1]:80", "from (removed) and (removed)"),
            ("to http://10.1.2.3:8000/v1, then", "to (removed), then"),
            ("mail root@example.org", "mail (removed)"),
            ("say correct horse battery staple", "say (removed) staple"),
            ("jwt eyJhbGciOi.x.y", "jwt (removed)"),
            ("refused (203.0.113.7)", "refused (removed)"),
            ("api_key = \"(removed)\"", "api_key = \"(removed)\""),
            ("AbCdEfGhIjKlMnOpQrStUvWx0123", "(removed)"),
            ("key 0123456789abcdef0123456789ABCDEF0 refused", "key (removed) refused"),
            ("url=http://h/0123456789abcdef0123456789abcdef", "url=(removed)"),
            ("of acme-key, and acme-keys", "of (a name), and acme-keys"),
            ("to https://llm.acme.example:443/v1?x, then", "to https://(a name):443/v1?x, then"),
        ] {
            assert_eq!(scrubber.scrub(line), shown);
        }
        for kept in [
            "2026-11-29T02:00:00.123456Z INFO controlplane::run: control plane ready admin=127.0.0.1:8090\n",
            "liutong_usage_pending 0\n",
            "http://127.0.0.1:18123 has version 26.7.2.1, the disk-full task-1",
            "node 00000000000000aa boot 4fd0c2b1a9e8d7f6, the token was taken\n",
            "/var/lib/liutong/dataplane/spool/0123456789abcdef0123456789abcdef/000001.seg",
            "\"found\": \"Linux 6.1.0-42-amd64\",\n",
        ] {
            assert_eq!(scrubber.scrub(kept), kept);
        }
    }

    #[test]
    fn what_follows_the_name_of_a_secret_goes_whatever_is_between() {
        let scrubber = Scrubber::new(Vec::new(), BTreeSet::new());
        for (line, shown) in [
            ("password: hunter2 x", "password: (removed) x"),
            ("password:hunter2 x", "password:(removed) x"),
            ("api_key: hunter2", "api_key: (removed)"),
            ("API-KEY: hunter2", "API-KEY: (removed)"),
            ("token: hunter2", "token: (removed)"),
            ("cookie: a=hunter2; b=hunter2\n", "cookie: (removed)\n"),
            ("Set-Cookie: a=hunter2; Path=/\r\n", "Set-Cookie: (removed)\r\n"),
            (r#"Authorization: Digest user="x", response="hunter2""#, "Authorization: (removed)"),
            ("Authorization:Token hunter2", "Authorization:(removed)"),
            ("Proxy-Authorization = hunter2 hunter2", "Proxy-Authorization = (removed)"),
            ("password=a,hunter2;hunter2=hunter2 user=x", "password=(removed) user=x"),
            (r#"password = "two hunter2" x"#, r#"password = "(removed)" x"#),
            ("password = 'two hunter2' x", "password = '(removed)' x"),
            (r#"{\"password\":\"two hunter2\",\"n\":1}"#, r#"{\"password\":\"(removed)\",\"n\":1}"#),
            (r#"{"secret": "a\" hunter2", "n": 1}"#, r#"{"secret": "(removed)", "n": 1}"#),
            (r#"token: Some("two hunter2") x"#, "token: (removed) x"),
            (r#"tokens = 5, token = ["a", "hunter2"]"#, "tokens = 5, token = (removed)"),
            ("CLICKHOUSE_PASSWORD=hunter2", "CLICKHOUSE_PASSWORD=(removed)"),
            ("http://h/?access_token=hunter2", "http://(a name)/?access_token=(removed)"),
            ("bearer hunter2", "bearer (removed)"),
        ] {
            let scrubbed = scrubber.scrub(line);
            assert!(!scrubbed.contains("hunter2"), "{line}: {scrubbed}");
            assert_eq!(scrubbed, shown, "{line}");
        }
        for kept in [r#"liutong_x{kind="token"} 5"#, "the token was taken", "usage of 5 tokens: 7"] {
            assert_eq!(scrubber.scrub(kept), kept);
        }
    }

    #[test]
    fn addresses_go_wherever_in_a_word_they_stand() {
        let scrubber = Scrubber::new(Vec::new(), BTreeSet::new());
        for address in [
            "tcp:10.1.2.3:80",
            "http://10.1.2.4//x",
            "[fe80::1%eth0]:80",
            "10.1.2.5-10.1.2.6",
            "10.1.2.5|10.1.2.6",
            "127.0.0.1|10.1.2.6",
            "(10.1.2.3)",
            "10.1.2.3/24",
            "10.1.2.3.",
            "a10.1.2.3b",
            "1.10.1.2.3",
            "fe80::1",
            "tcp:fe80::1",
            "::ffff:10.1.2.3",
            "2001:db8:0:0:0:0:0:1",
            "[2001:db8::1]:443",
            "from:2001:db8::1",
        ] {
            let line = format!("ip={address} and {address}\n");
            assert_eq!(scrubber.scrub(&line), "ip=(removed) and (removed)\n", "{address}");
        }
        for kept in [
            "127.0.0.1:80 0.0.0.0:8080 [::1]:80 [::]:80 ::1 localhost:80 12:34:56",
            "controlplane::run serde::de::Error std::fs::add a::x::c",
            "6.1.0-42-amd64 1.2.3 2026-11-29T02:00:00.123456Z",
            "http://127.0.0.1:18123/ http://[::1]:80/ http://localhost/x",
        ] {
            assert_eq!(scrubber.scrub(kept), kept);
        }
    }
}
