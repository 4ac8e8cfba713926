-- Run at every start: where the files below are recorded.
CREATE DATABASE IF NOT EXISTS liutong;

CREATE TABLE IF NOT EXISTS liutong.schema_migrations
(
    version UInt32,
    name    String
)
ENGINE = ReplacingMergeTree
ORDER BY version;
