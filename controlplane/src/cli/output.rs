//! What goes to stdout: JSON as the admin API gave it, or the same as a table or CSV.
//!
//! A table shows the columns that people look for; CSV has every field, those first, so that a script finds
//! in it what JSON has. Text in a table is shown without control characters: a name must not move the
//! reader's cursor.
//!
//! On a terminal a list fits its width. Lines are never wrapped, and what there is to copy (ids, names, keys)
//! is never cut: first long texts are shortened, then the last columns are left out, and named.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use super::CliError;

/// The form of the data on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[value(alias = "text")]
    Table,
    /// The admin API's fields as they are: an object for one thing, an array for a list
    Json,
    /// The same, one line for each thing
    Jsonl,
    /// With a header line
    Csv,
}

impl Format {
    /// Whether the admin API's own fields are wanted, not a selection for people.
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// What a long text is shortened to, where the terminal is too narrow.
const SHORT_CHARS: usize = 32;
/// What is never shortened: people copy it.
const COPIED: [&str; 8] = ["id", "name", "alias", "prefix", "node", "file", "application", "team"];

/// Prints data in one form.
pub(super) struct Output {
    format: Format,
    /// Of the terminal, in columns.
    width: Option<usize>,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format, width: terminal_width() }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Prints a list; `columns` are those that a table has, where any row has them.
    pub(super) fn list(&self, rows: &[Value], columns: &[&str]) -> Result<(), CliError> {
        let text = match self.format {
            Format::Json => json(&Value::Array(rows.to_vec())),
            Format::Jsonl => rows.iter().map(|row| format!("{row}\n")).collect(),
            Format::Table => {
                let (text, left_out) = fitted(rows, &present(rows, columns), self.width);
                if !left_out.is_empty() {
                    let names = left_out.join(", ");
                    eprintln!("liutong: the terminal is too narrow for: {names}");
                }
                text
            }
            Format::Csv => csv(rows, &all(rows, columns))?,
        };
        print(&text)
    }

    /// Prints one thing: in a table, a line for each field.
    pub(super) fn one(&self, row: &Value) -> Result<(), CliError> {
        let rows = std::slice::from_ref(row);
        let text = match self.format {
            Format::Json => json(row),
            Format::Jsonl => format!("{row}\n"),
            Format::Table => fields(row),
            Format::Csv => csv(rows, &all(rows, &[]))?,
        };
        print(&text)
    }
}

/// Writes to stdout; a closed pipe is an error, not a panic.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| CliError::Stdout { source })
}

fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

fn present<'a>(rows: &[Value], columns: &[&'a str]) -> Vec<&'a str> {
    let known: Vec<&str> =
        columns.iter().copied().filter(|c| rows.iter().any(|row| row.get(c).is_some())).collect();
    if rows.is_empty() { columns.to_vec() } else { known }
}

fn all<'a>(rows: &'a [Value], columns: &[&'a str]) -> Vec<&'a str> {
    let mut names = present(rows, columns);
    for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

/// The terminal that stdout is; `None` where it is none, or does not say.
fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?.ws_col;
    (columns > 0).then_some(usize::from(columns))
}

/// The table, as wide as may be; and the columns that it has no room for.
fn fitted<'a>(rows: &[Value], columns: &[&'a str], width: Option<usize>) -> (String, Vec<&'a str>) {
    let whole = table(rows, columns, usize::MAX);
    let Some(width) = width.filter(|width| widest(&whole) > *width) else { return (whole, Vec::new()) };
    let mut shown = columns.len();
    loop {
        let text = table(rows, &columns[..shown], SHORT_CHARS);
        if shown <= 1 || widest(&text) <= width {
            return (text, columns[shown..].to_vec());
        }
        shown -= 1;
    }
}

fn widest(text: &str) -> usize {
    text.lines().map(console::measure_text_width).max().unwrap_or(0)
}

/// Texts that are not there to be copied have at most `chars_max`.
fn table(rows: &[Value], columns: &[&str], chars_max: usize) -> String {
    let mut table = plain_table();
    table.set_header(columns.iter().map(|c| Cell::new(c).add_attribute(Attribute::Bold)));
    for row in rows {
        table.add_row(columns.iter().map(|column| {
            let chars_max = if COPIED.contains(column) { usize::MAX } else { chars_max };
            cell(row.get(column).unwrap_or(&Value::Null), chars_max)
        }));
    }
    format!("{}\n", table.trim_fmt())
}

