"""Prints the rows of a query over the lake as a table, JSON or CSV."""

import csv
import json
import math
import sys
from collections.abc import Iterator
from datetime import date, datetime
from itertools import islice
from typing import Literal

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipelines.terminal import print_table, verbatim
from schemas.durations import SECOND, format_time
from schemas.errors import InputError
from stores.lake_sql import query

_SHOWN = 1_000
"""Most rows that a table shows; JSON and CSV print all rows."""

_GAP = 2
"""Spaces between two columns; one space if the table would not fit otherwise."""


def show_query(lake: str, sql: str, form: str, console: Console) -> None:
    """Run a SELECT and print its rows.

    Args:
        lake: The lake's URI.
        sql: One SELECT.
        form: See `show_rows`.
        console: See `show_rows`.

    Raises:
        InputError: The query cannot be run, or its rows cannot be JSON objects.
        StoreError: The lake cannot be read.
    """
    with query(lake, sql) as reader:
        show_rows(reader, form, console)


def show_rows(reader: pa.RecordBatchReader, form: str, console: Console) -> None:
    """Print rows.

    Args:
        reader: The rows.
        form: ``table``, ``json`` (an array of objects) or ``csv``.
        console: Where to print a table; JSON and CSV are streamed to standard output.

    Raises:
        InputError: The rows cannot be JSON objects.
    """
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(reader.schema.names)
        writer.writerows(map(_plain, row) for row in _rows(reader))
    elif form == "json":
        names = reader.schema.names
        if len(set(names)) < len(names):
            raise InputError("JSON cannot hold two columns of one name: rename one with AS")
        _print_json(dict(zip(names, map(_finite, row), strict=True)) for row in _rows(reader))
    else:
        _print_table(reader, console)


def _rows(reader: pa.RecordBatchReader) -> Iterator[tuple[object, ...]]:
    for batch in reader:
        yield from zip(*map(_values, batch.columns), strict=True)


def _values(column: pa.Array) -> list[object]:
    """A column's values, with intervals as DuckDB writes them and timestamps in microseconds."""
    if pa.types.is_interval(column.type):
        return [None if value is None else _interval(*value) for value in column.to_pylist()]
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return list(column.to_pylist())


def _interval(months: int, days: int, nanoseconds: int) -> str:
    """An interval as text, as DuckDB writes it.

    >>> _interval(1, -2, 3_723_500_000_000)
    '1 months -2 days 01:02:03.5'
    """
    seconds, micros = divmod(abs(nanoseconds) // 1000, SECOND)
    fraction = f".{micros:06}".rstrip("0") if micros else ""
    clock = f"{'-' * (nanoseconds < 0)}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
    parts = [f"{months} months"] * bool(months) + [f"{days} days"] * bool(days)
    return " ".join([*parts, clock] if nanoseconds or not parts else parts)


def _finite(value: object) -> object:
    """The value, or None for NaN and infinities, which JSON cannot represent."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_json(rows: Iterator[dict[str, object]]) -> None:
    sys.stdout.write("[")
    for number, row in enumerate(rows):
        sys.stdout.write(",\n " if number else "")
        json.dump(row, sys.stdout, default=_plain, ensure_ascii=False)
    sys.stdout.write("]\n")


def _print_table(reader: pa.RecordBatchReader, console: Console) -> None:
    rows = list(islice(_rows(reader), _SHOWN + 1))
    names = [verbatim(name) for name in reader.schema.names]
    cells = [[verbatim(_short(value)) for value in row] for row in rows[:_SHOWN]]
    widest = [max(cell.cell_len for cell in column) for column in zip(names, *cells, strict=True)]
    # Names, numbers and times are not wrapped; texts may be
    least = [
        name.cell_len if _is_text(field.type) else width
        for field, name, width in zip(reader.schema, names, widest, strict=True)
    ]
    gaps = len(names) - 1
    if sum(least) + gaps <= console.width:
        is_tight = console.is_terminal and sum(widest) + _GAP * gaps > console.width
        table = Table(box=None, pad_edge=False, collapse_padding=is_tight)
        for field, name in zip(reader.schema, names, strict=True):
            justify: Literal["left", "right"] = "right" if _is_number(field.type) else "left"
            table.add_column(name, justify=justify, no_wrap=not _is_text(field.type))
        for row in cells:
            table.add_row(*row)
        print_table(table, console)
    else:
        # The columns do not fit side by side: one line per column
        for number, row in enumerate(cells, start=1):
            console.print(f"row {number}", style="bold", highlight=False)
            table = Table(box=None, pad_edge=False, show_header=False)
            table.add_column(style="dim", min_width=max(name.cell_len for name in names))
            for name, value in zip(names, row, strict=True):
                table.add_row(name, value)
            print_table(table, console)
        if not rows:
            console.print("no rows")
    if len(rows) > _SHOWN:
        console.print(f"the first {_SHOWN:,} rows; --json or --csv gives all", style="dim")


def _is_text(kind: pa.DataType) -> bool:
    return not (_is_number(kind) or pa.types.is_temporal(kind) or pa.types.is_boolean(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _short(value: object) -> object:
    """A value for display: fractions are rounded to four digits."""
    if isinstance(value, float) and math.isfinite(value):
        return round(value, 4) if abs(value) >= 1 else float(f"{value:.4g}")
    return _plain(value)


def _plain(value: object) -> object:
    """A value for other programs: RFC 3339 times, true and false, bytes decoded as UTF-8 with invalid ones escaped."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if value is None or isinstance(value, int | float | str):
        return value
    return str(value)
