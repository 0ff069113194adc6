"""The outputs of the main job as one DuckDB script, the baseline for the pipeline.

    python benchmarks/duckdb_script.py INPUT_FOLDER OUTPUT_FOLDER

It reads JSON lines once and writes dead_letters.parquet (line and reason), events/ (deduplicated, sorted, by date),
device_events.parquet (by device, newest first), sessions/ (all columns of fact_sessions that a batch can fill), and
devices.parquet, users.parquet and pages.parquet (the dimensions, without the columns that only later merges need).
It has no state, no late data, no transaction log and no key-value store: it is the minimal cost of these outputs.
"""

import sys
from pathlib import Path

import duckdb

_READ = """
CREATE TABLE parsed AS
WITH lines AS (
    SELECT line, json_valid(line) AS is_json, CASE WHEN is_json THEN line END AS json
    FROM read_csv(
        '{source}/*.jsonl', columns = {{'line': 'VARCHAR'}}, header = false, auto_detect = false,
        delim = '\x01', quote = '', escape = '', max_line_size = 2097152, store_rejects = true
    )
    WHERE line <> ''
), typed AS (
    SELECT *,
        json_keys(json) AS keys,
        json_type(json, ['$.event_id', '$.event_type', '$.timestamp', '$.device_id', '$.properties', '$.context',
                         '$.user_id', '$.entity_id', '$.entity_type', '$.session_id']) AS types,
        from_json(json, '{{
            "event_id": "VARCHAR", "event_type": "VARCHAR", "timestamp": "VARCHAR", "device_id": "VARCHAR",
            "user_id": "VARCHAR", "entity_id": "VARCHAR", "entity_type": "VARCHAR", "session_id": "VARCHAR",
            "properties": "JSON",
            "context": "JSON"
        }}') AS e
    FROM lines
), nested AS (
    SELECT *,
        from_json(e.context, '{{
            "device_id": "VARCHAR", "user_id": "VARCHAR", "country": "VARCHAR", "device_type": "VARCHAR",
            "os": "VARCHAR", "app_version": "VARCHAR"
        }}') AS c,
        from_json(e.properties, '{{"page_url": "VARCHAR", "revenue": "VARCHAR", "amount": "VARCHAR"}}') AS p
    FROM typed
), lifted AS (
    SELECT *,
        coalesce(e.user_id, c.user_id, CASE WHEN e.entity_type = 'user' THEN e.entity_id END) AS user_id,
        coalesce(e.device_id, c.device_id, 'user:' || left(sha256(user_id), 32)) AS device_id,
        CASE types[3]
            WHEN 'VARCHAR' THEN CASE
                WHEN ends_with(e.timestamp, 'Z') OR regexp_matches(e.timestamp, '[+-]\\d\\d:\\d\\d$')
                THEN CAST(try_cast(e.timestamp AS TIMESTAMPTZ) AS TIMESTAMP)
            END
            WHEN 'UBIGINT' THEN make_timestamp_ms(try_cast(e.timestamp AS BIGINT))
        END AS event_time
    FROM nested
)
SELECT
    e.event_id, e.event_type, event_time, CAST(event_time AS DATE) AS event_date, device_id, user_id,
    e.entity_id, e.entity_type, e.session_id AS tracker_session_id, p.page_url,
    CASE WHEN e.event_type = 'purchase' THEN try_cast(coalesce(p.revenue, p.amount) AS DECIMAL(18, 4)) END AS revenue,
    c.country, c.device_type, c.os, c.app_version, e.properties, e.context,
    CASE WHEN len(keys) > list_count(types) THEN json_merge_patch(json, '{{
        "event_id": null, "event_type": null, "timestamp": null, "device_id": null, "user_id": null,
        "entity_id": null, "entity_type": null, "session_id": null, "properties": null, "context": null
    }}') END AS extra_properties,
    CASE
        WHEN NOT is_json THEN 'not_json'
        -- DuckDB's parser accepts trailing commas, NaN and Infinity: search cheaply first, then outside of strings
        WHEN (contains(json, ',}}') OR contains(json, ',]') OR contains(json, 'NaN') OR contains(json, 'Infinity'))
            AND regexp_matches(regexp_replace(json, '"(\\\\.|[^"\\\\])*"', '""', 'g'), ',\\s*[}}\\]]|NaN|Infinity')
            THEN 'not_json'
        WHEN ltrim(json)[1] <> '{{' THEN 'not_an_object'
        -- Duplicate keys are possible only if there are more keys than known ones
        WHEN len(keys) > list_count(types) AND len(keys) <> list_unique(keys) THEN 'duplicate_key'
        WHEN types[1] IS NULL OR types[2] IS NULL OR types[3] IS NULL THEN 'field_missing'
        WHEN types[1] = 'NULL' OR types[2] = 'NULL' OR types[3] = 'NULL' THEN 'field_null'
        WHEN types[1] <> 'VARCHAR' OR types[2] <> 'VARCHAR' OR types[3] NOT IN ('VARCHAR', 'UBIGINT')
            OR types[4] NOT IN ('VARCHAR', 'NULL') OR types[5] NOT IN ('OBJECT', 'NULL')
            OR types[6] NOT IN ('OBJECT', 'NULL') THEN 'field_wrong_type'
        WHEN e.event_id = '' OR e.event_type = '' THEN 'field_empty'
        WHEN device_id IS NULL THEN 'field_missing'
        WHEN length(e.event_id) > 255 OR length(device_id) > 255 THEN 'field_too_long'
        WHEN event_time IS NULL THEN 'bad_timestamp'
        WHEN event_time > CAST(now() AS TIMESTAMP) + INTERVAL 1 HOUR THEN 'timestamp_ahead'
    END AS reason,
    CASE WHEN reason IS NOT NULL THEN line END AS bad_line
FROM lifted;
"""

