"""What the stores must hold, worked out a second way: plain SQL over the raw JSON lines, unhurried.

Nothing here comes from the program's own packages, so that an error in one is not an error in both. Columns
carry the names of fact_events and fact_sessions. Left out are those that only a bus can fill (sent_at,
arrival_time), the JSON texts (their white space is nobody's promise), and what tells of panes (session_id,
pane_timing, pane_index).
"""

import glob as globbing
import gzip
import hashlib
import hmac
from pathlib import Path

import duckdb
import pyarrow as pa

_SQL = r"""
-- every line that is not empty, with what stands at the top of its JSON
CREATE OR REPLACE TEMP TABLE lines AS
WITH texts AS (
    SELECT *, try(decode(payload)) AS text FROM raw_lines
), parsed AS (
    SELECT *,
        -- DuckDB's JSON reader lets trailing commas and NaN pass; RFC 8259 does not. Looked for
        -- outside of strings
        coalesce(json_valid(text), false) AND NOT regexp_matches(
            regexp_replace(text, '"(\\.|[^"\\])*"', '""', 'g'), ',\s*[}\]]|NaN|Infinity'
        ) AS is_json
    FROM texts
), typed AS (
    SELECT *, coalesce(json_type(CASE WHEN is_json THEN text END) = 'OBJECT', false) AS is_object,
        CASE WHEN is_object THEN text END AS event
    FROM parsed
)
SELECT source, line_number, payload, text, is_json, is_object, event, json_keys(event) AS keys,
    json_type(event, '$.event_id') AS event_id_type, event ->> '$.event_id' AS event_id,
    json_type(event, '$.event_type') AS event_type_type, event ->> '$.event_type' AS event_type,
    json_type(event, '$.timestamp') AS timestamp_type, event ->> '$.timestamp' AS stamp,
    json_type(event, '$.device_id') AS device_id_type,
    json_type(event, '$.properties') AS properties_type,
    json_type(event, '$.context') AS context_type,
    coalesce(event ->> '$.device_id', event ->> '$.context.device_id') AS device_id,
    event ->> '$.entity_id' AS entity_id,
    event ->> '$.entity_type' AS entity_type,
    coalesce(
        event ->> '$.user_id',
        event ->> '$.context.user_id',
        CASE WHEN entity_type = 'user' THEN entity_id END
    ) AS user_id,
    CASE
        WHEN timestamp_type IN ('BIGINT', 'UBIGINT') THEN make_timestamptz(CAST(stamp AS BIGINT) * 1000)
        WHEN timestamp_type = 'DOUBLE' AND CAST(stamp AS DOUBLE) = floor(CAST(stamp AS DOUBLE))
            THEN make_timestamptz(CAST(CAST(stamp AS DOUBLE) AS BIGINT) * 1000)
        WHEN regexp_matches(stamp, '(Z|[+-]\d\d:\d\d)$') THEN try_cast(stamp AS TIMESTAMPTZ)
    END AS event_time
FROM typed;

CREATE OR REPLACE TEMP TABLE judged AS
SELECT *, CASE
    WHEN text IS NULL THEN 'bad_utf8'
    WHEN NOT is_json THEN 'not_json'
    WHEN NOT is_object THEN 'not_an_object'
    WHEN len(keys) <> len(list_distinct(keys)) THEN 'duplicate_key'
    WHEN event_id_type IS NULL OR event_type_type IS NULL OR timestamp_type IS NULL THEN 'field_missing'
    WHEN 'NULL' IN (event_id_type, event_type_type, timestamp_type) THEN 'field_null'
    WHEN event_id_type <> 'VARCHAR' OR event_type_type <> 'VARCHAR' THEN 'field_wrong_type'
    WHEN timestamp_type NOT IN ('VARCHAR', 'BIGINT', 'UBIGINT', 'DOUBLE') THEN 'field_wrong_type'
    WHEN device_id_type NOT IN ('VARCHAR', 'NULL') THEN 'field_wrong_type'
    WHEN properties_type NOT IN ('OBJECT', 'NULL') THEN 'field_wrong_type'
    WHEN context_type NOT IN ('OBJECT', 'NULL') THEN 'field_wrong_type'
    WHEN event_id = '' OR event_type = '' THEN 'field_empty'
    WHEN coalesce(device_id, user_id) IS NULL THEN 'field_missing'
    WHEN greatest(length(event_id), length(event_type), length(device_id), length(user_id)) > 255
        THEN 'field_too_long'
    WHEN event_time IS NULL THEN 'bad_timestamp'
    WHEN event_time > now() + INTERVAL 1 HOUR THEN 'timestamp_ahead'
END AS reason
FROM lines;

-- the first delivery of each event
CREATE OR REPLACE TEMP VIEW events AS
SELECT event_id, event_type, event_time, CAST(event_time AS DATE) AS event_date, event_time AS client_time,
    coalesce(device_id, 'user:' || user_key) AS device_id, user_id, user_key, entity_id, entity_type,
    event ->> '$.session_id' AS tracker_session_id,
    event ->> '$.properties.page_url' AS page_url,
    CASE WHEN event_type = 'purchase' THEN CAST(coalesce(
        event ->> '$.properties.revenue', event ->> '$.properties.amount'
    ) AS DECIMAL(18, 4)) END AS revenue,
    event ->> '$.context.country' AS country,
    event ->> '$.context.device_type' AS device_type,
    event ->> '$.context.os' AS os,
    event ->> '$.context.app_version' AS app_version
FROM judged LEFT JOIN user_keys USING (user_id)
WHERE reason IS NULL
QUALIFY row_number() OVER (PARTITION BY device_id, event_id ORDER BY source, line_number) = 1;
"""

