-- What people read: usage_hourly, usage_daily and usage. Why the first two always equal raw is said in
-- rollup.rs.
--
-- usage_*_parts are the same numbers with the open part as one row for each event: to be summed, much
-- cheaper there.

-- Hours whose rollup is missing or was made of other events than raw holds now. Raw that has expired is no
-- reason: it only ever has fewer rows than its rollup.
CREATE VIEW IF NOT EXISTS liutong.usage_hours_open AS
SELECT raw.hour AS hour
FROM
(
    SELECT toStartOfHour(ts) AS hour, count() AS n, sum(cityHash64(boot, seq)) AS f
    FROM liutong.usage_events
    GROUP BY hour
) AS raw
LEFT JOIN
(
    SELECT hour, sum(requests) AS n, sum(fingerprint) AS f
    FROM liutong.usage_hourly_rollup
    GROUP BY hour
) AS derived ON raw.hour = derived.hour
WHERE raw.n > derived.n OR (raw.n = derived.n AND raw.f != derived.f);

-- Days that hold such an hour, or whose hourly rollup has moved on.
CREATE VIEW IF NOT EXISTS liutong.usage_days_open AS
SELECT DISTINCT day
FROM
(
    SELECT toDate(hour) AS day FROM liutong.usage_hours_open
    UNION ALL
    SELECT hourly.day AS day
    FROM
    (
        SELECT toDate(hour) AS day, sum(n) AS n, sum(f) AS f
        FROM
        (
            SELECT hour, sum(requests) AS n, sum(fingerprint) AS f
            FROM liutong.usage_hourly_rollup
            GROUP BY hour
        )
        GROUP BY day
    ) AS hourly
    LEFT JOIN
    (
        SELECT day, sum(requests) AS n, sum(fingerprint) AS f
        FROM liutong.usage_daily_rollup
        GROUP BY day
    ) AS daily ON hourly.day = daily.day
    WHERE hourly.n > daily.n OR (hourly.n = daily.n AND hourly.f != daily.f)
);

CREATE VIEW IF NOT EXISTS liutong.usage_hourly_parts AS
SELECT hour, organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias, deployment,
    endpoint,
    status, usage_source, requests,
    prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens,
    reasoning_tokens, total_tokens
FROM liutong.usage_hourly_rollup
WHERE hour NOT IN (SELECT hour FROM liutong.usage_hours_open)
UNION ALL
SELECT toStartOfHour(ts) AS hour, organization_id, team_id, application_id, key_id, plan, cost_centre,
    model_alias, deployment, endpoint,
    status, usage_source, toUInt64(1) AS requests,
    toUInt64(e.prompt_tokens) AS prompt_tokens, toUInt64(e.cached_tokens) AS cached_tokens,
    toUInt64(e.cache_write_tokens) AS cache_write_tokens, toUInt64(e.completion_tokens) AS completion_tokens,
    toUInt64(e.reasoning_tokens) AS reasoning_tokens, toUInt64(e.total_tokens) AS total_tokens
FROM liutong.usage_events AS e
WHERE toStartOfHour(ts) IN (SELECT hour FROM liutong.usage_hours_open);

CREATE VIEW IF NOT EXISTS liutong.usage_hourly AS
SELECT hour, organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias, deployment,
    endpoint,
    status, usage_source, requests,
    prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens,
    reasoning_tokens, total_tokens
FROM liutong.usage_hourly_rollup
WHERE hour NOT IN (SELECT hour FROM liutong.usage_hours_open)
UNION ALL
SELECT toStartOfHour(ts) AS hour, organization_id, team_id, application_id, key_id, plan, cost_centre,
    model_alias, deployment, endpoint,
    status, usage_source, count() AS requests,
    sum(e.prompt_tokens) AS prompt_tokens, sum(e.cached_tokens) AS cached_tokens,
    sum(e.cache_write_tokens) AS cache_write_tokens, sum(e.completion_tokens) AS completion_tokens,
    sum(e.reasoning_tokens) AS reasoning_tokens, sum(e.total_tokens) AS total_tokens
