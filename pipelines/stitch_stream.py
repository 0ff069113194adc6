"""Give past activities to the customers that their sessions were found to be of, after the sessions themselves."""

from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable

from schemas.sessions import FACT_SESSION
from schemas.user_stream import USER_STREAM
from stores.lake import find_table, live_files, open_table, table_uri
from stores.lake_commit import CommitResult, Planned, WriteMode, commit_planned
from stores.lake_files import Partition, Place, read_files
from stores.lake_rewrite import rewrite_changed
from transforms.stitching import ACTIVITY_COLUMNS, OWNER_COLUMNS, stitched_activities

STREAM_ID = f"{USER_STREAM.name}:stitch"
"""Application id of a stitch's commits. The version is that of the table up to which all files have been looked at."""

_DAY = timedelta(days=1)


class StitchedStream(NamedTuple):
    """What became of user_stream: the dates with an activity that changed, and the commit."""

    dates: list[str]
    commit: CommitResult


def stitch_stream(
    lake_uri: str, reached: Callable[[Partition], bool], paths_of: Callable[[DeltaTable, int], set[str]]
) -> StitchedStream | None:
    """Fill in whose anonymous activities were; None where the lake has no stream.

    Looked at are the dates of devices that changed, and those near rows that came since the last stitch: a login among
    them makes the whole of its session known.

    Args:
        lake_uri: The lake's root.
        reached: Whether a device that changed may have an activity on a date.
        paths_of: The files of an earlier version of a table.

    Raises:
        StoreBusyError: Other runs kept committing: run again.
        StoreError: A table cannot be read or written.
    """
    if find_table(lake_uri, USER_STREAM.name) is None:
        return None
    sessions = live_files(open_table(lake_uri, FACT_SESSION))
    dates: list[str] = []

    def owners(day: date) -> pa.Table:
        tables = []
        for start in (day - _DAY, day):
            place = Place(table_uri(lake_uri, FACT_SESSION.name), FACT_SESSION, (start.isoformat(),))
            paths = [file.path for file in sessions.get(place.partition, [])]
            tables.append(read_files(place, paths, OWNER_COLUMNS))
        return pa.concat_tables(tables)

    def plan(table: DeltaTable, done: int) -> Planned:
        known = paths_of(table, done)
        files = live_files(table)
        fresh = {_day(p) for p, found in files.items() if any(file.path not in known for file in found)}
        near = {day + step for day in fresh for step in (-_DAY, timedelta(), _DAY)}
        writes = []
        for partition, found in files.items():
            if _day(partition) in near or reached(partition):
                place = Place(table_uri(lake_uri, USER_STREAM.name), USER_STREAM, partition)
                change = partial(stitched_activities, sessions=owners(_day(partition)))
                writes.append(rewrite_changed(place, found, ACTIVITY_COLUMNS, change))
        writes = [write for write in writes if write.removed]
        dates[:] = sorted(str(write.partition[0]) for write in writes)
        return Planned(table.version() + 1, writes)

    return StitchedStream(dates, commit_planned(lake_uri, USER_STREAM, WriteMode.MERGE, STREAM_ID, plan))


def _day(partition: Partition) -> date:
    return date.fromisoformat(str(partition[0]))