_SESSIONS = r"""
WITH RECURSIVE gaps AS (
    SELECT *, lag(event_time) OVER device AS prior_time,
        prior_time IS NULL OR event_time - prior_time > INTERVAL 30 MINUTE AS starts_run
    FROM events
    WINDOW device AS (PARTITION BY device_id ORDER BY event_time, event_id)
), runs AS (
    SELECT *, sum(CAST(starts_run AS INTEGER)) OVER device AS run
    FROM gaps
    WINDOW device AS (PARTITION BY device_id ORDER BY event_time, event_id)
), starts AS (
    SELECT device_id, run, min(event_time) AS session_start, CAST(NULL AS TIMESTAMPTZ) AS cut_from
    FROM runs GROUP BY device_id, run
    UNION ALL
    -- a run is cut at the first five-minute mark that is at least four hours after the start of its session
    SELECT device_id, run, min(event_time), session_start
    FROM starts JOIN runs USING (device_id, run)
    WHERE epoch_us(event_time) >= 300_000_000 * ((epoch_us(session_start) + 14_699_999_999) // 300_000_000)
    GROUP BY device_id, run, session_start
), members AS (
    SELECT runs.*, starts.session_start
    FROM runs ASOF JOIN starts
    ON runs.device_id = starts.device_id AND runs.run = starts.run AND runs.event_time >= starts.session_start
)
SELECT device_id,
    last(user_key ORDER BY event_time, event_id) FILTER (user_key IS NOT NULL) AS user_key,
    session_start,
    max(event_time) AS session_end,
    CAST(session_start AS DATE) AS start_date,
    CAST(max(event_time) AS DATE) AS end_date,
    epoch_us(max(event_time) - session_start) / 1e6 AS duration_secs,
    count(*) AS event_count,
    count(*) FILTER (event_type = 'page_view') AS page_view_count,
    bool_or(event_type = 'purchase') AS had_purchase,
    CAST(coalesce(sum(revenue), 0) AS DECIMAL(18, 4)) AS revenue,
    first(page_url ORDER BY event_time, event_id) FILTER (page_url IS NOT NULL) AS entry_page,
    last(page_url ORDER BY event_time, event_id) FILTER (page_url IS NOT NULL) AS exit_page,
    first(country ORDER BY event_time, event_id) FILTER (country IS NOT NULL) AS country,
    first(device_type ORDER BY event_time, event_id) FILTER (device_type IS NOT NULL) AS device_type,
    first(os ORDER BY event_time, event_id) FILTER (os IS NOT NULL) AS os,
    first(app_version ORDER BY event_time, event_id) FILTER (app_version IS NOT NULL) AS app_version,
    CASE WHEN (device_id, session_start) IN (SELECT (device_id, cut_from) FROM starts) THEN 'cap' END
        AS cut_reason
FROM members
GROUP BY device_id, session_start
ORDER BY device_id, session_start
"""


def expected_events(con: duckdb.DuckDBPyConnection, glob: str, secret: str = "") -> pa.Table:
    """The rows of fact_events that the lines of these files mean, by device_id, event_time, event_id.

    Args:
        con: A connection to work in; it is left with temporary tables.
        glob: Files of JSON lines, gzipped or not.
        secret: The secret that user keys are made with.
    """
    _load(con, glob, secret)
    return con.sql("SELECT * FROM events ORDER BY device_id, event_time, event_id").to_arrow_table()


def expected_sessions(con: duckdb.DuckDBPyConnection, glob: str, secret: str = "") -> pa.Table:
    """The rows of fact_sessions, under the default rules, by device_id and session_start."""
    _load(con, glob, secret)
    return con.sql(_SESSIONS).to_arrow_table()


def expected_dead(con: duckdb.DuckDBPyConnection, glob: str) -> pa.Table:
    """How many lines are dead letters for each reason, by reason; columns reason and dead_letters."""
    _load(con, glob, "")
    return con.sql(
        "SELECT reason, count(*) AS dead_letters FROM judged WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1"
    ).to_arrow_table()


def _load(con: duckdb.DuckDBPyConnection, glob: str, secret: str) -> None:
    con.execute("SET TimeZone = 'UTC'")
    con.register("raw_lines", _raw_lines(glob))
    lines, events = _SQL.split("-- the first delivery of each event")
    con.execute(lines)
    users = [user for (user,) in con.execute("SELECT DISTINCT user_id FROM lines").fetchall() if user is not None]
    keys = [hmac.new(secret.encode(), user.encode(), hashlib.sha256).hexdigest()[:32] for user in users]
    con.register("user_keys", pa.table([pa.array(users, pa.string()), pa.array(keys, pa.string())],
                                       names=["user_id", "user_key"]))  # fmt: skip
    con.execute(events)


def _raw_lines(glob: str) -> pa.Table:
    rows = []
    for path in sorted(globbing.glob(glob)):
        data = Path(path).read_bytes()
        text = gzip.decompress(data) if path.endswith(".gz") else data
        rows += [(path, number, line) for number, line in enumerate(text.split(b"\n")) if line]
    sources, numbers, payloads = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table({
        "source": pa.array(sources, pa.string()),
        "line_number": pa.array(numbers, pa.int64()),
        "payload": pa.array(payloads, pa.binary()),
    })  # fmt: skip
