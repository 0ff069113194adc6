"""Computes the daily metrics of a date from its events, their sessions, and the rules. No Beam.

An event belongs to the session of its device whose start and end enclose its time; sessions of a device do not overlap.
Texts are added to the sketches in sorted order, so that the bytes of a row depend only on the rows of the facts.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.daily_metrics import DAILY_METRICS, UNKNOWN
from schemas.errors import StoreError, first_line
from schemas.event_types import Catalogue
from schemas.sketches import Sketch
from stores.sql_text import json_pointer, literal, quoted
from transforms.events.pages import PageRules, categories, normalise

SESSION_COLUMNS = ("session_id", "device_id", "session_start", "session_end")
"""The session columns that the metrics depend on."""

Piece = Callable[[Sequence[str]], pa.Table]
"""A function from column names to these columns of a part of fact_events."""

_MEMORY_MB = 256
"""DuckDB's memory for the dates that are counted at the same time; beyond this it spills to disk."""
_TEXTS_AT_ONCE = 4_096

_TABLES = """
    CREATE OR REPLACE SEQUENCE numbers;
    CREATE OR REPLACE TABLE groups (number INTEGER, segment VARCHAR, category VARCHAR, event_type VARCHAR);
    CREATE OR REPLACE TABLE sums
        (number INTEGER, events BIGINT, purchases BIGINT, revenue DECIMAL(38, 4), watch_time DECIMAL(38, 3));
    CREATE OR REPLACE TABLE events (number INTEGER, device_id VARCHAR, user_key VARCHAR, event_time TIMESTAMPTZ);
    CREATE OR REPLACE TABLE sessions
        (session_id VARCHAR, device_id VARCHAR, session_start TIMESTAMPTZ, session_end TIMESTAMPTZ);
"""
_ADD_PIECE = """
    CREATE OR REPLACE TEMP TABLE piece AS {piece};
    INSERT INTO groups SELECT nextval('numbers'), * FROM (SELECT DISTINCT segment, category, event_type FROM piece)
        ANTI JOIN groups USING (segment, category, event_type);
    INSERT INTO sums
        SELECT number, count(*), count(*) FILTER (event_type = 'purchase'), coalesce(sum(revenue), 0), sum(watch_time)
        FROM piece JOIN groups USING (segment, category, event_type) GROUP BY number;
    INSERT INTO events SELECT number, device_id, user_key, event_time
        FROM piece JOIN groups USING (segment, category, event_type);
"""
# A sum of more than the column's 18 digits comes from a broken producer, and must not stop the computation
_SUMS = """
    SELECT number, segment, category, event_type, sum(events) AS events, sum(purchases) AS purchases,
        greatest(least(sum(revenue), 99999999999999.9999), -99999999999999.9999) AS revenue,
        greatest(least(sum(watch_time), 999999999999999.999), -999999999999999.999) AS watch_time
    FROM sums JOIN groups USING (number) GROUP BY ALL ORDER BY segment, category, event_type
"""
_SETS = {
    "users": "SELECT DISTINCT number, user_key AS text FROM events WHERE user_key IS NOT NULL",
    "devices": "SELECT DISTINCT number, device_id AS text FROM events",
    "sessions": """
        SELECT DISTINCT number, session_id AS text FROM events e
        ASOF JOIN sessions s ON e.device_id = s.device_id AND e.event_time >= s.session_start
        WHERE e.event_time <= s.session_end
    """,
}
_TEXT = "CASE json_type(properties, {0}) WHEN 'VARCHAR' THEN nullif(properties ->> {0}, '') END"
_SECONDS = """
    coalesce(CASE WHEN json_type(properties, {0}) IN ('UBIGINT', 'BIGINT', 'DOUBLE')
        THEN TRY_CAST(properties ->> {0} AS DECIMAL(15, 3)) END, 0)
"""

_LAYOUT = "1"
"""Version of the computation; change it whenever the same facts give other rows."""


@dataclass(frozen=True)
class MetricRules:
    """The rules for the metrics, from the catalogue and the page rules.

    Attributes:
        segment: The column of fact_events that holds the segment.
        category: By event type, the property that holds the category, for types that do not use the page's category.
        watch_time: By event type, the property that holds the seconds watched.
        pages: The rules for the categories of pages.
    """

    segment: str = "country"
    category: Mapping[str, str] = field(default_factory=dict)
    watch_time: Mapping[str, str] = field(default_factory=dict)
    pages: PageRules = field(default_factory=PageRules)

    @classmethod
    def of(cls, catalogue: Catalogue, pages: PageRules) -> "MetricRules":
        """The rules of a catalogue and of page rules."""
        return cls(
            catalogue.segment,
            {event.name: event.category for event in catalogue.events if event.category},
            {event.name: event.metrics["watch_time"] for event in catalogue.events if "watch_time" in event.metrics},
            pages,
        )

    @property
    def event_columns(self) -> tuple[str, ...]:
        """The event columns that the metrics depend on, except properties."""
        return ("event_type", "event_time", "device_id", "user_key", "page_url", "revenue", self.segment)

    @property
    def fingerprint(self) -> int:
        """A hash of the rules; metrics computed under rules with another fingerprint are out of date."""
        said = (_LAYOUT, self.segment, sorted(self.category.items()), sorted(self.watch_time.items()), self.pages)
        return int.from_bytes(hashlib.sha256(repr(said).encode()).digest()[:7])


