"""Generates the data dictionary, docs/data-dictionary.md, from the declarations of the tables."""

import sys
from collections.abc import Iterable

import pyarrow as pa

from schemas.catalogue import shipped_catalogue
from schemas.daily_metrics import DAILY_METRICS
from schemas.dead_letters import DEAD_LETTER
from schemas.dimensions import DEVICE, PAGE, USER
from schemas.event_types import Catalogue, EventType
from schemas.events import FACT_EVENT
from schemas.records import Field, Record
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from schemas.sessions import FACT_SESSION
from schemas.silver import COMMON, EXTRA, FOLDER, other_record, silver_record
from schemas.user_stream import COMPUTED, USER_STREAM

TABLES = (
    FACT_EVENT, FACT_SESSION, DEVICE.record, USER.record, PAGE,
    DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE, DEAD_LETTER, USER_STREAM, DAILY_METRICS,
)  # fmt: skip

_INTRODUCTION = """\
# Data dictionary

Generated from `schemas/` by `make docs`; a test checks that it is current. All times are UTC. In the lake, a table is a
Delta table: Parquet files in one folder per value of its partition column. `clickstream sql "SHOW TABLES"` and
`"SHOW TABLES FROM silver"` list the tables and views of a lake, and `"DESCRIBE journeys"` lists the columns of one.
"""

_TYPES = {pa.string(): "text", pa.binary(): "bytes", pa.bool_(): "boolean", pa.date32(): "date"}


def data_dictionary() -> str:
    """The document in Markdown, with a section per table and a line per column."""
    return "\n".join([_INTRODUCTION, *map(_section, TABLES), silver_dictionary(shipped_catalogue())])


def silver_dictionary(catalogue: Catalogue) -> str:
    """The section on the silver tables: the common columns, then those of each event type."""
    other = other_record()
    lines = [
        f"## {FOLDER}/…",
        "",
        f"Grain: one event of a type. Key: {_listed(other.key)}. Partitioned by {_listed(other.partition_by)}; within "
        f"a file sorted by {_listed(other.sort_by)}. Events of undeclared types are in {other.name}. Common columns:",
        "",
        *_columns((*COMMON, EXTRA)),
        "",
        "The other columns are the type's properties, as the catalogue declares them (docs/layers.md).",
    ]
    return "\n".join(lines) + "\n" + "".join(f"\n{event_dictionary(event)}" for event in catalogue.events)


def event_dictionary(event: EventType) -> str:
    """The section on an event type: its silver columns, and how its properties are used."""
    record = silver_record(event)
    lines = [f"### {record.name}", "", f"`{event.name}`: {event.description}. {_uses(event)}".rstrip()]
    properties = record.fields[len(COMMON) : -1]
    if properties:
        lines += ["", *_columns(properties)]
    return "\n".join(lines) + "\n"


def _uses(event: EventType) -> str:
    uses = [f"feature_{place}: {name}" for place, name in enumerate(event.features, 1) if name]
    uses += [f"revenue_impact: {', else '.join(event.revenue)}"] if event.revenue else []
    uses += [f"{use}: {name}" for use, name in (("link", event.link), ("category", event.category)) if name]
    uses += [f"{metric}: {name}" for metric, name in event.metrics.items()]
    required = [item.name for item in event.properties if item.required]
    said = [f"Used as {'; '.join(uses)}."] if uses else []
    return " ".join([*said, *([f"Required: {', '.join(required)}."] if required else [])])


def type_name(kind: pa.DataType) -> str:
    """A readable name of an Arrow type.

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
        *_columns(table),
    ]
    if table is USER_STREAM:
        lines += ["", "Not stored, but in the view of `clickstream sql` (docs/layers.md):", "", *_columns(COMPUTED)]
    return "\n".join(lines) + "\n"


def _columns(fields: Iterable[Field]) -> list[str]:
    return [
        "| column | type | null? | meaning |",
        "|---|---|---|---|",
        *(
            f"| {field.name} | {type_name(field.type)} | {'yes' if field.nullable else ''} | {_escaped(field.doc)} |"
            for field in fields
        ),
    ]


def _listed(columns: tuple[str, ...]) -> str:
    return ", ".join(columns) or "nothing"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(data_dictionary())
