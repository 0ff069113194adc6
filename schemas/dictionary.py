"""The data dictionary: what docs/data-dictionary.md says of the tables, written from their declarations."""

import sys
from collections.abc import Iterable

import pyarrow as pa

from schemas.dead_letters import DEAD_LETTER
from schemas.dimensions import DEVICE, PAGE, USER
from schemas.events import FACT_EVENT
from schemas.records import Record
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from schemas.sessions import FACT_SESSION

TABLES = (
    FACT_EVENT, FACT_SESSION, DEVICE.record, USER.record, PAGE,
    DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE, DEAD_LETTER,
)  # fmt: skip

_INTRODUCTION = """\
# Data dictionary

Written from `schemas/` by `make docs`; a test holds the two equal. All times are UTC. In the lake a table is a Delta
table: Parquet files in a folder for each value of its partition column.
"""

_TYPES = {pa.string(): "text", pa.binary(): "bytes", pa.bool_(): "boolean", pa.date32(): "date"}


def data_dictionary(tables: Iterable[Record] = TABLES) -> str:
    """The document in Markdown: a section a table, a line a column."""
    return "\n".join([_INTRODUCTION, *map(_section, tables)])


def type_name(kind: pa.DataType) -> str:
    """An Arrow type in a reader's words.

    >>> type_name(pa.decimal128(18, 4)), type_name(pa.timestamp("us", tz="UTC")), type_name(pa.int64())
    ('decimal(18, 4)', 'timestamp, microseconds', 'int64')
    """
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if pa.types.is_timestamp(kind) and (kind.unit, kind.tz) == ("us", "UTC"):
        return "timestamp, microseconds"
    return _TYPES.get(kind, str(kind))


def _section(table: Record) -> str:
    lines = [
        f"## {table.name}",
        "",
        f"Grain: {table.grain}. Key: {_listed(table.key)}. Partitioned by {_listed(table.partition_by)}; "
        f"within a file sorted by {_listed(table.sort_by)}.",
        "",
        "| column | type | null? | meaning |",
        "|---|---|---|---|",
        *(
            f"| {field.name} | {type_name(field.type)} | {'yes' if field.nullable else ''} | {_escaped(field.doc)} |"
            for field in table
        ),
    ]
    return "\n".join(lines) + "\n"


def _listed(columns: tuple[str, ...]) -> str:
    return ", ".join(columns) or "nothing"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(data_dictionary())
