"""Attributes past sessions to the users that devices now belong to, rewriting only what changed."""

from dataclasses import asdict, dataclass
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
from stores.lake import LiveFile, check_exists, live_files, open_table, table_uri
from stores.lake_commit import PartitionWrite, Planned, WriteMode, commit_planned
from stores.lake_files import Partition, Place, date_of
from stores.lake_read import read_files
from stores.lake_rewrite import Candidates, rewrite_changed
from transforms.identity.stitching import (
    DEVICE_COLUMNS,
    RULE,
    SESSION_COLUMNS,
    STITCHED,
    apply_stitched,
    changes_of,
    stitched_devices,
    stitched_sessions,
)

SESSIONS_ID, DEVICES_ID = f"{FACT_SESSION.name}:stitch", f"{DEVICE.record.name}:stitch"
"""Application ids of a stitch's commits to the two tables. The recorded version is the table version up to which all
files have been examined, so that the next stitch need not examine them again."""


@dataclass(frozen=True)
class StitchReport:
    """The result of a stitch.

    Attributes:
        devices_changed: Devices whose user, reach or person changed since the last stitch.
        files_read: Files of fact_sessions that were examined.
        dates_changed: Start dates with a changed session, in order.
        stream_dates_changed: Dates of user_stream with a changed activity, in order.
        committed: Tables with changed rows.
    """

    devices_changed: int
    files_read: int
    dates_changed: list[str]
    stream_dates_changed: list[str]
    committed: list[str]

    def as_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)


def stitch(lake_uri: str, lookback: int | None) -> StitchReport:
    """Propagate users from dim_devices to fact_sessions and on to user_stream, and record the result in dim_devices.

    Each table is committed in its own transaction. If a stitch dies between two of them, the next stitch repeats it,
    and finds the rows already committed up to date.

    Args:
        lake_uri: The lake's root.
        lookback: How long before a device's first login its anonymous sessions may have started, microseconds; None
            for any time.

    Raises:
        StoreBusyError: Other runs kept committing: run again.
        StoreError: There is no lake, or a table cannot be read or written.
    """
    check_exists(lake_uri)
    devices = open_table(lake_uri, DEVICE.record)
    before = _read_devices(lake_uri, devices)
    after = stitched_devices(before, lookback)
    changed = after.filter(changes_of(before, after))
    # a changed person affects only the device's row: its sessions keep their users
    other_rule = changes_of(before, after, RULE)
    reach = _Reach.of(pa.concat_tables([before.filter(other_rule), after.filter(other_rule)]))
    examined_files: list[int] = []
    dates: list[str] = []

    def plan_sessions(table: DeltaTable, done: int) -> Planned:
        known = paths_of(table, done)
        files = {
            partition: _candidates(partition, found, known, reach) for partition, found in live_files(table).items()
        }
        writes = [_stitch_partition(lake_uri, partition, found, after) for partition, found in files.items()]
        writes = [write for write in writes if write.removed]
        examined_files[:] = [sum(map(len, files.values()))]
        dates[:] = sorted(str(write.partition[0]) for write in writes)
        any_new = any(rows is None for looked in files.values() for rows in looked.values())
        # the version that this commit will create: no other commit can come in between
        return Planned(table.version() + 1, writes, even_empty=any_new)

    def plan_devices(table: DeltaTable, _: int) -> Planned:
        writes = [_note_stitched(lake_uri, files, changed) for files in live_files(table).values()]
        return Planned(table.version() + 1, [write for write in writes if write.removed])

    results = [commit_planned(lake_uri, FACT_SESSION, WriteMode.MERGE, SESSIONS_ID, plan_sessions)]
    stream = stitch_stream(lake_uri, paths_of)
    if stream is not None:
        results.append(stream.commit)
    if changed.num_rows:
        results.append(commit_planned(lake_uri, DEVICE.record, WriteMode.MERGE, DEVICES_ID, plan_devices))
    committed = [result.table for result in results if result.files_written]
    return StitchReport(changed.num_rows, examined_files[0], dates, stream.dates if stream else [], committed)


@dataclass(frozen=True)
class _Reach:
    """Devices whose sessions change users, each with the range of dates on which it may have sessions."""

    devices: pa.Array
    earliest: npt.NDArray[np.datetime64]
    latest: npt.NDArray[np.datetime64]

    @classmethod
    def of(cls, rows: pa.Table) -> "_Reach":
        """The reach of devices, from their rows before and after the stitch."""
        # if a device has no lower bound, its first event is the bound
        earliest = np.fmax(_dates(rows["first_seen_at"]), _dates(rows["stitched_from"]))
        return cls(rows["device_id"].combine_chunks(), earliest, _dates(rows["last_seen_at"]))

    def on(self, partition: Partition) -> pa.Array:
        """The devices that may have a session on a date."""
        day = np.datetime64(date_of(partition))
        return self.devices.filter(pa.array((self.earliest <= day) & (day <= self.latest)))


def _candidates(partition: Partition, files: list[LiveFile], known: set[str], reach: _Reach) -> Candidates:
    """Files added since the last stitch, in full; in other files, the sessions of devices that changed."""
    devices = reach.on(partition)
    of_devices = pc.field("device_id").isin(devices) if len(devices) else None
    looked = {file: None if file.path not in known else of_devices for file in files}
    return {file: rows for file, rows in looked.items() if file.path not in known or rows is not None}


def _read_devices(lake_uri: str, table: DeltaTable) -> pa.Table:
    """The devices that have a known user, or had one."""
    record = DEVICE.record
    paths = [file.path for files in live_files(table).values() for file in files]
    rows = read_files(_place(lake_uri, record, ()), paths, DEVICE_COLUMNS)
    return rows.filter(pc.or_(rows["user_keys"].is_valid(), rows["stitched_user_key"].is_valid()))


def paths_of(table: DeltaTable, version: int) -> set[str]:
    """The files of an earlier version; empty if its log has been cleaned up, so that all files are examined again."""
    if version == 0:
        return set()
    try:
        earlier = DeltaTable(table.table_uri, version=version)
        return {file.path for files in live_files(earlier).values() for file in files}
    except DeltaError:
        return set()


def _dates(times: pa.ChunkedArray) -> npt.NDArray[np.datetime64]:
    return np.asarray(times.cast(pa.timestamp("us")).cast(pa.date32()).to_numpy(), "datetime64[D]")


def _stitch_partition(lake_uri: str, partition: Partition, files: Candidates, devices: pa.Table) -> PartitionWrite:
    place = _place(lake_uri, FACT_SESSION, partition)
    return rewrite_changed(place, files, SESSION_COLUMNS, partial(stitched_sessions, devices=devices))


def _note_stitched(lake_uri: str, files: list[LiveFile], changed: pa.Table) -> PartitionWrite:
    place = _place(lake_uri, DEVICE.record, ())
    of_changed = pc.field("device_id").isin(changed["device_id"].combine_chunks())
    return rewrite_changed(
        place, dict.fromkeys(files, of_changed), ["device_id", *STITCHED], partial(apply_stitched, changed=changed)
    )


def _place(lake_uri: str, record: Record, partition: Partition) -> Place:
    return Place(table_uri(lake_uri, record.name), record, partition)
