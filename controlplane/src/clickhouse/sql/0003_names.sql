-- What ids are called, kept by the control plane from its registry. A new name is a new row of a higher
-- version. kind: organization, team, application or key. Read it with FINAL.
CREATE TABLE IF NOT EXISTS liutong.names
(
    kind    LowCardinality(String),
    id      String,
    name    String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (kind, id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