_DEAD_LETTERS = """
COPY (
    SELECT bad_line AS line, reason FROM parsed WHERE reason IS NOT NULL
    UNION ALL
    SELECT csv_line, 'bad_utf8' FROM reject_errors
) TO '{target}/dead_letters.parquet' (COMPRESSION zstd, PARQUET_VERSION v2);
"""

# Few events are duplicates: finding them with a hash aggregate is cheaper than numbering all rows in a window
_DEDUPLICATE = """
CREATE TABLE repeats AS
SELECT unnest(list(rowid)[2:]) AS repeat FROM parsed WHERE reason IS NULL
GROUP BY hash(device_id, event_id), device_id, event_id HAVING count(*) > 1;

CREATE VIEW events AS
SELECT * EXCLUDE (reason, bad_line) FROM parsed
WHERE reason IS NULL AND rowid NOT IN (SELECT repeat FROM repeats);

CREATE TABLE users AS
SELECT user_id, left(sha256('secret' || user_id), 32) AS user_key
FROM (SELECT DISTINCT user_id FROM parsed WHERE user_id IS NOT NULL);
"""

_DATES = "SELECT DISTINCT event_date FROM parsed WHERE reason IS NULL ORDER BY event_date"

# One date at a time: rows are stored almost in time order, so each pass skips other dates, and the sorts are small
_EVENTS = """
COPY (
    SELECT events.* EXCLUDE (event_date), user_key FROM events LEFT JOIN users USING (user_id)
    WHERE event_date = DATE '{date}'
    ORDER BY device_id, event_time
) TO '{target}/events/event_date={date}/part-0.parquet' (COMPRESSION zstd, PARQUET_VERSION v2);
"""

_DEVICES = """
COPY (
    SELECT * EXCLUDE (event_date) FROM events ORDER BY device_id, event_time DESC
) TO '{target}/device_events.parquet' (COMPRESSION zstd, PARQUET_VERSION v2);
"""

