//! What is stored where, and for how long: for `liutong privacy report`, and for a test that finds a table
//! which nobody wrote down here.

use crate::clickhouse::retention::Retention;

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// So many days.
    Days(u32),
    /// Until someone removes it, or erases what it is about.
    UntilRemoved,
    /// As long as the text says.
    Other(&'static str),
}

/// One thing that is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// `clickhouse`, `registry`, `data plane`, `backups`.
    pub place: &'static str,
    /// The tables, or files.
    pub names: &'static [&'static str],
    /// What is in them.
    pub what: &'static str,
    /// For how long.
    pub kept: Kept,
}

/// Everything that Liutong stores.
#[must_use]
pub fn all(retention: &Retention, backup_keep_days: u32) -> Vec<Stored> {
    let days = |days: Option<u32>| days.map_or(Kept::UntilRemoved, Kept::Days);
    let clickhouse = |names, what, kept| Stored { place: "clickhouse", names, what, kept };
    let registry = |names, what, kept| Stored { place: "registry", names, what, kept };
    let data_plane = |names, what, kept| Stored { place: "data plane", names, what, kept };
    vec![
        clickhouse(
            &["usage_events"],
            "a row for each exchange whose key was accepted: time, ids, alias, status, tokens, latency",
            Kept::Days(retention.raw_days),
        ),
        clickhouse(&["usage_hourly_rollup"], "sums of them by hour", days(retention.hourly_days)),
        clickhouse(&["usage_daily_rollup"], "sums of them by day", days(retention.daily_days)),
        clickhouse(
            &["key_uses"],
            "refused requests with a revoked or expired key, counted by minute: ids, reason, node",
            Kept::Days(retention.raw_days),
        ),
        clickhouse(&["names"], "what ids are called", Kept::UntilRemoved),
        clickhouse(
            &["batches", "boots"],
            "which numbers were given out and stored: no ids but those of processes",
            Kept::UntilRemoved,
        ),
        clickhouse(
            &["usage_erased"],
            "sums by month of what was erased, under random names",
            Kept::UntilRemoved,
        ),
        clickhouse(&["schema_migrations"], "which tables were made", Kept::UntilRemoved),
        registry(
            &["organizations", "teams", "applications"],
            "names, plans, cost centres",
            Kept::UntilRemoved,
        ),
        registry(&["keys"], "SHA-256, prefix, description, times", Kept::UntilRemoved),
        registry(&["attributions"], "who is billed, by numbers; plans and cost centres", Kept::UntilRemoved),
        registry(
            &["aliases", "deployments"],
            "upstreams, and the names of credentials, not their values",
            Kept::UntilRemoved,
        ),
        registry(&["admins"], "SHA-256 of administrators' keys, names, roles", Kept::UntilRemoved),
        registry(&["nodes", "enrolments"], "data planes, SHA-256 of their tokens", Kept::UntilRemoved),
        registry(&["tombstones"], "SHA-256 of keys that must not live again", Kept::UntilRemoved),
        registry(&["erasures"], "which ids were erased, and when", Kept::UntilRemoved),
        registry(&["legal_holds"], "what is held, why, since when", Kept::UntilRemoved),
        registry(&["audit"], "who changed what, when; before and after, without secrets", Kept::UntilRemoved),
        registry(&["answers"], "answers to calls that may come again, without secrets", Kept::Days(1)),
        registry(&["meta", "counters", "changes"], "numbers", Kept::UntilRemoved),
        data_plane(
            &["spool", "slots"],
            "usage on its way",
            Kept::Other("usage.retention_minutes past its storing, 15 by default"),
        ),
        data_plane(&["set_aside"], "usage that can never be stored, or read", Kept::UntilRemoved),
        data_plane(
            &["tables"],
            "SHA-256 of keys, allowed aliases, upstreams",
            Kept::Other("until replaced; SHA-256 of revoked keys stays"),
        ),
        Stored {
            place: "backups",
            names: &["registry.jsonl.gz", "usage_*.gz"],
            what: "the registry, and the tables of usage",
            kept: Kept::Days(backup_keep_days),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_down_twice() {
        let retention = Retention { raw_days: 90, hourly_days: None, daily_days: Some(400) };
        let all = all(&retention, 30);
        let mut names: Vec<_> =
            all.iter().flat_map(|one| one.names.iter().map(|name| (one.place, *name))).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