FROM liutong.usage_events AS e
WHERE toStartOfHour(ts) IN (SELECT hour FROM liutong.usage_hours_open)
GROUP BY hour, organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias, deployment,
    endpoint,
    status, usage_source;

CREATE VIEW IF NOT EXISTS liutong.usage_daily_parts AS
SELECT day, organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias, deployment,
    endpoint,
    status, usage_source, requests,
    prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens,
    reasoning_tokens, total_tokens
FROM liutong.usage_daily_rollup
WHERE day NOT IN (SELECT day FROM liutong.usage_days_open)
UNION ALL
SELECT toDate(hour) AS day, organization_id, team_id, application_id, key_id, plan, cost_centre,
    model_alias, deployment, endpoint,
    status, usage_source, requests,
    prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens,
    reasoning_tokens, total_tokens
FROM liutong.usage_hourly_parts
WHERE toDate(hour) IN (SELECT day FROM liutong.usage_days_open);

CREATE VIEW IF NOT EXISTS liutong.usage_daily AS
SELECT day, organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias, deployment,
    endpoint,
    status, usage_source, requests,
    prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens,
    reasoning_tokens, total_tokens
FROM liutong.usage_daily_rollup
WHERE day NOT IN (SELECT day FROM liutong.usage_days_open)
UNION ALL
SELECT toDate(hour) AS day, organization_id, team_id, application_id, key_id, plan, cost_centre,
    model_alias, deployment, endpoint,
    status, usage_source, sum(h.requests) AS requests,
    sum(h.prompt_tokens) AS prompt_tokens, sum(h.cached_tokens) AS cached_tokens,
    sum(h.cache_write_tokens) AS cache_write_tokens, sum(h.completion_tokens) AS completion_tokens,
    sum(h.reasoning_tokens) AS reasoning_tokens, sum(h.total_tokens) AS total_tokens
FROM liutong.usage_hourly_parts AS h
WHERE toDate(hour) IN (SELECT day FROM liutong.usage_days_open)
GROUP BY day, organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias, deployment,
    endpoint,
    status, usage_source;

-- Raw with names for ids; an id without a name stands for itself.
CREATE VIEW IF NOT EXISTS liutong.usage AS
SELECT
    e.ts AS ts,
    coalesce(nullIf(o.name, ''), e.organization_id) AS organization,
    coalesce(nullIf(t.name, ''), e.team_id) AS team,
    coalesce(nullIf(a.name, ''), e.application_id) AS application,
    coalesce(nullIf(k.name, ''), e.key_id) AS key,
    e.plan AS plan,
    e.cost_centre AS cost_centre,
    e.model_alias AS model,
    e.deployment AS deployment,
    e.endpoint AS endpoint,
    e.stream AS stream,
    e.status AS status,
    e.prompt_tokens AS prompt_tokens,
    e.cached_tokens AS cached_tokens,
    e.cache_write_tokens AS cache_write_tokens,
    e.completion_tokens AS completion_tokens,
    e.reasoning_tokens AS reasoning_tokens,
    e.total_tokens AS total_tokens,
    e.usage_source AS usage_source,
    e.latency_ms AS latency_ms,
    e.ttft_ms AS ttft_ms,
    e.attempts AS attempts
FROM liutong.usage_events AS e
LEFT JOIN (SELECT id, name FROM liutong.names FINAL WHERE kind = 'organization') AS o ON o.id =
    e.organization_id
LEFT JOIN (SELECT id, name FROM liutong.names FINAL WHERE kind = 'team') AS t ON t.id = e.team_id
LEFT JOIN (SELECT id, name FROM liutong.names FINAL WHERE kind = 'application') AS a ON a.id =
    e.application_id
LEFT JOIN (SELECT id, name FROM liutong.names FINAL WHERE kind = 'key') AS k ON k.id = e.key_id;
