//! A connection to any ClickHouse server over HTTP.
//!
//! A thin wrapper of the `clickhouse` crate, which does no retries: the caller learns from the error whether
//! sending the same bytes again can help. Only what the server says about the data itself counts as a
//! refusal; everything else (no connection, no answer in time, no memory, too many parts, a schema that is
//! not there yet) is tried again. Errors keep the server's code and name and the beginning of its text, which
//! never holds more than ids and counts.

use std::time::Duration;

use clickhouse::error::Error as CrateError;
use clickhouse::query::Query;

/// The database that holds all of Liutong's tables.
pub const DATABASE: &str = "liutong";

/// Server texts are cut here: what follows is the version and, for parsing errors, rows.
const ERROR_TEXT_BYTES_MAX: usize = 300;

const LIFE_TIMEOUT: Duration = Duration::from_secs(5);
/// Both clocks are cut to seconds, and the wall clock is corrected now and then.
const SAME_LIFE_S: i64 = 2;

/// Codes with which ClickHouse refuses a value for what it is. Rows are sent in binary, with their types:
/// what a text could be wrong in is not among them, nor is what an altered table or a cut request brings
/// about (TYPE_MISMATCH, CANNOT_READ_ALL_DATA).
const REFUSALS: &[(u32, &str)] = &[
    (69, "ARGUMENT_OUT_OF_BOUND"),
    (117, "INCORRECT_DATA"),
    (131, "TOO_LARGE_STRING_SIZE"),
    (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"),
    (469, "VIOLATED_CONSTRAINT"),
    (691, "UNKNOWN_ELEMENT_OF_ENUM"),
];

/// What an exception says that a view which somebody hung on the table has thrown.
const IN_A_VIEW: &str = "pushing to view";

/// Why ClickHouse did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClickHouseError {
    /// No answer: the request may or may not have been carried out.
    #[error("clickhouse gave no answer: {0}")]
    Unavailable(String),
    /// The server answered with an exception.
    #[error("clickhouse code {code}: {text}")]
    Server {
        /// ClickHouse's error code; 0 when its answer named none.
        code: u32,
        /// The beginning of what it said.
        text: String,
        /// Whether a view on the table has thrown it, which says nothing about the rows.
        in_a_view: bool,
    },
    /// The answer or the table's columns are not what this version expects.
    #[error("clickhouse schema: {0}")]
    Schema(String),
}

impl ClickHouseError {
    /// Whether the server refused the data itself, so that sending it again cannot help, as far as its answer
    /// tells; an altered table may say the same (see `schema`).
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Server { code, in_a_view: false, .. } if REFUSALS.iter().any(|(refusal, _)| refusal == code))
    }
}

impl From<CrateError> for ClickHouseError {
    fn from(error: CrateError) -> Self {
        match error {
            CrateError::BadResponse(text) => {
                let in_a_view = text.contains(IN_A_VIEW);
                Self::Server { code: exception_code(&text).unwrap_or(0), text: beginning(&text), in_a_view }
            }
            CrateError::Network(source) => Self::Unavailable(causes(source.as_ref())),
            CrateError::TimedOut => Self::Unavailable("timeout expired".into()),
            CrateError::Compression(_) | CrateError::Decompression(_) | CrateError::Other(_) => {
                Self::Unavailable(beginning(&error.to_string()))
            }
            other => Self::Schema(beginning(&other.to_string())),
        }
    }
}

