"""Converts unique events to rows of silver and of the activity stream, as the catalogue declares. No Beam.

The events of each type are gathered, and one query reads their properties once for both layers. An event whose
properties are not as declared is in neither layer; it stays in fact_events, and becomes a dead letter with the reason.
"""

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dead_letters import DEAD_LETTER
from schemas.event_types import Catalogue, EventType
from schemas.records import MONEY, Record
from schemas.silver import COMMON, other_record, silver_record
from schemas.table_query import TableQuery
from schemas.user_stream import USER_STREAM
from transforms.activities.plain_properties import PropertyFinder
from transforms.activities.property_types import type_query
from transforms.activities.refused_events import refused_letters

_GATHERED = [*(field.name for field in COMMON), "page_url", "properties"]
# the length prefix makes the concatenation of the two ids unambiguous
_ACTIVITY_IDS = TableQuery("SELECT md5(concat(strlen(device_id), ':', device_id, event_id)) FROM given")


class TypedEvents(NamedTuple):
    """The result of typing some events. Each is in one silver table and in the stream, or is a dead letter.

    Attributes:
        silver: The rows of each silver table that has any, by the table's name.
        stream: Rows of USER_STREAM.
        dead_letters: Rows of DEAD_LETTER.
    """

    silver: dict[str, pa.Table]
    stream: pa.Table
    dead_letters: pa.Table

    def rows(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield the name and the rows of each table that has any, the stream included."""
        for name, rows in (*self.silver.items(), (USER_STREAM.name, self.stream)):
            if rows.num_rows:
                yield name, rows


class _Typing(NamedTuple):
    """A silver table, and the declaration of its event type; None for the table of undeclared types."""

    record: Record
    event: EventType | None


class EventTyper:
    """Types batches of events; thread-safe."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._typings = [_Typing(other_record(), None)]
        self._typings += [_Typing(silver_record(event), event) for event in catalogue.events]
        self._place = {event.name: place for place, event in enumerate(catalogue.events, 1)}
        with_properties = [event for event in catalogue.events if event.properties]
        self._queries = {event.name: TableQuery(type_query(event)) for event in with_properties}
        self._finders = {event.name: PropertyFinder(event) for event in with_properties}

    def type_events(self, events: pa.Table, first_met: date) -> TypedEvents:
        """Type a batch.

        Args:
            events: Rows of EVENT_BATCH, each event once.
            first_met: The arrival date of dead letters whose input has no arrival time.
        """
        silver: dict[str, pa.Table] = {}
        stream, letters = [USER_STREAM.empty()], [DEAD_LETTER.empty()]
        order, parts = self._by_typing(events["event_type"])
        ids = _ACTIVITY_IDS.run(events.select(["device_id", "event_id"])).column(0)
        gathered = events.select(_GATHERED).append_column("activity_id", ids).take(pa.array(order))
        for typing, start, end in parts:
            rows = gathered.slice(start, end - start)
            typed = self._properties(typing.event, rows["properties"])
            fault = typed["fault"]
            if fault.null_count < len(fault):
                good = pc.is_null(fault)
                bad = events.take(pa.array(order[start:end]).filter(pc.invert(good)))
                letters.append(refused_letters(bad, fault.drop_null(), first_met))
                rows, typed = rows.filter(good), typed.filter(good)
            if rows.num_rows:
                silver[typing.record.name] = table = _silver_rows(typing, rows, typed)
                stream.append(self._activities(typing.event, table, rows, typed["declared_properties"]))
        return TypedEvents(silver, pa.concat_tables(stream), pa.concat_tables(letters))

    def _by_typing(
        self, event_types: pa.ChunkedArray
    ) -> tuple[npt.NDArray[np.int64], Iterator[tuple[_Typing, int, int]]]:
        """The order that makes the events of each silver table contiguous, and each table's start and end in it."""
        encoded = event_types.combine_chunks().dictionary_encode()
        place_of = np.array([self._place.get(name, 0) for name in encoded.dictionary.to_pylist()], np.int16)
        places = place_of[encoded.indices.to_numpy()] if len(encoded) else np.empty(0, np.int16)
        order = np.argsort(places, kind="stable")
        found, starts = np.unique(places[order], return_index=True)
        ends = np.append(starts, len(order))[1:]
        parts = zip(found.tolist(), starts.tolist(), ends.tolist(), strict=True)
        return order, ((self._typings[place], start, end) for place, start, end in parts)

    def _properties(self, event: EventType | None, properties: pa.ChunkedArray) -> pa.Table:
        """The result of `type_query` for events of one silver table."""
        if event is None or event.name not in self._queries:
            none = pa.nulls(len(properties), pa.string())
            extra = pc.if_else(pc.equal(properties, "{}"), none, properties)
            declared = properties if event is None else none
            return pa.table({"fault": none, "extra_properties": extra, "declared_properties": declared})
        typed = self._typed(event, properties)
        place = typed.schema.get_field_index("declared_properties")
        declared = typed.column(place)
        # usually there are no extra properties, and the original text is reused
        whole = properties if declared.null_count == len(declared) else pc.coalesce(declared, properties)
        return typed.set_column(place, "declared_properties", whole)

    def _typed(self, event: EventType, properties: pa.ChunkedArray) -> pa.Table:
        """The result of `type_query`; most rows need no query."""
        plain = self._finders[event.name].find(properties)
        others = np.delete(np.arange(len(properties)), plain.rows)
        if not len(others):
            return plain.typed
        typed = self._queries[event.name].run(pa.table({"properties": properties.take(pa.array(others))}))
        joined = pa.concat_tables([plain.typed.cast(typed.schema), typed])
        return joined.take(np.argsort(np.concatenate([plain.rows, others])))

    def _activities(
        self, event: EventType | None, silver: pa.Table, rows: pa.Table, properties: pa.ChunkedArray
    ) -> pa.Table:
        """Convert rows of a silver table to rows of the stream."""
        count = silver.num_rows

        def column(name: str | None) -> pa.Array | pa.ChunkedArray:
            if event is None or name is None:
                return pa.nulls(count, pa.string())
            return silver[event.property(name).column]

        features = event.features if event else (None, None, None)
        revenue = [column(name) for name in (event.revenue if event else ())]
        columns = {
            "activity_id": rows["activity_id"],
            "ts": silver["event_time"],
            "customer": silver["user_key"],
            "activity": silver["event_type"],
            "anonymous_customer_id": silver["device_id"],
            **{f"feature_{place}": column(name).cast(pa.string()) for place, name in enumerate(features, 1)},
            "feature_json": properties,
            "revenue_impact": pc.coalesce(*revenue) if revenue else pa.nulls(count, MONEY),
            "link": column(event.link) if event else rows["page_url"],
            "customer_is_stitched": pa.repeat(pa.scalar(value=False), count),
            "date": silver["event_date"],
        }
        return pa.table(columns, schema=USER_STREAM.schema)


def _silver_rows(typing: _Typing, rows: pa.Table, typed: pa.Table) -> pa.Table:
    """Rows of a silver table: the common columns, the declared properties, and the extra properties."""
    values = {f"v{place}": item.column for place, item in enumerate(typing.event.properties, 1)} if typing.event else {}
    columns = {field.name: rows[field.name] for field in COMMON}
    columns |= {column: typed[value] for value, column in values.items()}
    columns["extra_properties"] = typed["extra_properties"]
    return pa.table(columns).cast(typing.record.schema)
