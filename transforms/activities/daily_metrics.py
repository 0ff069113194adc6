"""The daily facts of a date: a function of its events, the sessions they are in, and the rules, without Beam.

A session has an event if it is of the event's device and begins no later and ends no earlier: sessions of a device do
not overlap. Sets are counted as distinct pairs of numbers, and the texts behind these go into the sketches in their
order, so that the bytes of a row depend on the rows of the facts alone.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.daily_metrics import DAILY_METRICS, SECONDS, UNKNOWN
from schemas.event_types import Catalogue
from schemas.records import MONEY
from schemas.sketches import sketch_of
from transforms.events.pages import PageRules, categories, normalise
from transforms.runs import Integers

SESSION_COLUMNS = ("session_id", "device_id", "session_start", "session_end")
"""What of the sessions the metrics depend on."""

_TEXT = "CASE json_type(p, $name) WHEN 'VARCHAR' THEN nullif(p ->> $name, '') END"
_NUMBER = "json_type(p, $name) IN ('UBIGINT', 'BIGINT', 'DOUBLE')"
_MILLISECONDS = f"""
    CAST(coalesce(CASE WHEN {_NUMBER} THEN TRY_CAST(p ->> $name AS DECIMAL(15, 3)) END, 0) * 1000 AS BIGINT)
"""

_PURCHASE = "purchase"
_NOWHERE = -1
_LAYOUT = "1"
"""Changes where the same facts come to other rows."""


@dataclass(frozen=True)
class MetricRules:
    """What the catalogue and the page rules say of the metrics.

    Attributes:
        segment: The column of fact_events that says the segment.
        category: Of an event type, the property that says the category, where it is not the page.
        watch_time: Of an event type, the property that counts seconds watched.
        pages: The categories of pages.
    """

    segment: str = "country"
    category: Mapping[str, str] = field(default_factory=dict)
    watch_time: Mapping[str, str] = field(default_factory=dict)
    pages: PageRules = field(default_factory=PageRules)

    @classmethod
    def of(cls, catalogue: Catalogue, pages: PageRules) -> "MetricRules":
        """The rules of a catalogue."""
        return cls(
            catalogue.segment,
            {event.name: event.category for event in catalogue.events if event.category},
            {event.name: event.metrics["watch_time"] for event in catalogue.events if "watch_time" in event.metrics},
            pages,
        )

    @property
    def event_columns(self) -> tuple[str, ...]:
        """What of the events the metrics depend on, beside properties."""
        return ("event_type", "event_time", "device_id", "user_key", "page_url", "revenue", self.segment)

    @property
    def fingerprint(self) -> int:
        """A number that stands for the rules: rows of others are not up to date."""
        said = (_LAYOUT, self.segment, sorted(self.category.items()), sorted(self.watch_time.items()), self.pages)
        return int.from_bytes(hashlib.sha256(repr(said).encode()).digest()[:7])


def daily_metrics(
    day: date, events: pa.Table, sessions: pa.Table, rules: MetricRules, properties: Callable[[], pa.ChunkedArray]
) -> pa.Table:
    """The rows of a date.

    Args:
        day: The date.
        events: All events of the date, with the rules' `event_columns`.
        sessions: Rows with `SESSION_COLUMNS`: all that may have one of the events, and others.
        rules: Segments, categories, watch time.
        properties: Gives the events' properties; called only where a type has one that counts.

    Returns:
        Rows of DAILY_METRICS, by its order.
    """
    if events.num_rows == 0:
        return DAILY_METRICS.empty()
    types = events.column("event_type").combine_chunks().dictionary_encode()
    category = _page_categories(events.column("page_url"), rules.pages)
    watched = np.zeros(events.num_rows, np.int64)
    named = {name for name in types.dictionary.to_pylist() if name in rules.category or name in rules.watch_time}
    if named:
        texts = properties()
        with duckdb.connect(config={"threads": 1}) as connection:
            for name in sorted(named):
                of_type = pc.equal(types, name)
                rows = np.flatnonzero(of_type.to_numpy(zero_copy_only=False))
                connection.register("given", pa.table({"p": texts.take(rows)}))
                if name in rules.category:
                    says = _property(connection, rules.category[name], _TEXT)
                    category = pc.replace_with_mask(category, of_type, pc.fill_null(says, UNKNOWN))
                if name in rules.watch_time:
                    watched[rows] = _property(connection, rules.watch_time[name], _MILLISECONDS).to_numpy()
    segment = pc.fill_null(events.column(rules.segment).combine_chunks(), UNKNOWN)
    group, keys = _groups({"segment": segment, "category": category, "event_type": types})
    device = _Codes.of(events.column("device_id"))
    sets = {
        "users": _Codes.of(events.column("user_key")),
        "devices": device,
        "sessions": _sessions_of(events.column("event_time"), device, sessions),
    }
    count = keys.num_rows
    distinct = {name: _distinct(group, count, codes) for name, codes in sets.items()}
    purchases = group[pc.equal(types, _PURCHASE).to_numpy(zero_copy_only=False)]
    columns = {
        "date": pa.repeat(pa.scalar(day, pa.date32()), count),
        **{name: keys.column(name) for name in keys.column_names},
        "events": np.bincount(group, minlength=count),
        **{name: numbers for name, (numbers, _) in distinct.items()},
        "purchases": np.bincount(purchases, minlength=count),
        "revenue": _sums(group, count, events.column("revenue")),
        "watch_time": _seconds(group, count, watched),
        **{f"{name}_sketch": sketches for name, (_, sketches) in distinct.items()},
    }
    rows = pa.table([columns[name] for name in DAILY_METRICS.names], DAILY_METRICS.names).cast(DAILY_METRICS.schema)
    return rows.sort_by([(name, "ascending") for name in DAILY_METRICS.sort_by])


@dataclass(frozen=True)
class _Codes:
    """A column as numbers that sort as its texts do, `_NOWHERE` for null."""

    texts: pa.Array
    codes: Integers

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "_Codes":
        encoded = column.combine_chunks().dictionary_encode()
        order = pc.sort_indices(encoded.dictionary)
        rank = np.empty(len(order), np.int64)
        rank[order.to_numpy()] = np.arange(len(order))
        codes = np.append(rank, _NOWHERE)[pc.fill_null(encoded.indices, len(order)).to_numpy()]
        return cls(encoded.dictionary.take(order), codes)


def _sessions_of(times: pa.ChunkedArray, device: _Codes, sessions: pa.Table) -> _Codes:
    """The session of each event."""
    ids = _Codes.of(sessions.column("session_id"))
    device_ids = pc.index_in(sessions.column("device_id").combine_chunks(), device.texts)
    kept = device_ids.is_valid().to_numpy(zero_copy_only=False)
    owner = device_ids.fill_null(0).to_numpy()[kept].astype(np.int64)
    start, end = (sessions.column(name).cast(pa.int64()).to_numpy()[kept] for name in ("session_start", "session_end"))
    micros = times.cast(pa.int64()).to_numpy()
    if not len(start):
        return _Codes(ids.texts, np.full(len(micros), _NOWHERE))
    # device and time as one number: the last session of the device that begins no later
    least = min(micros.min(), start.min())
    span = max(micros.max(), start.max()) - least + 1
    begins = owner * span + (start - least)
    order = np.argsort(begins, kind="stable")
    at = np.searchsorted(begins[order], device.codes * span + (micros - least), side="right") - 1
    found = order[np.maximum(at, 0)]
    inside = (at >= 0) & (owner[found] == device.codes) & (micros <= end[found])
    return _Codes(ids.texts, np.where(inside, ids.codes[kept][found], _NOWHERE))


def _groups(columns: Mapping[str, pa.Array]) -> tuple[Integers, pa.Table]:
    """The number of each row's combination of values, and the combinations."""
    combined = np.zeros(len(next(iter(columns.values()))), np.int64)
    encoded = {
        name: array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        for name, array in columns.items()
    }
    for array in encoded.values():
        combined = combined * len(array.dictionary) + array.indices.to_numpy()
    numbers = pa.array(combined).dictionary_encode()
    rest = numbers.dictionary.to_numpy()
    found: dict[str, pa.Array] = {}
    for name, array in reversed(encoded.items()):
        found[name] = array.dictionary.take(pa.array(rest % len(array.dictionary)))
        rest = rest // len(array.dictionary)
    return numbers.indices.to_numpy().astype(np.int64), pa.table({name: found[name] for name in columns})


