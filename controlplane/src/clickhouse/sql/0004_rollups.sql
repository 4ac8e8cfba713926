-- Rollups are derived from raw, never incremented. rollup.rs says when, and why the views below always
-- equal raw.
--
-- requests and fingerprint together say which set of events a group was made of: fingerprint is the sum,
-- modulo 2^64, of the hashes of (boot, seq), so the fingerprints of an hour's groups add up to the hour's.
CREATE TABLE IF NOT EXISTS liutong.usage_hourly_rollup
(
    hour               DateTime('UTC')        CODEC(Delta, ZSTD(1)),
    organization_id    LowCardinality(String),
    team_id            LowCardinality(String),
    application_id     LowCardinality(String),
    key_id             LowCardinality(String),
    plan               LowCardinality(String),
    cost_centre        LowCardinality(String),
    model_alias        LowCardinality(String),
    deployment         LowCardinality(String),
    endpoint           LowCardinality(String),
    status             UInt16                 CODEC(T64, ZSTD(1)),
    usage_source       Enum8('none' = 0, 'partial' = 1, 'final' = 2) CODEC(ZSTD(1)),
    requests           UInt64                 CODEC(T64, ZSTD(1)),
    prompt_tokens      UInt64                 CODEC(T64, ZSTD(1)),
    cached_tokens      UInt64                 CODEC(T64, ZSTD(1)),
    cache_write_tokens UInt64                 CODEC(T64, ZSTD(1)),
    completion_tokens  UInt64                 CODEC(T64, ZSTD(1)),
    reasoning_tokens   UInt64                 CODEC(T64, ZSTD(1)),
    total_tokens       UInt64                 CODEC(T64, ZSTD(1)),
    fingerprint        UInt64                 CODEC(ZSTD(1)),
    PROJECTION hours
    (
        SELECT hour, sum(requests), sum(fingerprint)
        GROUP BY hour
    )
)
ENGINE = MergeTree
PARTITION BY toDate(hour)
ORDER BY (organization_id, team_id, application_id, key_id, hour)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS liutong.usage_daily_rollup
(
    day                Date                   CODEC(Delta, ZSTD(1)),
    organization_id    LowCardinality(String),
    team_id            LowCardinality(String),
    application_id     LowCardinality(String),
    key_id             LowCardinality(String),
    plan               LowCardinality(String),
    cost_centre        LowCardinality(String),
    model_alias        LowCardinality(String),
    deployment         LowCardinality(String),
    endpoint           LowCardinality(String),
    status             UInt16                 CODEC(T64, ZSTD(1)),
    usage_source       Enum8('none' = 0, 'partial' = 1, 'final' = 2) CODEC(ZSTD(1)),
    requests           UInt64                 CODEC(T64, ZSTD(1)),
    prompt_tokens      UInt64                 CODEC(T64, ZSTD(1)),
    cached_tokens      UInt64                 CODEC(T64, ZSTD(1)),
    cache_write_tokens UInt64                 CODEC(T64, ZSTD(1)),
    completion_tokens  UInt64                 CODEC(T64, ZSTD(1)),
    reasoning_tokens   UInt64                 CODEC(T64, ZSTD(1)),
    total_tokens       UInt64                 CODEC(T64, ZSTD(1)),
    fingerprint        UInt64                 CODEC(ZSTD(1)),
    PROJECTION days
    (
        SELECT day, sum(requests), sum(fingerprint)
        GROUP BY day
    )
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (organization_id, team_id, application_id, key_id, day)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
