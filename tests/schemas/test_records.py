"""The declarations of the records, and the document written from them."""

from pathlib import Path

import pyarrow as pa
import pytest

from schemas.dead_letters import DEAD_LETTER, Reason
from schemas.dictionary import data_dictionary
from schemas.events import DEDUPLICATION_ORDER, EVENT, EVENT_BATCH, RAW
from schemas.raw_log import RAW_LOG_AVRO
from schemas.records import Field, Record
from schemas.sessions import SESSION, SESSION_PANE

ROOT = Path(__file__).parents[2]
RECORDS = (RAW, EVENT, EVENT_BATCH, DEAD_LETTER, SESSION, SESSION_PANE)


def test_schema_keeps_order_types_nulls_and_meanings() -> None:
    record = Record("r", "one", (Field("b", pa.int32(), "a number", nullable=False), Field("a", pa.string(), "a text")))
    number, text = record.schema
    assert (number.name, number.type, number.nullable, number.metadata) == (
        "b",
        pa.int32(),
        False,
        {b"doc": b"a number"},
    )
    assert (text.name, text.type, text.nullable) == ("a", pa.string(), True)
    assert record.names == ["b", "a"]
    assert record.empty().num_rows == 0
    assert record.empty().schema.equals(record.schema)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_columns_that_a_record_refers_to_are_its_own_and_never_null(record: Record) -> None:
    assert len(set(record.names)) == len(record.names)
    for name in (*record.key, *record.partition_by, *record.sort_by):
        assert not record.schema.field(name).nullable
    assert all(field.doc and "\n" not in field.doc for field in record)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_times_are_utc_microseconds(record: Record) -> None:
    for field in record:
        if pa.types.is_timestamp(field.type):
            assert (field.type.unit, field.type.tz) == ("us", "UTC")


def test_batch_in_flight_is_the_event_and_where_it_came_from() -> None:
    assert EVENT_BATCH.names == [*EVENT.names, "source", "partition", "offset"]
    assert set(DEDUPLICATION_ORDER) <= set(EVENT_BATCH.names)
    assert SESSION_PANE.names == [*SESSION.names, "is_retraction", "fired_at"]


def test_raw_log_has_the_columns_of_a_raw_row() -> None:
    assert [field["name"] for field in RAW_LOG_AVRO["fields"]] == RAW.names
    nullable = {field["name"] for field in RAW_LOG_AVRO["fields"] if isinstance(field["type"], list)}
    assert nullable == {field.name for field in RAW if field.nullable}


def test_every_reason_code_is_documented() -> None:
    text = (ROOT / "docs" / "envelope.md").read_text(encoding="utf-8")
    codes = text.partition("## Reason codes")[2]
    assert [reason.value for reason in Reason if reason.value not in codes] == []


def test_committed_dictionary_is_what_the_schemas_say() -> None:
    committed = (ROOT / "docs" / "data-dictionary.md").read_text(encoding="utf-8")
    assert committed == data_dictionary(), "run make docs"