@contextmanager
def counting(share: int = 1) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the DuckDB connection in which `daily_metrics` counts one date after another.

    Reuse it over dates: opening it takes as long as counting a small date.

    Args:
        share: Number of connections that share the memory.

    Raises:
        StoreError: DuckDB fails, for example because there is no space to spill.
    """
    memory = f"{_MEMORY_MB // share}MB"
    with (
        tempfile.TemporaryDirectory(prefix="clickstream-metrics-") as spill,
        duckdb.connect(config={"threads": 1, "memory_limit": memory, "temp_directory": spill}) as connection,
    ):
        connection.execute("SET preserve_insertion_order = false")
        try:
            yield connection
        except duckdb.Error as error:
            raise StoreError(f"{DAILY_METRICS.name}: cannot count: {first_line(error)}") from error


def daily_metrics(
    tables: duckdb.DuckDBPyConnection,
    day: date,
    events: Iterable[Piece],
    sessions: Iterable[pa.Table],
    rules: MetricRules,
) -> pa.Table:
    """Compute the rows of a date.

    Memory is bounded, however many events the date has: one piece of them is in memory at a time, and DuckDB counts
    the distinct values and spills to disk.

    Args:
        tables: The connection from `counting`; the tables of the previous date are replaced.
        day: The date.
        events: All events of the date, in pieces. Of each piece the rules' `event_columns` are read; its properties
            are read only if it has events of a type whose category or watch time is a property.
        sessions: Rows with `SESSION_COLUMNS`: all sessions that may contain one of the events; others do no harm.
        rules: Segments, categories, watch time.

    Returns:
        Rows of DAILY_METRICS, in its sort order.
    """
    tables.execute(_TABLES)
    for piece in events:
        _add(tables, piece, rules)
    for part in sessions:
        tables.register("part", part.select(SESSION_COLUMNS))
        tables.execute("INSERT INTO sessions FROM part")
    sums = tables.sql(_SUMS).to_arrow_table()
    if sums.num_rows == 0:
        return DAILY_METRICS.empty()
    columns = {name: sums.column(name) for name in sums.column_names}
    columns["date"] = pa.repeat(pa.scalar(day, pa.date32()), sums.num_rows)
    for name, query in _SETS.items():
        sets = _distinct(tables, query)
        found = [sets.get(number, (0, Sketch())) for number in sums.column("number").to_pylist()]
        columns[name] = pa.array([count for count, _ in found])
        columns[f"{name}_sketch"] = pa.array([bytes(sketch) for _, sketch in found], pa.binary())
    return pa.table([columns[name] for name in DAILY_METRICS.names], DAILY_METRICS.names).cast(DAILY_METRICS.schema)


def _add(tables: duckdb.DuckDBPyConnection, piece: Piece, rules: MetricRules) -> None:
    """Add a piece of the events to the sums and to the events to be counted."""
    rows = piece(rules.event_columns)
    types = set(rows.column("event_type").unique().to_pylist())
    if types & (rules.category.keys() | rules.watch_time.keys()):
        rows = rows.append_column("properties", piece(["properties"]).column(0))
    rows = rows.append_column("page_category", _page_categories(rows.column("page_url"), rules.pages))

    def by_type(expression: str, properties: Mapping[str, str], otherwise: str) -> str:
        cases = [
            f" WHEN {literal(kind)} THEN {expression.format(json_pointer(name))}"
            for kind, name in sorted(properties.items())
            if kind in types
        ]
        return f"CASE event_type{''.join(cases)} ELSE {otherwise} END" if cases else otherwise

    tables.register("given", rows)
    selected = f"""
        SELECT coalesce({quoted(rules.segment)}, {literal(UNKNOWN)}) AS segment,
            coalesce({by_type(_TEXT, rules.category, "page_category")}, {literal(UNKNOWN)}) AS category,
            event_type, device_id, user_key, event_time, revenue,
            {by_type(_SECONDS, rules.watch_time, "0.000")} AS watch_time
        FROM given
    """
    tables.execute(_ADD_PIECE.format(piece=selected))


def _distinct(tables: duckdb.DuckDBPyConnection, query: str) -> dict[int, tuple[int, Sketch]]:
    """The number of distinct texts that the query returns for each group, and their sketch."""
    found: dict[int, tuple[int, Sketch]] = {}
    for batch in tables.sql(f"{query} ORDER BY number, text").to_arrow_reader(_TEXTS_AT_ONCE):
        runs, start = pc.run_end_encode(batch.column("number")), 0
        for number, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            texts, start = batch.column("text").slice(start, end - start).to_pylist(), end
            count, sketch = found.get(number, (0, Sketch()))
            sketch.add(texts)
            found[number] = count + len(texts), sketch
    return found


def _page_categories(urls: pa.ChunkedArray, rules: PageRules) -> pa.Array:
    encoded = urls.combine_chunks().dictionary_encode()
    paths = normalise(pl.Series(pl.from_arrow(encoded.dictionary), dtype=pl.String))["path"]
    found = pl.select(pl.when(paths.is_not_null()).then(categories(paths, rules))).to_series()
    names = found.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
    return names.take(encoded.indices)
