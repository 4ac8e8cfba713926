-- Uses of keys that data planes refuse though they know them (revoked, or over), by minute: how a leak is
-- noticed. uses is a sum of one run of a data plane, told again and again while it grows: the largest of a
-- run counts, and the runs add up. Single events expire with it, on the same day.
CREATE TABLE IF NOT EXISTS liutong.key_uses
(
    minute          DateTime('UTC')        CODEC(Delta, ZSTD(1)),
    organization_id LowCardinality(String),
    team_id         LowCardinality(String),
    application_id  LowCardinality(String),
    key_id          LowCardinality(String),
    reason          LowCardinality(String),
    node            LowCardinality(String),
    boot            LowCardinality(String),
    uses            UInt64                 CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree(uses)
PARTITION BY toDate(minute)
ORDER BY (organization_id, team_id, application_id, key_id, minute, reason, boot)
TTL toDate(minute) + INTERVAL 90 DAY DELETE
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1;

-- When was this key used last? One row for each key and part; parts from before are read whole until they
-- expire.
ALTER TABLE liutong.usage_events ADD PROJECTION IF NOT EXISTS last_used
(
    SELECT key_id, max(ts)
    GROUP BY key_id
);
