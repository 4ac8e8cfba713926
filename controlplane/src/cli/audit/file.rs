//! `liutong audit verify --file`: the chain of an exported trail, without a control plane.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::cli::CliError;
use crate::cli::output::Output;
use crate::registry::audit::exported::{Exported, VerifiedExport};

pub(in crate::cli) fn verify(out: &Output, file: &Path, expected: Option<&str>) -> Result<(), CliError> {
    let failed = |source| CliError::File { action: "reading", path: file.to_owned(), source };
    let verified = if file.as_os_str() == "-" {
        walk(&mut std::io::stdin().lock(), expected)
    } else {
        walk(&mut BufReader::new(std::fs::File::open(file).map_err(failed)?), expected)
    };
    let verified = verified.map_err(failed)?.ok_or_else(|| {
        CliError::Usage("--file: a trail that was exported with -o jsonl or -o json".to_owned())
    })?;
    out.one(&serde_json::to_value(&verified).unwrap_or_default())?;
    if verified.is_intact { Ok(()) } else { Err(CliError::Altered { faults: verified.faults.len() }) }
}

/// None where it is neither an array nor one object in each line.
fn walk(input: &mut dyn BufRead, expected: Option<&str>) -> std::io::Result<Option<VerifiedExport>> {
    let mut exported = Exported::new(expected);
    match input.fill_buf()?.first() {
        Some(b'[') => {
            let mut text = Vec::new();
            input.read_to_end(&mut text)?;
            match serde_json::from_slice::<Vec<Value>>(&text) {
                Ok(records) => records.iter().for_each(|one| exported.step(Some(one))),
                Err(_) => exported.step(None),
            }
        }
        Some(b'{') => {
            for line in input.split(b'\n') {
                let line = line?;
                if !line.is_empty() {
                    exported.step(serde_json::from_slice::<Value>(&line).ok().as_ref());
                }
            }
        }
        _ => return Ok(None),
    }
    Ok(Some(exported.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_export_is_a_usage_error_and_a_cut_one_a_fault() {
        for text in ["", "at,by_name\n", "hello"] {
            assert!(walk(&mut text.as_bytes(), None).unwrap().is_none(), "{text}");
        }
        for text in ["[{\"seq\": 1}", "[7]", "{\"seq\": 1", "{}\n"] {
            let found = walk(&mut text.as_bytes(), None).unwrap().unwrap();
            assert!(!found.is_intact && found.faults[0].starts_with("entry 1 "), "{text} {found:?}");
        }
        let missing = verify(&Output::new(crate::cli::Format::Json), Path::new("/nonexistent/x"), None);
        assert_eq!(missing.unwrap_err().exit_status(), 3);
    }
}