/// The number after `Code: ` in the server's text.
fn exception_code(text: &str) -> Option<u32> {
    let digits = text.split_once("Code: ")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

fn beginning(text: &str) -> String {
    let mut end = text.len().min(ERROR_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim_end().to_owned()
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    beginning(&text)
}

/// One run of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clickhouse::Row, serde::Deserialize)]
pub struct Life {
    /// When it began, Unix time in seconds; a second more or less.
    pub since_s: i64,
    /// Whether it has our tables.
    pub has_tables: bool,
}

impl Life {
    /// Whether `later` is the same run.
    #[must_use]
    pub fn is_continued_by(self, later: Self) -> bool {
        (later.since_s - self.since_s).abs() <= SAME_LIFE_S
    }
}

/// A ClickHouse server, as one user. Clones share the connections.
#[derive(Clone)]
pub struct Client {
    inner: clickhouse::Client,
}

impl Client {
    /// A server at `url` (`http://host:port`), without connecting yet.
    #[must_use]
    pub fn new(url: &str, user: &str, password: &str) -> Self {
        Self { inner: clickhouse::Client::default().with_url(url).with_user(user).with_password(password) }
    }

    /// A statement that names its database where it needs one; `{name:Type}` are bound by `param`, `?` by
    /// `bind`.
    pub fn query(&self, sql: &str) -> Query {
        self.inner.query(sql)
    }

    /// Runs one statement that returns nothing.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the statement.
    pub async fn execute(&self, sql: &str) -> Result<(), ClickHouseError> {
        // `query` would take a question mark in the text for a parameter.
        Ok(self.inner.query_raw(sql).execute().await?)
    }

    /// Whether the server answers this user within `timeout`.
    ///
    /// # Errors
    /// When it does not, or refuses the user.
    pub async fn ping(&self, timeout: Duration) -> Result<(), ClickHouseError> {
        match tokio::time::timeout(timeout, self.execute("SELECT 1 FORMAT Null")).await {
            Ok(answer) => answer,
            Err(_) => Err(ClickHouseError::Unavailable("timeout expired".into())),
        }
    }

    /// Since when the server is up, and whether it has our tables.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn life(&self) -> Result<Life, ClickHouseError> {
        let asked = self
            .query(
                "SELECT toInt64(now()) - toInt64(uptime()) AS since_s, count() > 0 AS has_tables FROM system.tables
                 WHERE database = 'liutong' AND name = 'usage_events'",
            )
            .fetch_one();
        match tokio::time::timeout(LIFE_TIMEOUT, asked).await {
            Ok(life) => Ok(life?),
            Err(_) => Err(ClickHouseError::Unavailable("timeout expired".into())),
        }
    }

    /// The crate's own client, for typed inserts.
    pub(crate) fn inner(&self) -> &clickhouse::Client {
        &self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_about_the_data_is_a_refusal() {
        for (text, code, refused) in [
            ("Code: 469. DB::Exception: Constraint is violated. (VIOLATED_CONSTRAINT)", 469, true),
            ("Code: 469. DB::Exception: while pushing to view default.theirs", 469, false),
            ("Code: 53. DB::Exception: Cannot convert. (TYPE_MISMATCH)", 53, false),
            ("Code: 33. DB::Exception: Cannot read all data. (CANNOT_READ_ALL_DATA)", 33, false),
            ("Code: 27. DB::Exception: Cannot parse input", 27, false),
            ("Code: 691. DB::Exception: Unknown element 7 for enum", 691, true),
            ("Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS)", 252, false),
            ("Code: 241. DB::Exception: memory limit exceeded", 241, false),
            ("Code: 516. DB::Exception: Authentication failed", 516, false),
            ("Code: 60. DB::Exception: Table does not exist", 60, false),
            ("Bad Gateway", 0, false),
        ] {
            let error = ClickHouseError::from(CrateError::BadResponse(text.into()));
            assert!(matches!(error, ClickHouseError::Server { code: found, .. } if found == code), "{text}");
            assert_eq!(error.is_refusal(), refused, "{text}");
        }
        assert!(!ClickHouseError::from(CrateError::TimedOut).is_refusal());
        assert!(!ClickHouseError::from(CrateError::SchemaMismatch("column".into())).is_refusal());
    }

    #[test]
    fn long_server_texts_are_cut_at_a_character() {
        let text = format!("Code: 1. {}", "流".repeat(200));
        let error = ClickHouseError::from(CrateError::BadResponse(text));
        assert!(error.to_string().len() < ERROR_TEXT_BYTES_MAX + 40);
    }
}
