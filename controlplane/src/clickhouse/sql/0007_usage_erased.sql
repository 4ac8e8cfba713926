-- What is left of teams and keys that were erased: sums by month, under a random name.
CREATE TABLE IF NOT EXISTS liutong.usage_erased
(
    pseudonym          String                 CODEC(ZSTD(1)),
    month              Date                   CODEC(Delta, ZSTD(1)),
    model_alias        LowCardinality(String),
    endpoint           LowCardinality(String),
    requests           UInt64                 CODEC(T64, ZSTD(1)),
    prompt_tokens      UInt64                 CODEC(T64, ZSTD(1)),
    cached_tokens      UInt64                 CODEC(T64, ZSTD(1)),
    cache_write_tokens UInt64                 CODEC(T64, ZSTD(1)),
    completion_tokens  UInt64                 CODEC(T64, ZSTD(1)),
    reasoning_tokens   UInt64                 CODEC(T64, ZSTD(1)),
    total_tokens       UInt64                 CODEC(T64, ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (pseudonym, month)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
