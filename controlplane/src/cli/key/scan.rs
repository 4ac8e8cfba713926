//! `liutong key scan`: finds keys in text of any size by their form and their checksum.
//!
//! Nothing of a key is shown but its public prefix, and its SHA-256 in JSON and CSV: a whole key must not get
//! from one place where it should not be into another. A well-formed key is not yet one of ours; `key revoke
//! --from` finds that out.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use memchr::{memchr_iter, memmem};
use serde_json::{Value, json};
use wire::id::KeyDigest;
use wire::key_format::{self, ADMIN_KEY_BYTES, DISPLAY_BYTES, KEY_BYTES};

use crate::cli::CliError;
use crate::cli::output::{Format, Output, print, visible};
use crate::cli::progress::Progress;
use crate::keys;

pub(in crate::cli) const SCAN_EXAMPLES: &str = "\
Examples:
  liutong key scan *.log src/config.py
  git log -p --all | liutong key scan --check
  liutong key scan dump.sql -o json | liutong key revoke --from -";

const READ_BYTES: usize = 256 * 1024;
/// What all keys begin with.
const BEGINNING: &[u8] = b"sk-lt";

#[derive(Debug, Args)]
pub(in crate::cli) struct ScanArgs {
    /// Files; stdin without any, or as -
    files: Vec<PathBuf>,
    /// Exit status 1 where any key is found
    #[arg(long)]
    check: bool,
}

/// A key in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The line it begins on; the first is 1.
    pub(super) line: u64,
    /// `sk-lt-` and the public id; of an administrator's key, which has none, what all begin with.
    pub(super) prefix: String,
    /// SHA-256 of the whole.
    pub(super) digest: KeyDigest,
}

/// Finds keys in a text that comes in pieces, cut anywhere.
#[derive(Default)]
pub(super) struct Scanner {
    /// What was fed and may be the beginning of a key.
    held: Vec<u8>,
    lines: u64,
}

impl Scanner {
    /// Takes the next piece.
    pub(super) fn feed(&mut self, piece: &[u8], found: &mut impl FnMut(Found)) {
        self.held.extend_from_slice(piece);
        let end = (self.held.len() + 1).saturating_sub(KEY_BYTES);
        self.scan(end, found);
    }

    /// The text has ended.
    pub(super) fn finish(&mut self, found: &mut impl FnMut(Found)) {
        self.scan(self.held.len(), found);
    }

    /// Looks for keys that begin before `end`, and lets go of what is behind.
    fn scan(&mut self, end: usize, found: &mut impl FnMut(Found)) {
        let (mut at, mut counted) = (0, 0);
        while let Some(offset) = self.held.get(at..).and_then(|rest| memmem::find(rest, BEGINNING)) {
            let start = at + offset;
            if start >= end {
                break;
            }
            let Some((len, prefix)) = key_at(&self.held[start..]) else {
                at = start + 1;
                continue;
            };
            self.lines += memchr_iter(b'\n', &self.held[counted..start]).count() as u64;
            counted = start;
            at = start + len;
            let digest = keys::digest(&self.held[start..at]);
            found(Found { line: self.lines + 1, prefix, digest });
        }
        let gone = end.max(at).min(self.held.len());
        self.lines += memchr_iter(b'\n', &self.held[counted..gone]).count() as u64;
        self.held.drain(..gone);
    }
}

/// The length and the prefix of the key that `text` begins with.
fn key_at(text: &[u8]) -> Option<(usize, String)> {
    let prefix = |len: usize| String::from_utf8_lossy(&text[..len]).into_owned();
    if text.get(..KEY_BYTES).is_some_and(key_format::check) {
        return Some((KEY_BYTES, prefix(DISPLAY_BYTES)));
    }
    let is_admin = text.get(..ADMIN_KEY_BYTES).is_some_and(key_format::check_admin);
    is_admin.then(|| (ADMIN_KEY_BYTES, prefix(key_format::ADMIN_PREFIX.len())))
}

