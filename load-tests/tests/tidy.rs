//! How the tree looks: every file says what it is, lines fit, dependencies point one way, and `cargo fmt` is
//! content.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

const COLUMNS_MAX: usize = 110;
/// rustfmt keeps code to `COLUMNS_MAX`; what it can't break are literals.
const LITERAL_COLUMNS_MAX: usize = 150;
const FOLDERS: [&str; 5] = ["bench", "controlplane", "dataplane", "load-tests", "systemd"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files that are part of the project, relative to its root.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<PathBuf> =
        text.lines().map(PathBuf::from).filter(|file| root().join(file).exists()).collect();
    assert!(files.len() > 100, "git lists {} files", files.len());
    files
}

fn rust_files() -> impl Iterator<Item = (PathBuf, String)> {
    files()
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .map(|file| (file.clone(), std::fs::read_to_string(root().join(file)).unwrap()))
}

fn none(kind: &str, found: &[String]) {
    assert!(found.is_empty(), "{kind}:\n{}", found.join("\n"));
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let silent: Vec<_> = rust_files()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(f, _)| f.display().to_string())
        .collect();
    none("files without a header", &silent);
}

#[test]
fn lines_fit_and_nothing_is_left_for_later() {
    let mut found = Vec::new();
    // In two halves, so that this file does not find itself.
    let leftovers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("dbg", "!("), concat!("todo", "!(")];
    for (file, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            let at = || format!("{}:{}", file.display(), number + 1);
            let is_comment = line.trim_start().starts_with("//");
            let columns_max = if is_comment { COLUMNS_MAX } else { LITERAL_COLUMNS_MAX };
            if line.chars().count() > columns_max {
                found.push(format!("{} is {} columns", at(), line.chars().count()));
            }
            found.extend(
                leftovers.iter().filter(|word| line.contains(**word)).map(|word| format!("{} {word}", at())),
            );
        }
    }
    none("lines", &found);
}

#[test]
fn modules_are_named_after_what_they_hold() {
    let found: Vec<_> = files()
        .iter()
        .filter(|file| file.file_name().is_some_and(|name| name == "mod.rs"))
        .map(|file| file.display().to_string())
        .collect();
    none("mod.rs", &found);
}

#[test]
fn the_top_level_folders_are_those_of_the_design() {
    let mut found: Vec<String> = files()
        .iter()
        .filter(|file| file.components().count() > 1)
        .map(|file| file.components().next().unwrap().as_os_str().to_string_lossy().into_owned())
        .filter(|folder| !folder.starts_with('.'))
        .collect();
    found.sort();
    found.dedup();
    assert_eq!(found, FOLDERS);
}

#[test]
fn dependencies_point_one_way() {
    let tree = |package: &str| {
        let out = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--package", package])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let cases: [(&str, &[&str]); 3] = [
        // Bytes only.
        ("liutong-wire", &["tokio", "monoio", "liutong-dataplane", "liutong-controlplane"]),
        // No second runtime (of tokio only traits: its driver would bring mio), no HTTP/1 decoder that must
        // not face a network, no advisories of its dependencies.
        ("liutong-dataplane", &["mio", "hyper", "monoio-http", "monoio-rustls", "liutong-controlplane"]),
        ("liutong-controlplane", &["monoio", "monoio-http", "liutong-dataplane"]),
    ];
    for (package, forbidden) in cases {
        let tree = tree(package);
        let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        for name in forbidden {
            assert!(!names.contains(name), "{package} depends on {name}");
        }
    }
}

#[test]
fn formatting_is_cargos() {
    let out = Command::new(env!("CARGO")).args(["fmt", "--check"]).current_dir(root()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}
