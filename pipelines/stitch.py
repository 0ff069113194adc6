"""Give past sessions to the users that devices are now known to belong to: what changed, and no more."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.stitch_stream import stitch_stream
from schemas.dimensions import DEVICE
from schemas.records import Record
from schemas.sessions import FACT_SESSION
from stores.lake import LiveFile, live_files, open_table, table_uri
from stores.lake_commit import PartitionWrite, Planned, WriteMode, commit_planned
from stores.lake_files import Partition, Place, read_files
from stores.lake_rewrite import rewrite_changed
from transforms.stitching import (
    DEVICE_COLUMNS,
    SESSION_COLUMNS,
    STITCHED,
    apply_stitched,
    changed_devices,
    stitched_devices,
    stitched_sessions,
)

SESSIONS_ID, DEVICES_ID = f"{FACT_SESSION.name}:stitch", f"{DEVICE.record.name}:stitch"
"""Application ids of a stitch's commits of the two tables. The version of both is that of fact_sessions up to which all
files have been looked at, so that the next stitch need not look again."""

Files = dict[Partition, list[LiveFile]]


@dataclass(frozen=True)
class StitchReport:
    """What a stitch did.

    Attributes:
        devices_changed: Devices whose user, reach or person is another than at the last stitch.
        files_read: Files of fact_sessions that were looked at.
        dates_changed: Start dates with a session that changed, in order.
        stream_dates_changed: Dates of user_stream with an activity that changed, in order.
        committed: Tables that have a new version.
    """

    devices_changed: int
    files_read: int
    dates_changed: list[str]
    stream_dates_changed: list[str]
    committed: list[str]

    def as_json(self) -> dict[str, object]:
        """The same for a program."""
        return asdict(self)


def stitch(lake_uri: str, lookback: int | None) -> StitchReport:
    """Propagate what dim_devices says to fact_sessions and from there to user_stream, and note it on the devices.

    Each table in a transaction. A stitch that dies between two is done again by the next, which finds the rows of the
    first as they are to be.

    Args:
        lake_uri: The lake's root.
        lookback: How long before a device's first login its anonymous sessions reach, microseconds; None for any time.

    Raises:
        StoreBusyError: Other runs kept committing: run again.
        StoreError: A table cannot be read or written.
    """
    devices = open_table(lake_uri, DEVICE.record)
    looked_up_to = devices.transaction_version(DEVICES_ID) or 0
    before = _read_devices(lake_uri, devices)
    after = stitched_devices(before, lookback)
    changed = changed_devices(before, after)
    looked_at: list[int] = []
    dates: list[str] = []

    reached = _reached_by(pa.concat_tables([_of(before, changed), changed]))

    def plan_sessions(table: DeltaTable, done: int) -> Planned:
        files = _to_look_at(table, max(done, looked_up_to), reached)
        writes = [_stitch_partition(lake_uri, partition, found, after) for partition, found in files.items()]
        writes = [write for write in writes if write.removed]
        looked_at[:] = [sum(map(len, files.values()))]
        dates[:] = sorted(str(write.partition[0]) for write in writes)
        # the version that this commit will make: no other can come between
        return Planned(table.version() + 1, writes)

    def plan_devices(table: DeltaTable, _: int) -> Planned:
        writes = [_note_stitched(lake_uri, files, changed) for files in live_files(table).values()]
        return Planned(sessions.version, [write for write in writes if write.removed])

    sessions = commit_planned(lake_uri, FACT_SESSION, WriteMode.MERGE, SESSIONS_ID, plan_sessions)
    results = [sessions]
    stream = stitch_stream(lake_uri, reached, _paths_of)
    if stream is not None:
        results.append(stream.commit)
    if changed.num_rows:
        results.append(commit_planned(lake_uri, DEVICE.record, WriteMode.MERGE, DEVICES_ID, plan_devices))
    committed = [result.table for result in results if result.committed]
    return StitchReport(changed.num_rows, looked_at[0], dates, stream.dates if stream else [], committed)


def _read_devices(lake_uri: str, table: DeltaTable) -> pa.Table:
    """The devices that a user is known of, or was."""
    record = DEVICE.record
    paths = [file.path for files in live_files(table).values() for file in files]
    rows = read_files(_place(lake_uri, record, ()), paths, DEVICE_COLUMNS)
    return rows.filter(pc.or_(rows["user_keys"].is_valid(), rows["stitched_user_key"].is_valid()))


def _of(devices: pa.Table, others: pa.Table) -> pa.Table:
    """The rows of the same devices."""
    return devices.filter(pc.is_in(devices["device_id"], others["device_id"].combine_chunks()))


def _reached_by(changed: pa.Table) -> Callable[[Partition], bool]:
    """Whether one of some devices that changed may have a session on a date."""
    # where all its sessions are reached, the device's first event is the bound
    earliest = np.fmax(_dates(changed["first_seen_at"]), _dates(changed["stitched_from"]))
    latest = _dates(changed["last_seen_at"])

    def reached(partition: Partition) -> bool:
        day = np.datetime64(date.fromisoformat(str(partition[0])))
        return bool(((earliest <= day) & (day <= latest)).any())

    return reached


def _to_look_at(table: DeltaTable, stitched: int, reached: Callable[[Partition], bool]) -> Files:
    """Files that came after the last stitch, and those of dates on which a changed device may have a session."""
    known = _paths_of(table, stitched)
    files = {
        partition: found if reached(partition) else [file for file in found if file.path not in known]
        for partition, found in live_files(table).items()
    }
    return {partition: found for partition, found in files.items() if found}


def _paths_of(table: DeltaTable, version: int) -> set[str]:
    """The files of an earlier version; none where its log is cleaned up, and all is looked at again."""
    if version == 0:
        return set()
    try:
        earlier = DeltaTable(table.table_uri, version=version)
        return {file.path for files in live_files(earlier).values() for file in files}
    except DeltaError:
        return set()


def _dates(times: pa.ChunkedArray) -> npt.NDArray[np.datetime64]:
    return np.asarray(times.cast(pa.timestamp("us")).cast(pa.date32()).to_numpy(), "datetime64[D]")


def _stitch_partition(lake_uri: str, partition: Partition, files: list[LiveFile], devices: pa.Table) -> PartitionWrite:
    place = _place(lake_uri, FACT_SESSION, partition)
    return rewrite_changed(place, files, SESSION_COLUMNS, partial(stitched_sessions, devices=devices))


def _note_stitched(lake_uri: str, files: list[LiveFile], changed: pa.Table) -> PartitionWrite:
    place = _place(lake_uri, DEVICE.record, ())
    return rewrite_changed(place, files, ["device_id", *STITCHED], partial(apply_stitched, changed=changed))


def _place(lake_uri: str, record: Record, partition: Partition) -> Place:
    return Place(table_uri(lake_uri, record.name), record, partition)
