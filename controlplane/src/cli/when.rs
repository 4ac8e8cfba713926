//! Points in time as people write them: RFC 3339, a date (UTC), or a span such as `7d`.
//!
//! Which way a span counts depends on the question: back for `--from`, forward for `--expires-at`.

use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, civil};

use super::CliError;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A point in time, or a span from now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    At(Timestamp),
    Span(Span),
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        // Alone: a time without an offset would be taken for its date.
        if text.len() == "2026-11-23".len()
            && let Ok(date) = text.parse::<civil::Date>()
        {
            return match date.to_zoned_datetime(TimeZone::UTC) {
                Ok(start) => Ok(Self::At(start.timestamp())),
                Err(error) => Err(error.to_string()),
            };
        }
        match text.parse::<Span>() {
            Ok(span) if span.is_positive() => Ok(Self::Span(span)),
            _ => Err(
                "expected a time like 2026-11-23T08:00:00Z, a date like 2026-11-23, or a span like 24h or 7d"
                    .to_owned(),
            ),
        }
    }
}

impl When {
    /// The time in RFC 3339; a span counts back from `now`.
    pub(super) fn back_from(self, now: Timestamp) -> Result<String, jiff::Error> {
        self.resolve(now, |zoned, span| zoned.checked_sub(span))
    }

    /// The same for reports, which are read from sums by hour and day: a span of days begins with the day
    /// (UTC) that it leads to, any other with the hour.
    pub(super) fn whole_back_from(self, now: Timestamp) -> Result<String, jiff::Error> {
        let Self::Span(span) = self else { return self.back_from(now) };
        let has_time = [span.get_hours().into(), span.get_minutes(), span.get_seconds()] != [0; 3];
        let unit_ms = if has_time { HOUR_MS } else { DAY_MS };
        let at = now.to_zoned_datetime(TimeZone::UTC).checked_sub(span)?.timestamp().as_millisecond();
        Ok(Timestamp::from_millisecond(at - at.rem_euclid(unit_ms))?.to_string())
    }

    /// The time in RFC 3339; a span counts forward from `now`.
    pub(super) fn forward_from(self, now: Timestamp) -> Result<String, jiff::Error> {
        self.resolve(now, |zoned, span| zoned.checked_add(span))
    }

    /// How many seconds it is ahead, rounded up; `option` is named where it is not.
    pub(super) fn seconds_from_now(self, option: &str) -> Result<i64, CliError> {
        let now = Timestamp::now();
        let end = self.forward_from(now).ok().and_then(|text| text.parse::<Timestamp>().ok());
        let seconds = end.map(|end| (end.as_millisecond() - now.as_millisecond() + 999) / 1000);
        let ahead = seconds.filter(|seconds| *seconds > 0);
        ahead.ok_or_else(|| CliError::Usage(format!("{option}: a span such as 30m or 7d, or a time to come")))
    }

    fn resolve(
        self,
        now: Timestamp,
        shift: impl FnOnce(&jiff::ZonedDateTime, Span) -> Result<jiff::ZonedDateTime, jiff::Error>,
    ) -> Result<String, jiff::Error> {
        Ok(match self {
            Self::At(at) => at.to_string(),
            // Days and months need a calendar: UTC's.
            Self::Span(span) => shift(&now.to_zoned_datetime(TimeZone::UTC), span)?.timestamp().to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_dates_and_spans_are_understood() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for (text, back, forward) in [
            ("2026-11-01", "2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("2026-11-01T10:00:00+02:00", "2026-11-01T08:00:00Z", "2026-11-01T08:00:00Z"),
            ("24h", "2026-11-22T12:00:00Z", "2026-11-24T12:00:00Z"),
            ("7d", "2026-11-16T12:00:00Z", "2026-11-30T12:00:00Z"),
            ("1mo", "2026-10-23T12:00:00Z", "2026-12-23T12:00:00Z"),
        ] {
            let when: When = text.parse().unwrap();
            assert_eq!(when.back_from(now).unwrap(), back, "{text}");
            assert_eq!(when.forward_from(now).unwrap(), forward, "{text}");
        }
    }

    #[test]
    fn reports_begin_with_a_whole_day_or_hour() {
        let now: Timestamp = "2026-11-23T12:34:56.789Z".parse().unwrap();
        for (text, from) in [
            ("7d", "2026-11-16T00:00:00Z"),
            ("1mo", "2026-10-23T00:00:00Z"),
            ("24h", "2026-11-22T12:00:00Z"),
            ("1d 30m", "2026-11-22T12:00:00Z"),
            ("2026-11-01T08:00:01Z", "2026-11-01T08:00:01Z"),
        ] {
            assert_eq!(text.parse::<When>().unwrap().whole_back_from(now).unwrap(), from, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "yesterday", "-7d", "0d", "7", "2026-13-01", "2026-11-23T08:00:00"] {
            assert!(text.parse::<When>().is_err(), "{text}");
        }
    }
}