_SESSIONS = """
COPY (
    WITH starts AS (
        SELECT *, row_number() OVER device AS n,
            coalesce(event_time - lag(event_time) OVER device > INTERVAL 30 MINUTE, true) AS is_start
        FROM events
        WINDOW device AS (PARTITION BY device_id ORDER BY event_time, event_id)
    ), numbered AS (
        SELECT *, sum(is_start::INT) OVER (PARTITION BY device_id ORDER BY n ROWS UNBOUNDED PRECEDING) AS run
        FROM starts
    ), grouped AS (
        SELECT
            device_id,
            min(event_time) AS session_start,
            max(event_time) AS session_end,
            count(*) AS event_count,
            count(*) FILTER (event_type = 'page_view') AS page_view_count,
            bool_or(event_type = 'purchase') AS had_purchase,
            coalesce(sum(revenue), 0)::DECIMAL(18, 4) AS revenue,
            arg_min(page_url, n) AS entry_page,
            arg_max(page_url, n) AS exit_page,
            arg_max(user_id, n) AS user_id,
            arg_min(country, n) AS country,
            arg_min(device_type, n) AS device_type,
            arg_min(os, n) AS os,
            arg_min(app_version, n) AS app_version
        FROM numbered GROUP BY device_id, run
    )
    SELECT
        md5(concat(device_id, chr(0), epoch_us(session_start))) AS session_id, grouped.* EXCLUDE (user_id), user_key,
        session_start::DATE AS start_date, session_end::DATE AS end_date,
        (epoch_us(session_end) - epoch_us(session_start)) / 1e6 AS duration_secs
    FROM grouped LEFT JOIN users USING (user_id)
    ORDER BY start_date, device_id, session_start
) TO '{target}/sessions' (FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2, PARTITION_BY (start_date));
"""


# Rows whose value is null do not count in arg_min and arg_max
_DIMENSIONS = """
COPY (
    SELECT
        device_id, min(event_time) AS first_seen_at, max(event_time) AS last_seen_at,
        min(event_time) FILTER (user_id IS NOT NULL) AS first_login_at,
        max(event_time) FILTER (user_id IS NOT NULL) AS last_login_at,
        arg_max(user_key, event_time) AS last_login_user_key, count(DISTINCT user_key) AS users_seen,
        arg_min(country, event_time) AS first_country, arg_max(country, event_time) AS latest_country,
        arg_min(device_type, event_time) AS first_device_type, arg_max(device_type, event_time) AS latest_device_type,
        arg_min(os, event_time) AS first_os, arg_max(os, event_time) AS latest_os,
        arg_min(app_version, event_time) AS first_app_version, arg_max(app_version, event_time) AS latest_app_version
    FROM events LEFT JOIN users USING (user_id) GROUP BY device_id ORDER BY device_id
) TO '{target}/devices.parquet' (COMPRESSION zstd, PARQUET_VERSION v2);

COPY (
    SELECT
        user_key, any_value(user_id) AS user_id, min(event_time) AS first_seen_at, max(event_time) AS last_seen_at,
        count(DISTINCT device_id) AS devices_seen, arg_max(country, event_time) AS latest_country,
        arg_max(device_type, event_time) AS latest_device_type, arg_max(os, event_time) AS latest_os
    FROM events JOIN users USING (user_id) GROUP BY user_key ORDER BY user_key
) TO '{target}/users.parquet' (COMPRESSION zstd, PARQUET_VERSION v2);

COPY (
    WITH urls AS (
        SELECT regexp_extract(page_url, '^(?:https?:)?(?://)?([^?#]*)', 1) AS bare, min(event_time) AS first_seen_at
        FROM events WHERE page_url IS NOT NULL GROUP BY page_url
    ), pages AS (
        SELECT lower(split_part(bare, '/', 1)) AS host, rtrim(bare[len(host) + 1:], '/') AS path, first_seen_at
        FROM urls
    )
    SELECT md5(host || path) AS page_key, host || path AS url, host, path, min(first_seen_at) AS first_seen_at
    FROM pages GROUP BY host, path ORDER BY page_key
) TO '{target}/pages.parquet' (COMPRESSION zstd, PARQUET_VERSION v2);
"""


def main(source: Path, target: Path) -> None:
    """Run the script on the *.jsonl files of a folder."""
    target.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2; SET TimeZone = 'UTC'")
        for step in (_READ, _DEAD_LETTERS, _DEDUPLICATE, _DEVICES, _SESSIONS, _DIMENSIONS):
            connection.execute(step.format(source=source, target=target))
        for (date,) in connection.execute(_DATES).fetchall():
            (target / "events" / f"event_date={date}").mkdir(parents=True)
            connection.execute(_EVENTS.format(target=target, date=date))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