fn fields(row: &Value) -> String {
    let mut table = plain_table();
    for (name, value) in row.as_object().into_iter().flatten() {
        table.add_row([Cell::new(name).add_attribute(Attribute::Bold), Cell::new(shown(value))]);
    }
    format!("{}\n", table.trim_fmt())
}

fn plain_table() -> Table {
    let mut table = Table::new();
    // Lines are never wrapped to the terminal's width: ids and keys are there to be copied.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn cell(value: &Value, chars_max: usize) -> Cell {
    let mut text = shown(value);
    if chars_max < usize::MAX && text.chars().count() > chars_max {
        text = text.chars().take(chars_max - 1).chain(['…']).collect();
    }
    let cell = Cell::new(text);
    if value.is_number() { cell.set_alignment(CellAlignment::Right) } else { cell }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "(none)".to_owned(),
        _ => flat(value),
    };
    visible(&text)
}

/// A text without what would move the cursor, or turn the direction of what is written behind it.
pub(in crate::cli) fn visible(text: &str) -> String {
    let is_turn =
        |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let seen = |c: char| if c.is_control() || is_turn(c) { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(seen).collect()
}

/// The text of a value: what it says, without quotes; a list's items separated by commas.
fn flat(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|i| !i.is_array() && !i.is_object()) => {
            items.iter().map(flat).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

fn csv(rows: &[Value], columns: &[&str]) -> Result<String, CliError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let stdout = |source: csv::Error| CliError::Stdout { source: source.into() };
    if !columns.is_empty() {
        writer.write_record(columns).map_err(stdout)?;
    }
    for row in rows {
        let record = columns.iter().map(|column| row.get(column).map(csv_cell).unwrap_or_default());
        writer.write_record(record).map_err(stdout)?;
    }
    let bytes = writer.into_inner().map_err(|error| CliError::Stdout { source: error.into_error() })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A cell of a file that people open with a spreadsheet: a text that it would take for a formula has an
/// apostrophe before it.
fn csv_cell(value: &Value) -> String {
    let text = flat(value);
    match value {
        Value::String(_) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_the_columns_that_were_asked_for_and_csv_has_every_field() {
        let rows = [json!({"name":"a","id":"1","tokens":7}), json!({"name":"b","id":"2","models":["x","y"]})];
        let columns = ["id", "name", "models", "absent"];
        let table = table(&rows, &present(&rows, &columns), usize::MAX);
        assert!(table.contains("x,y") && !table.contains('7') && !table.contains("absent"), "{table}");
        let csv = csv(&rows, &all(&rows, &columns)).unwrap();
        assert_eq!(csv, "id,name,models,tokens\n1,a,,7\n2,b,\"x,y\",\n");
    }

    #[test]
    fn what_administrators_called_things_is_no_formula_and_turns_no_line() {
        let rows = [json!({"name": "=HYPERLINK(\"x\")", "tokens": -7})];
        assert_eq!(csv(&rows, &["name", "tokens"]).unwrap(), "name,tokens\n\"'=HYPERLINK(\"\"x\"\")\",-7\n");
        assert_eq!(visible("a\u{1b}]0;b\u{7}\u{202e}c"), "a\u{fffd}]0;b\u{fffd}\u{fffd}c");
    }

    #[test]
    fn an_empty_list_still_has_its_header() {
        assert!(table(&[], &present(&[], &["id", "name"]), 9).contains("name"));
        assert_eq!(csv(&[], &all(&[], &["id", "name"])).unwrap(), "id,name\n");
    }

    #[test]
    fn on_a_narrow_terminal_long_texts_are_shortened_and_then_the_last_columns_left_out() {
        let id = "key_0123456789012345678901234567890123456789";
        let rows = [json!({"id": id, "description": "d".repeat(60), "status": "active"})];
        let columns = ["id", "description", "status"];
        let (text, left_out) = fitted(&rows, &columns, Some(200));
        assert!(text.contains(&"d".repeat(60)) && left_out.is_empty(), "{text}");
        let (text, left_out) = fitted(&rows, &columns, Some(100));
        assert!(text.contains("ddd…") && text.contains("active") && left_out.is_empty(), "{text}");
        let (text, left_out) = fitted(&rows, &columns, Some(84));
        assert!(text.lines().all(|line| console::measure_text_width(line) <= 84), "{text}");
        assert_eq!(left_out, ["status"]);
        let (text, left_out) = fitted(&rows, &columns, Some(10));
        assert!(text.contains(id), "{text}");
        assert_eq!(left_out, ["description", "status"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let shown = fields(&json!({"name": "a\u{1b}[2Jb\nc"}));
        assert!(!shown.contains('\u{1b}') && shown.lines().count() == 1, "{shown:?}");
    }
}
