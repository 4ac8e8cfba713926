//! Puts tables into Markdown files, between two comments.

use std::path::Path;

use anyhow::{Context, ensure};

/// Stands before a table.
const BEGIN: &str = "<!-- bench:begin -->";
/// Stands behind it.
const END: &str = "<!-- bench:end -->";

/// Replaces what stands between the marks in `file`.
pub(crate) fn into_file(file: &Path, text: &str) -> anyhow::Result<()> {
    let name = file.display();
    let before =
        std::fs::read_to_string(file).with_context(|| format!("{name}: run this in the repository"))?;
    let after = replaced(&before, text).with_context(|| format!("{name}"))?;
    std::fs::write(file, after).with_context(|| format!("{name}"))
}

fn replaced(document: &str, text: &str) -> anyhow::Result<String> {
    let marks = || format!("has no {BEGIN} with an {END} behind it");
    let (front, rest) = document.split_once(BEGIN).with_context(marks)?;
    let (_, back) = rest.split_once(END).with_context(marks)?;
    ensure!(!back.contains(BEGIN), "has more than one {BEGIN}");
    Ok(format!("{front}{BEGIN}\n\n{}\n\n{END}{back}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes_and_twice_is_as_once() {
        let once = replaced("a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nz\n", "| new |\n").unwrap();
        assert_eq!(once, "a\n<!-- bench:begin -->\n\n| new |\n\n<!-- bench:end -->\nz\n");
        assert_eq!(replaced(&once, "| new |").unwrap(), once);
    }

    #[test]
    fn a_document_without_both_marks_is_left_alone() {
        for document in ["", "<!-- bench:begin -->", "<!-- bench:end --><!-- bench:begin -->"] {
            assert!(replaced(document, "x").is_err(), "{document}");
        }
    }
}