def _distinct(group: Integers, count: int, codes: _Codes) -> tuple[Integers, pa.Array]:
    """How many distinct values each group has, and their sketch."""
    there = codes.codes != _NOWHERE
    width = len(codes.texts) + 1
    pairs = np.sort(pc.unique(pa.array(group[there] * width + codes.codes[there])).to_numpy())
    numbers = np.bincount(pairs // width, minlength=count)
    texts = codes.texts.take(pa.array(pairs % width)).to_pylist()
    ends = np.cumsum(numbers)
    sketches = [sketch_of(texts[end - number : end]) for end, number in zip(ends, numbers, strict=True)]
    return numbers, pa.array(sketches, pa.binary())


def _sums(group: Integers, count: int, values: pa.ChunkedArray) -> pa.Array:
    """The exact sum of each group's decimals, 0 where it has none."""
    there = values.is_valid().to_numpy()
    table = pa.table({"group": group[there], "value": values.filter(pa.array(there))})
    sums = table.group_by("group", use_threads=False).aggregate([("value", "sum")])
    places = pc.index_in(pa.array(np.arange(count)), sums.column("group").combine_chunks())
    return pc.fill_null(sums.column("value_sum").combine_chunks().take(places).cast(MONEY), 0)


def _page_categories(urls: pa.ChunkedArray, rules: PageRules) -> pa.Array:
    encoded = urls.combine_chunks().dictionary_encode()
    paths = normalise(pl.Series(pl.from_arrow(encoded.dictionary), dtype=pl.String))["path"]
    found = pl.select(pl.when(paths.is_null()).then(pl.lit(UNKNOWN)).otherwise(categories(paths, rules))).to_series()
    names = found.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
    return pc.fill_null(names.take(encoded.indices), UNKNOWN)


def _property(connection: duckdb.DuckDBPyConnection, name: str, expression: str) -> pa.Array:
    """A property of the JSON texts in column p of ``given``."""
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    found = connection.sql(f"SELECT {expression} FROM given", params={"name": pointer}).to_arrow_table()
    return found.column(0).combine_chunks()


def _seconds(group: Integers, count: int, milliseconds: Integers) -> pa.Array:
    totals = np.zeros(count, np.int64)
    rows = np.flatnonzero(milliseconds)
    np.add.at(totals, group[rows], milliseconds[rows])
    return pa.array([Decimal(int(total)).scaleb(-3) for total in totals], SECONDS)
