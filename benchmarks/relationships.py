"""Measure the ten relationships on a generated stream, and compare each with a handwritten self-join.

    python benchmarks/relationships.py [--rows 30M] [--join-rows 1M]

Each question runs in a new process with 2 threads and 4 GB for DuckDB, which may spill to disk. The cohort activity is
page_view (45% of the activities), the appended activity is click (20%). Customers are skewed: the largest has about one
in a hundred activities. CPU is user and system time. Rewrites benchmarks/relationships.md.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from pipelines.options import parse_count
from transforms import relationships as r
from transforms.relationships import cohort

SETTINGS = "SET threads = 2; SET memory_limit = '4GB'; SET preserve_insertion_order = false; SET TimeZone = 'UTC'"
RESULTS = Path(__file__).parent / "relationships.md"
COHORT = cohort("page_view", columns=["activity_id", "ts"])
ALL_TEN = (
    r.first_ever("click"),
    r.last_ever("click"),
    r.first_before("click"),
    r.last_before("click"),
    r.first_after("click"),
    r.last_after("click"),
    r.first_in_between("click"),
    r.last_in_between("click"),
    r.aggregate_before("click"),
    r.aggregate_in_between("click"),
)
QUESTIONS = {item.relationship: COHORT.append(item) for item in ALL_TEN} | {
    "nth_ever (3)": COHORT.append(r.nth_ever("click", 3)),
    "aggregate_after": COHORT.append(r.aggregate_after("click")),
    "aggregate_all_ever": COHORT.append(r.aggregate_all_ever("click")),
    "first_after within 1h": COHORT.append(r.first_after("click", within="1h")),
    "aggregate_before within 7d": COHORT.append(r.aggregate_before("click", within="7d")),
    "count_distinct before": COHORT.append(r.aggregate_before("click", r.count_distinct("feature_1"))),
    "link of last_before": COHORT.append(r.last_before("click", columns=["ts", "link"])),
    "all ten at once": COHORT.append(*ALL_TEN),
}
"""The ten relationships of the specification, then other questions."""

_EARLIER, _LATER = "(a.ts, a.activity_id) < (c.ts, c.activity_id)", "(a.ts, a.activity_id) > (c.ts, c.activity_id)"
_UNTIL_NEXT = f"{_LATER} AND (c.next_id IS NULL OR (a.ts, a.activity_id) < (c.next_ts, c.next_id))"
JOINS = {
    "first_ever": ("min(a.ts)", "true"),
    "last_ever": ("max(a.ts)", "true"),
    "first_before": ("min(a.ts)", _EARLIER),
    "last_before": ("max(a.ts)", _EARLIER),
    "first_after": ("min(a.ts)", _LATER),
    "last_after": ("max(a.ts)", _LATER),
    "first_in_between": ("min(a.ts)", _UNTIL_NEXT),
    "last_in_between": ("max(a.ts)", _UNTIL_NEXT),
    "aggregate_before": ("count(a.ts)", _EARLIER),
    "aggregate_in_between": ("count(a.ts)", _UNTIL_NEXT),
}
"""For the self-join of each relationship, the aggregate over pairs of a cohort row c and an appended row a, and the
condition that selects the pairs."""


def self_join(name: str) -> str:
    """The relationship as a self-join of the stream by customer, grouped by the cohort's rows."""
    value, pairs = JOINS[name]
    return f"""
        WITH s AS (SELECT *, coalesce(customer, anonymous_customer_id) AS who FROM user_stream),
        c AS (
            SELECT *, lead(ts) OVER w AS next_ts, lead(activity_id) OVER w AS next_id FROM s
            WHERE activity = 'page_view' WINDOW w AS (PARTITION BY who ORDER BY ts, activity_id)
        )
        SELECT c.activity_id, c.ts, {value} AS found
        FROM c LEFT JOIN s AS a ON a.who = c.who AND a.activity = 'click' AND {pairs}
        GROUP BY c.activity_id, c.ts"""


