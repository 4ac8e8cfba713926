//! Messages of the TOML parser, without the values that they repeat.
//!
//! Whoever writes `OPENAI = "sk-..."` where a table belongs is told "invalid type: string "sk-...", expected
//! struct", and the line ends in a log.

/// What the deserializer says before the value.
const BEFORE: [&str; 2] = ["invalid type: ", "invalid value: "];
/// And behind it.
const BEHIND: &str = ", expected ";

/// The message in one line, without the value that was found; its kind and what is allowed stay.
#[must_use]
pub fn without_values(message: &str) -> String {
    let line = message.lines().collect::<Vec<_>>().join(" ");
    let found = BEFORE.iter().find_map(|before| Some((before, line.strip_prefix(before)?)));
    let Some((before, (found, expected))) =
        found.and_then(|(before, rest)| Some((before, rest.rsplit_once(BEHIND)?)))
    else {
        return line;
    };
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    format!("{before}{kind}{BEHIND}{expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_and_the_rest_stays() {
        for (message, expected) in [
            (
                "invalid type: string \"sk-1, expected x\", expected struct Credential",
                "invalid type: string, expected struct Credential",
            ),
            ("invalid type: integer `123456`, expected a string", "invalid type: integer, expected a string"),
            ("invalid type: map, expected a string", "invalid type: map, expected a string"),
            ("unknown field `colour`, expected `data_dir`", "unknown field `colour`, expected `data_dir`"),
            ("missing field `data_dir`\n", "missing field `data_dir`"),
        ] {
            assert_eq!(without_values(message), expected);
        }
    }
}
