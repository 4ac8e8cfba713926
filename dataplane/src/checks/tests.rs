//! The checks, with the seeds of the fuzzers, the hostile inputs, and mutations of both that a fixed seed
//! decides. `make fuzz` goes on from here for as long as it is told to.

use std::path::{Path, PathBuf};

use super::ALL;

/// How many mutations of its seeds each check gets.
const MUTATIONS: usize = 10_000;
/// The longest mutation.
const BYTES_MAX: usize = 2_048;

/// What parsers take to heart.
const TOKENS: [&[u8]; 30] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r",
    b"\0",
    b": ",
    b"0\r\n\r\n",
    b";a=b",
    b"Content-Length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"host: a\r\n",
    b"HTTP/1.0",
    b"\xff",
    b"ffffffffffffffff",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\u0075",
    b",",
    b"null",
    b"\"usage\":{\"total_tokens\":1}",
    b"\"model\":\"a\"",
    b"\"stream\":true",
    b"\"stream_options\":{}",
    b"\"Model\":",
    b"\"\xc5\xbftream\":",
    b"data: ",
    b"[DONE]",
];

/// xorshift64: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }

    /// A stretch of `bytes`, mostly a short one.
    fn stretch(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len());
        let len = if self.below(4) == 0 { self.below(bytes.len()) } else { self.below(9) };
        start..(start + len).min(bytes.len())
    }

    /// One of `seeds`, changed in one to four places.
    fn mutation(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.stretch(&bytes);
            match self.below(5) {
                0 => drop(bytes.splice(at, TOKENS[self.below(TOKENS.len())].iter().copied())),
                1 => drop(bytes.drain(at)),
                2 => drop(bytes.splice(at.end..at.end, bytes[at].to_vec())),
                3 => {
                    let other = &seeds[self.below(seeds.len())];
                    drop(bytes.splice(at, other[self.stretch(other)].iter().copied()));
                }
                _ => {
                    let bit = 1 << self.below(8);
                    bytes[at].iter_mut().take(1).for_each(|byte| *byte ^= bit);
                }
            }
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    // A directory has no order of its own, and the mutations are to be the same everywhere.
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The seeds of a check, and the hostile inputs of its kind.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = files(&here.join("fuzz/seeds").join(name));
    assert!(seeds.len() >= 4, "the seeds of {name} are missing");
    seeds.extend(files(&here.join("tests/hostile").join(name.trim_end_matches("_head"))));
    seeds
}

fn run(name: &str) {
    let (_, check) = ALL.iter().find(|(known, _)| *known == name).unwrap();
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| check(seed));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..MUTATIONS {
        let bytes = random.mutation(&seeds);
        let done = std::panic::catch_unwind(|| check(&bytes));
        assert!(done.is_ok(), "{name}, mutation {number}: {}", bytes.escape_ascii());
    }
}

#[test]
fn heads_hold_for_seeds_and_mutations() {
    run("request_head");
    run("known_head");
    run("response_head");
}

#[test]
fn http_2_holds_for_seeds_and_mutations() {
    run("http2_request");
    run("http2_answer");
}

#[test]
fn bodies_hold_for_seeds_and_mutations() {
    run("chunked");
    run("model");
}

#[test]
fn answers_hold_for_seeds_and_mutations() {
    run("events");
    run("usage");
}

#[test]
fn frames_hold_for_seeds_and_mutations() {
    run("frames");
}

#[test]
fn every_check_has_a_fuzzer() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(here.join("Cargo.toml")).unwrap();
    for (name, _) in ALL {
        let target = std::fs::read_to_string(here.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("checks::{name}")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
