"""Attributes past activities to the customers of their sessions, once the sessions have been stitched."""

from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import Transaction

from schemas.sessions import FACT_SESSION
from schemas.user_stream import USER_STREAM
from stores.lake import find_table, live_files, open_table, table_uri
from stores.lake_commit import CommitResult, Planned, WriteMode, commit_planned
from stores.lake_files import Place, date_of, partition_of
from stores.lake_read import read_files
from stores.lake_rewrite import rewrite_changed
from transforms.identity.stitching import ACTIVITY_COLUMNS, OWNER_COLUMNS, stitched_activities

STREAM_ID, OWNERS_ID = f"{USER_STREAM.name}:stitch", f"{USER_STREAM.name}:stitch:{FACT_SESSION.name}"
"""Application ids of a stitch's commits. The recorded versions are the version of user_stream up to which all files
have been examined, and the version of fact_sessions that customers were taken from."""


class StitchedStream(NamedTuple):
    """The result for user_stream: the dates with a changed activity, and the commit."""

    dates: list[str]
    commit: CommitResult


def stitch_stream(lake_uri: str, paths_of: Callable[[DeltaTable, int], set[str]]) -> StitchedStream | None:
    """Fill in the customers of anonymous activities; None if the lake has no user_stream.

    An activity's customer follows from its session. So this examines dates whose sessions changed since the last
    stitch, and dates near activities added since: a login among them identifies its whole session.

    Args:
        lake_uri: The lake's root.
        paths_of: Returns the files of an earlier version of a table.

    Raises:
        StoreBusyError: Other runs kept committing: run again.
        StoreError: A table cannot be read or written.
    """
    if find_table(lake_uri, USER_STREAM.name) is None:
        return None
    facts = open_table(lake_uri, FACT_SESSION)
    sessions = live_files(facts)
    dates: list[str] = []

    def owners(day: date) -> pa.Table:
        tables = []
        for start in _beside(day, -1, 0):
            place = Place(table_uri(lake_uri, FACT_SESSION.name), FACT_SESSION, partition_of(start))
            paths = [file.path for file in sessions.get(place.partition, [])]
            tables.append(read_files(place, paths, OWNER_COLUMNS))
        return pa.concat_tables(tables)

    def plan(table: DeltaTable, done: int) -> Planned:
        files = live_files(table)
        new, new_owners = (
            {date_of(partition) for partition, found in live.items() if any(file.path not in known for file in found)}
            for live, known in (
                (files, paths_of(table, done)),
                (sessions, paths_of(facts, table.transaction_version(OWNERS_ID) or 0)),
            )
        )
        near = {day for changed in new for day in _beside(changed, -1, 0, 1)}
        near |= {day for changed in new_owners for day in _beside(changed, 0, 1)}
        writes = []
        for partition, found in files.items():
            if date_of(partition) in near:
                place = Place(table_uri(lake_uri, USER_STREAM.name), USER_STREAM, partition)
                change = partial(stitched_activities, sessions=owners(date_of(partition)))
                writes.append(rewrite_changed(place, dict.fromkeys(found), ACTIVITY_COLUMNS, change))
        writes = [write for write in writes if write.removed]
        dates[:] = sorted(str(write.partition[0]) for write in writes)
        examined = Transaction(OWNERS_ID, facts.version())
        return Planned(table.version() + 1, writes, even_empty=bool(near), also=(examined,))

    return StitchedStream(dates, commit_planned(lake_uri, USER_STREAM, WriteMode.MERGE, STREAM_ID, plan))


def _beside(day: date, *steps: int) -> Iterator[date]:
    """The dates at the given numbers of days from a date, within the calendar: an event may be on its first day."""
    for number in (day.toordinal() + step for step in steps):
        if date.min.toordinal() <= number <= date.max.toordinal():
            yield date.fromordinal(number)
