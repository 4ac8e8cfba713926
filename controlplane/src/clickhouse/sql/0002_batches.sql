-- The ledger of batches: one row for each insert that ClickHouse acknowledged. It outlives the rows
-- themselves. Ingest writes it after the events and before the acknowledgement. Whatever is killed in
-- between, the batch is sent again, and its ledger row with it: the same (spool_id, batch_seq, token)
-- replaces itself. Read it with FINAL. A batch has more than one token only when refused rows made ingest
-- split it.
CREATE TABLE IF NOT EXISTS liutong.batches
(
    spool_id    LowCardinality(String),
    batch_seq   UInt64                 CODEC(Delta, ZSTD(1)),
    token       String                 CODEC(ZSTD(1)),
    node        LowCardinality(String),
    day         Date                   CODEC(Delta, ZSTD(1)),
    rows        UInt32                 CODEC(T64, ZSTD(1)),
    first_ts    DateTime64(3, 'UTC')   CODEC(Delta, ZSTD(1)),
    last_ts     DateTime64(3, 'UTC')   CODEC(Delta, ZSTD(1)),
    inserted_at DateTime64(3, 'UTC')   CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(inserted_at)
PARTITION BY toYYYYMM(day)
ORDER BY (spool_id, batch_seq, token)
SETTINGS non_replicated_deduplication_window = 100000, fsync_after_insert = 1, fsync_part_directory = 1;
