"""Print what a query over the lake gives: as a table, JSON or CSV."""

import csv
import json
import sys
from collections.abc import Iterator
from datetime import date, datetime

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from stores.lake_sql import query

_SHOWN = 1_000
"""Rows that a table shows; JSON and CSV give all."""


def show_query(lake: str, sql: str, form: str, console: Console) -> None:
    """Run a SELECT and print its rows.

    Args:
        lake: The lake's URI.
        sql: One SELECT.
        form: ``table``, ``json`` (an array of objects) or ``csv``.
        console: Where a table goes; JSON and CSV go to standard output as they come.

    Raises:
        InputError: The query cannot be run.
        StoreError: The lake cannot be read.
    """
    with query(lake, sql) as reader:
        if form == "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(reader.schema.names)
            writer.writerows(tuple(_plain(value) for value in row.values()) for row in _rows(reader))
        elif form == "json":
            _print_json(_rows(reader))
        else:
            _print_table(reader, console)


def _rows(reader: pa.RecordBatchReader) -> Iterator[dict[str, object]]:
    for batch in reader:
        yield from batch.to_pylist()


def _print_json(rows: Iterator[dict[str, object]]) -> None:
    sys.stdout.write("[")
    for number, row in enumerate(rows):
        sys.stdout.write(",\n " if number else "")
        json.dump(row, sys.stdout, default=_plain, ensure_ascii=False)
    sys.stdout.write("]\n")


def _print_table(reader: pa.RecordBatchReader, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for field in reader.schema:
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        table.add_column(field.name, justify="right" if numeric else "left", overflow="fold")
    more = False
    for row in _rows(reader):
        if table.row_count == _SHOWN:
            more = True
            break
        table.add_row(*("" if value is None else str(_plain(value)) for value in row.values()))
    console.print(table)
    if more:
        console.print(f"the first {_SHOWN:,} rows; --json or --csv gives all", style="dim")


def _plain(value: object) -> object:
    """A value as text that other programs read: RFC 3339 times, bytes as UTF-8 where they are."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if value is None or isinstance(value, int | float | str):
        return value
    return str(value)
