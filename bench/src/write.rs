//! Puts tables into Markdown files, between two comments.

use std::path::Path;

use anyhow::{Context, ensure};

/// Replaces what stands between the marks of that name in `file`.
pub(crate) fn into_file(file: &Path, mark: &str, text: &str) -> anyhow::Result<()> {
    let name = file.display();
    let before =
        std::fs::read_to_string(file).with_context(|| format!("{name}: run this in the repository"))?;
    let after = replaced(&before, mark, text).with_context(|| format!("{name}"))?;
    std::fs::write(file, after).with_context(|| format!("{name}"))
}

fn replaced(document: &str, mark: &str, text: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- {mark}:begin -->"), format!("<!-- {mark}:end -->"));
    let marks = || format!("has no {begin} with an {end} behind it");
    let (front, rest) = document.split_once(&begin).with_context(marks)?;
    let (_, back) = rest.split_once(&end).with_context(marks)?;
    ensure!(!back.contains(&begin), "has more than one {begin}");
    Ok(format!("{front}{begin}\n\n{}\n\n{end}{back}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes_and_twice_is_as_once() {
        let once =
            replaced("a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nz\n", "bench", "| new |\n").unwrap();
        assert_eq!(once, "a\n<!-- bench:begin -->\n\n| new |\n\n<!-- bench:end -->\nz\n");
        assert_eq!(replaced(&once, "bench", "| new |").unwrap(), once);
    }

    #[test]
    fn a_document_without_both_marks_is_left_alone() {
        for document in [
            "",
            "<!-- memory:begin --><!-- memory:end -->",
            "<!-- bench:begin -->",
            "<!-- bench:end --><!-- bench:begin -->",
        ] {
            assert!(replaced(document, "bench", "x").is_err(), "{document}");
        }
    }
}
