-- One row for each admitted exchange, written by the control plane's ingest and by nothing else. Every
-- value comes from the gateway: no DEFAULT, no now(), so that a batch that is sent again is the same bytes.
-- ttft_ms is 0 when no byte came back (a Nullable would cost a second file for a value that cannot
-- otherwise be 0). The window must hold every batch that can be sent between a batch and its resend:
-- 100,000 is a day at one a second. fsync: an acknowledged batch is on disk. A day expires whole, at one
-- moment, and as whole parts.
CREATE TABLE IF NOT EXISTS liutong.usage_events
(
    ts                 DateTime64(3, 'UTC')   CODEC(Delta, ZSTD(1)),
    node               LowCardinality(String),
    boot               LowCardinality(String),
    seq                UInt64                 CODEC(Delta, ZSTD(1)),
    spool_id           LowCardinality(String),
    batch_seq          UInt64                 CODEC(Delta, ZSTD(1)),
    organization_id    LowCardinality(String),
    team_id            LowCardinality(String),
    application_id     LowCardinality(String),
    key_id             LowCardinality(String),
    plan               LowCardinality(String),
    cost_centre        LowCardinality(String),
    model_alias        LowCardinality(String),
    deployment         LowCardinality(String),
    endpoint           LowCardinality(String),
    stream             Bool                   CODEC(ZSTD(1)),
    status             UInt16                 CODEC(T64, ZSTD(1)),
    prompt_tokens      UInt32                 CODEC(T64, ZSTD(1)),
    cached_tokens      UInt32                 CODEC(T64, ZSTD(1)),
    cache_write_tokens UInt32                 CODEC(T64, ZSTD(1)),
    completion_tokens  UInt32                 CODEC(T64, ZSTD(1)),
    reasoning_tokens   UInt32                 CODEC(T64, ZSTD(1)),
    total_tokens       UInt32                 CODEC(T64, ZSTD(1)),
    usage_source       Enum8('none' = 0, 'partial' = 1, 'final' = 2) CODEC(ZSTD(1)),
    latency_ms         UInt32                 CODEC(T64, ZSTD(1)),
    ttft_ms            UInt32                 CODEC(T64, ZSTD(1)),
    attempts           UInt8                  CODEC(ZSTD(1)),
    -- One event by its number (`liutong request show`) without reading every number: 1 byte a row.
    INDEX seq seq TYPE bloom_filter(0.01) GRANULARITY 1,
    -- Is this batch here, and whole? Answered from a few rows, which are atomic with the part.
    PROJECTION batches
    (
        SELECT spool_id, batch_seq, count(), min(ts), max(ts)
        GROUP BY spool_id, batch_seq
    ),
    -- Which events does an hour hold? Their number and the sum of their hashes (see 0004_rollups.sql).
    PROJECTION hours
    (
        SELECT toStartOfHour(ts), count(), sum(cityHash64(boot, seq))
        GROUP BY toStartOfHour(ts)
    )
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY (organization_id, team_id, application_id, key_id, ts)
TTL toDate(ts) + INTERVAL 90 DAY DELETE
SETTINGS ttl_only_drop_parts = 1,
         materialize_ttl_recalculate_only = 1,
         non_replicated_deduplication_window = 100000,
         fsync_after_insert = 1,
         fsync_part_directory = 1,
         lightweight_mutation_projection_mode = 'rebuild';
