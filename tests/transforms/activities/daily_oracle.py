"""The daily facts by SQL over the lake's other tables: one plain query, with none of the program's code."""

from typing import Any

from schemas.sketches import estimate
from stores.lake_sql import connect

_QUERY = """
WITH told AS (
    SELECT e.*, coalesce({segment}, 'unknown') AS segment,
        CASE WHEN event_type = 'video_view' THEN coalesce(properties ->> 'content_category', 'unknown')
             ELSE coalesce(p.category, 'unknown') END AS told_category,
        CASE WHEN event_type IN ('video_view', 'outcome_viewed', 'episode_end')
             THEN coalesce(CAST(properties ->> 'view_duration_sec' AS DECIMAL(18, 3)), 0) ELSE 0 END AS watched,
        (SELECT max(s.session_id) FROM fact_sessions s WHERE s.device_id = e.device_id
            AND e.event_time BETWEEN s.session_start AND s.session_end) AS in_session
    FROM fact_events e LEFT JOIN dim_pages p ON p.page_key = page_key(e.page_url)
)
SELECT event_date AS date, segment, told_category AS category, event_type, count(*) AS events,
    count(DISTINCT user_key) AS users, count(DISTINCT device_id) AS devices, count(DISTINCT in_session) AS sessions,
    count(*) FILTER (event_type = 'purchase') AS purchases, coalesce(sum(revenue), 0)::DECIMAL(18, 4) AS revenue,
    sum(watched)::DECIMAL(18, 3) AS watch_time,
    list(DISTINCT user_key) FILTER (user_key IS NOT NULL) AS user_keys
FROM told GROUP BY ALL ORDER BY ALL
"""


def recomputed(lake: str, segment: str = "country") -> list[dict[str, Any]]:
    """The rows that daily_metrics must have, sketches aside; `user_keys` is the set behind users."""
    with connect(lake) as sql:
        return list(sql.sql(_QUERY.format(segment=segment)).to_arrow_table().to_pylist())


def assert_exact(lake: str, segment: str = "country") -> None:
    """daily_metrics is what the facts come to; each sketch says what its count says, within its error."""
    with connect(lake) as sql:
        found = sql.sql("SELECT * FROM daily_metrics ORDER BY date, segment, category, event_type").to_arrow_table()
    expected = recomputed(lake, segment)
    measures = [name for name in found.column_names if not name.endswith("_sketch")]
    assert found.select(measures).to_pylist() == [{name: row[name] for name in measures} for row in expected]
    for row in found.to_pylist():
        for name in ("users", "devices", "sessions"):
            assert abs(estimate([row[f"{name}_sketch"]]) - row[name]) <= 0.06 * row[name]
    for kind in {row["event_type"] for row in expected}:
        keys = {key for row in expected if row["event_type"] == kind for key in row["user_keys"] or ()}
        merged = estimate(row["users_sketch"] for row in found.to_pylist() if row["event_type"] == kind)
        assert abs(merged - len(keys)) <= 0.06 * len(keys)