pub(in crate::cli) fn run(out: &Output, options: &ScanArgs) -> Result<(), CliError> {
    let stdin = [PathBuf::from("-")];
    let files = if options.files.is_empty() { &stdin[..] } else { &options.files };
    let (mut rows, mut count) = (Vec::new(), 0u64);
    for file in files {
        let name = if is_stdin(file) { "(stdin)".to_owned() } else { file.display().to_string() };
        let failed = |source| CliError::File { action: "reading", path: file.clone(), source };
        let mut written = Ok(());
        scan_file(file, &mut |found| {
            count += 1;
            if out.format() == Format::Table {
                // At once: a long scan shows what it has.
                let line = format!("{}:{}: {}\n", visible(&name), found.line, found.prefix);
                written = std::mem::replace(&mut written, Ok(())).and_then(|()| print(&line));
            } else {
                rows.push(row(&name, &found));
            }
        })
        .map_err(failed)?;
        written?;
    }
    if out.format() != Format::Table {
        out.list(&rows, &["file", "line", "prefix", "sha256"])?;
    }
    if options.check && count > 0 {
        return Err(CliError::KeysFound { count });
    }
    Ok(())
}

fn row(file: &str, found: &Found) -> Value {
    json!({"file": file, "line": found.line, "prefix": found.prefix, "sha256": found.digest.to_string()})
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn scan_file(file: &Path, found: &mut impl FnMut(Found)) -> io::Result<()> {
    if is_stdin(file) {
        return scan(io::stdin().lock(), &Progress::of_bytes("scanning stdin", None), found);
    }
    let text = File::open(file)?;
    let bytes = text.metadata().ok().map(|metadata| metadata.len()).filter(|bytes| *bytes > 0);
    scan(text, &Progress::of_bytes(&format!("scanning {}", file.display()), bytes), found)
}

fn scan(mut text: impl Read, progress: &Progress, found: &mut impl FnMut(Found)) -> io::Result<()> {
    let mut scanner = Scanner::default();
    let mut piece = vec![0; READ_BYTES];
    loop {
        match text.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => {
                scanner.feed(&piece[..len], found);
                progress.advance(len);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    scanner.finish(found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pieces: &[&[u8]]) -> Vec<Found> {
        let (mut scanner, mut all) = (Scanner::default(), Vec::new());
        pieces.iter().for_each(|piece| scanner.feed(piece, &mut |found| all.push(found)));
        scanner.finish(&mut |found| all.push(found));
        all
    }

    #[test]
    fn keys_are_found_with_their_lines_wherever_the_text_is_cut() {
        let (id, key) = keys::new_key().unwrap();
        let admin = keys::new_admin_key().unwrap();
        let mistyped = key.reveal().replace(&key.reveal()[20..21], "~");
        let text = format!(
            "# sk-lt- sk-lt\nkey={}\nsk-lt-{}\n{mistyped}\n\n\"{}\" {}",
            key.reveal(),
            key.reveal(),
            admin.reveal(),
            key.reveal()
        );
        let expect = |line, prefix: &str, digest| Found { line, prefix: prefix.to_owned(), digest };
        let prefix = format!("sk-lt-{id}");
        let expected = [
            expect(2, &prefix, key.digest()),
            expect(3, &prefix, key.digest()),
            expect(6, "sk-ltadm-", admin.digest()),
            expect(6, &prefix, key.digest()),
        ];
        let text = text.as_bytes();
        assert_eq!(found(&[text]), expected);
        for at in 0..text.len() {
            assert_eq!(found(&[&text[..at], &text[at..]]), expected, "cut at {at}");
        }
        assert_eq!(found(&text.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    }

    #[test]
    fn what_is_held_stays_short_however_long_the_text() {
        let mut scanner = Scanner::default();
        for _ in 0..64 {
            scanner.feed(&b"sk-lt-A1b2C3d4-\n".repeat(1000), &mut |found| panic!("{found:?}"));
            assert!(scanner.held.len() < KEY_BYTES);
        }
        assert_eq!(scanner.lines, 63_996);
    }
}
