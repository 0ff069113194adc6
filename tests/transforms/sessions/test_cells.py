"""Cells of many devices at once, held against sums made one event at a time."""

import random
from collections import defaultdict
from decimal import Decimal

import pyarrow as pa

from schemas.events import EVENT_BATCH
from schemas.records import TIMESTAMP
from transforms.sessions.cells import cells_of, merge_cells
from transforms.sessions.policy import SessionPolicy


def test_sums_of_thousands_of_cells_stand_at_their_own_cells() -> None:
    dice = random.Random(5)
    policy = SessionPolicy()
    rows = [
        {"device_id": f"d{dice.randrange(900)}", "event_id": f"e{n}", "event_time": dice.randrange(10**11),
         "event_type": dice.choice(["click", "page_view", "purchase"]),
         "revenue": dice.choice([None, None, None, Decimal(dice.randrange(10**6)) / 10**4])}
        for n in range(6_000)
    ]  # fmt: skip
    revenue: dict[tuple[str, int], Decimal] = defaultdict(Decimal)
    views: dict[tuple[str, int], int] = defaultdict(int)
    for row in rows:
        cell = (row["device_id"], row["event_time"] // policy.cell * policy.cell)
        revenue[cell] += row["revenue"] or 0
        views[cell] += row["event_type"] == "page_view"
    columns = {
        field.name: pa.array(
            [row.get(field.name) for row in rows], pa.int64() if field.type == TIMESTAMP else field.type
        )
        for field in EVENT_BATCH
    }
    schema = pa.schema([field.with_nullable(True) for field in EVENT_BATCH.schema])
    events = pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)
    pieces = [cells_of(events.slice(start, 1_000), policy) for start in range(0, 6_000, 1_000)]
    for cells in (cells_of(events, policy), merge_cells(pieces)):
        found = {(row["device_id"], row["slot"]): row for row in cells.to_pylist()}
        assert {cell: row["revenue"] for cell, row in found.items()} == revenue
        assert {cell: row["page_view_count"] for cell, row in found.items()} == views
