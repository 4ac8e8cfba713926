-- The ledger says which events a batch had, number by number, so that `liutong usage verify` can account for
-- each after its raw row has expired or was erased: run i is the events firsts[i] .. firsts[i] + counts[i] -
-- 1 of boots[i]. A row with refused > 0 names events that can never be stored and were given back to the data
-- plane; it has rows = 0.
ALTER TABLE liutong.batches ADD COLUMN IF NOT EXISTS refused UInt32 CODEC(T64, ZSTD(1));

ALTER TABLE liutong.batches ADD COLUMN IF NOT EXISTS boots Array(LowCardinality(String));

ALTER TABLE liutong.batches ADD COLUMN IF NOT EXISTS firsts Array(UInt64) CODEC(Delta, ZSTD(1));

ALTER TABLE liutong.batches ADD COLUMN IF NOT EXISTS counts Array(UInt32) CODEC(T64, ZSTD(1));

-- Which numbers each run of a data plane gave out. admitted[w] is how many exchanges its worker w admitted,
-- as far as is known; reserved[w] is the number it cannot have passed. They are equal but after a power cut.
-- ended: 0 it runs, 1 in order, 2 killed (its numbers are known all the same), 3 by a power cut.
CREATE TABLE IF NOT EXISTS liutong.boots
(
    node        LowCardinality(String),
    boot        String,
    reported_at DateTime64(3, 'UTC'),
    ended       UInt8,
    admitted    Array(UInt64),
    reserved    Array(UInt64)
)
ENGINE = ReplacingMergeTree(reported_at)
ORDER BY (node, boot)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