def generate(rows: int, file: Path) -> None:
    """Write a stream of `rows` activities in 30 days to a Parquet file; a third of the customers are anonymous."""
    with duckdb.connect() as sql:
        sql.execute(f"{SETTINGS}; SET temp_directory = '{file.parent}/spill'")
        sql.execute(f"""
            COPY (
                WITH random AS (
                    SELECT i, hash(i * 3 + 1) AS a, hash(i * 3 + 2) AS b, hash(i * 3 + 3) AS c FROM range({rows}) t(i)
                ), drawn AS (
                    SELECT *, floor({rows} / 20 * pow(a % 1000000 / 1e6, 3))::BIGINT AS who, b % 100 AS percent
                    FROM random
                )
                SELECT md5(i::VARCHAR) AS activity_id,
                    make_timestamptz(1775001600000000 + (c % 2592000000)::BIGINT * 1000) AS ts,
                    CASE WHEN who % 3 > 0 THEN md5('c' || who) END AS customer,
                    CASE WHEN percent < 45 THEN 'page_view' WHEN percent < 65 THEN 'click'
                        WHEN percent < 80 THEN 'product_view' WHEN percent < 88 THEN 'search'
                        WHEN percent < 94 THEN 'add_to_cart' WHEN percent < 97 THEN 'email_open' ELSE 'purchase' END
                        AS activity,
                    'd' || who AS anonymous_customer_id,
                    'f' || a // 1000000 % 1000 AS feature_1, CASE WHEN a % 3 = 0 THEN 'x' || a % 50 END AS feature_2,
                    NULL::VARCHAR AS feature_3, '{{"k": ' || a % 10 || '}}' AS feature_json,
                    CASE WHEN percent >= 97 THEN (a % 1000000)::DECIMAL(18, 4) / 100 END::DECIMAL(18, 4)
                        AS revenue_impact,
                    'https://shop.example/' || b // 100 % 5000 AS link
                FROM drawn
            ) TO '{file}' (FORMAT parquet, COMPRESSION zstd)""")


def measure(file: Path, query: str) -> dict[str, float]:
    """Run a query in this process and discard its rows."""
    with duckdb.connect() as sql:
        sql.execute(f"{SETTINGS}; SET temp_directory = '{file.parent}/spill'")
        sql.execute(f"CREATE VIEW user_stream AS FROM read_parquet('{file}')")
        started = time.monotonic()
        columns = [row[0] for row in sql.execute(f"DESCRIBE {query}").fetchall()]
        # The hashes force DuckDB to compute every column of every row without returning them
        looked_at = ", ".join(f'sum(hash("{column}"))' for column in columns)
        rows, *_ = sql.execute(f"SELECT count(*), {looked_at} FROM ({query})").fetchall()[0]
        seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"rows": rows, "seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "gb": used.ru_maxrss * 1024 / 1e9}


def measure_apart(file: Path, query: str) -> dict[str, float]:
    """Run a query in a separate process."""
    command = [sys.executable, __file__, "--measure", str(file)]
    done = subprocess.run(command, input=query, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def report(rows: int, join_rows: int) -> str:
    """Measure all questions and return the results as Markdown."""
    lines = [
        f"`python benchmarks/relationships.py --rows {rows} --join-rows {join_rows}`: {rows:,} activities, cohort",
        "page_view, appended click.",
        "",
        "| question | cohort rows | seconds | CPU s | peak GB |",
        "|---|---|---|---|---|",
    ]
    joined = [
        "",
        f"At {join_rows:,} activities, compared with the self-join:",
        "",
        "| relationship | CPU s | peak GB | self-join: CPU s | peak GB |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(prefix="relationships-") as folder:
        for size, name in ((rows, "all"), (join_rows, "joined")):
            generate(size, Path(folder, f"{name}.parquet"))
        for name, question in QUESTIONS.items():
            try:
                found = measure_apart(Path(folder, "all.parquet"), question.sql())
            except subprocess.CalledProcessError as error:
                lines.append(f"| {name} | failed: {error.stderr.strip().splitlines()[-1]} | | | |")
                continue
            line = f"| {name} | {found['rows']:,} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['gb']:.1f} |"
            print(line, flush=True)
            lines.append(line)
        for name in JOINS:
            ours, theirs = (
                measure_apart(Path(folder, "joined.parquet"), query)
                for query in (QUESTIONS[name].sql(), self_join(name))
            )
            line = f"| {name} | {ours['cpu']:.1f} | {ours['gb']:.1f} | {theirs['cpu']:.1f} | {theirs['gb']:.1f} |"
            print(line, flush=True)
            joined.append(line)
    return "\n".join(["# Relationships", "", *lines, *joined, ""])


def main() -> None:
    """Measure all questions, or with --measure a single query in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=parse_count, default=30_000_000)
    parser.add_argument("--join-rows", type=parse_count, default=1_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, sys.stdin.read())))
    else:
        RESULTS.write_text(report(options.rows, options.join_rows), encoding="utf-8")


if __name__ == "__main__":
    main()
