"""What follows deduplication makes the same of batches whose repeated texts are dictionary-encoded as of plain ones."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from schemas.events import FACT_EVENT, REPEATED
from stores.device_rows import EVENT_ROWS
from stores.encoded_texts import encode_columns, plain
from stores.lake_buffer import PartitionBuffer
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.events.write_events import fact_events
from transforms.identity.devices import device_rows
from transforms.identity.dimensions import deciding_events
from transforms.sessions.cells import cells_of
from transforms.sessions.policy import SessionPolicy

EVENTS = [
    click(
        at(hours=n // 9, minutes=n % 50),
        f"d{n % 7}",
        f"e{n}",
        event_type="purchase" if n % 11 == 0 else "page_view",
        user_key=f"u{n % 3}" if n % 5 == 0 else None,
        page_url=f"/p/{n % 13}" if n % 4 else None,
        country=None if n < 100 else "DE",
        os="iOS",
    )
    for n in range(300)
]
# some columns are null throughout, the texts of each batch are others
BATCHES = [batch(EVENTS[:90]), batch(EVENTS[90:110]), batch(EVENTS[110:])]


def into_lake(tables: list[pa.Table]) -> pa.Table:
    buffer = PartitionBuffer(FACT_EVENT)
    filled = [f for table in tables for f in buffer.add(fact_events(table))] + list(buffer.drain())
    return pa.concat_tables(plain(table) for _, held in sorted(filled, key=lambda f: f[0]) for table in held)


STEPS: dict[str, Callable[[list[pa.Table]], pa.Table]] = {
    "cells": lambda tables: cells_of(pa.concat_tables(tables), SessionPolicy()),
    "dimensions": lambda tables: device_rows(
        plain(deciding_events(pa.concat_tables(tables), ("device_id", "user_key", "country"), ("page_url",)))
    ),
    "lake": into_lake,
    "devices": lambda tables: pa.table(EVENT_ROWS.encode(plain(pa.concat_tables(tables))), ["key", "value"]),
}


@pytest.mark.parametrize("step", STEPS)
def test_encoded_batches_come_to_the_same_as_plain_ones(step: str) -> None:
    encoded = [encode_columns(table, REPEATED) for table in BATCHES]
    assert all(pa.types.is_dictionary(encoded[0].schema.field(name).type) for name in REPEATED)
    assert STEPS[step](encoded).to_pylist() == STEPS[step](BATCHES).to_pylist()


def test_table_is_the_same_once_its_columns_are_plain_again() -> None:
    for table in BATCHES:
        assert plain(encode_columns(table, REPEATED)).equals(table, check_metadata=True)
        assert plain(table) is table


def test_few_rows_cut_from_a_batch_are_held_without_its_texts() -> None:
    rows = [click(at(minutes=n % 50), f"device-{n}", page_url="/" + "x" * 1000 + str(n)) for n in range(1000)]
    late = click(at(hours=-48), "late", page_url="/late")
    buffer = PartitionBuffer(FACT_EVENT)
    assert list(buffer.add(fact_events(encode_columns(batch([*rows, late]), REPEATED)))) == []
    (small,) = [tables for (day,), tables in buffer.drain() if sum(map(len, tables)) == 1]
    assert sum(table.get_total_buffer_size() for table in small) < 10_000
