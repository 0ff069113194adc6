"""Keeps daily_metrics up to date: recomputes the dates whose fact files have changed since the last refresh.

A date's rows depend only on the facts as they are now, whatever was late, duplicated, replayed, merged, corrected or
erased in between. The table's transaction log records the versions of the fact tables that the metrics were computed
from, and the fingerprint of the rules. If the rules have changed, all dates are recomputed.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import Transaction

from schemas.daily_metrics import DAILY_METRICS
from schemas.errors import StoreError
from schemas.events import FACT_EVENT
from schemas.records import Record
from schemas.sessions import FACT_SESSION
from stores.lake import find_table, live_files, table_uri
from stores.lake_bounds import ALL_TIME, TimeBounds
from stores.lake_commit import CommitResult, PartitionWrite, Planned, WriteMode, commit_planned, fingerprint
from stores.lake_files import Place, date_of, partition_of, write_files
from stores.lake_read import file_pieces, read_files
from transforms.activities.daily_metrics import SESSION_COLUMNS, MetricRules, Piece, counting, daily_metrics

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RULES = f"{DAILY_METRICS.name}:rules"


def refresh_daily_metrics(
    lake: str, rules: MetricRules, since: date | None = None, *, threads: int = 1
) -> CommitResult:
    """Recompute the dates whose facts have changed, and replace their rows in one transaction.

    Args:
        lake: The lake's root.
        rules: Segments, categories, watch time.
        since: Recompute this date and all later ones too, changed or not; None for changed dates only.
        threads: Number of dates that are computed at the same time.

    Raises:
        StoreBusyError: Other runs kept committing; run again.
        StoreError: A table cannot be read or written.
    """

    def plan(table: DeltaTable, _: int) -> Planned | None:
        by_rules = Transaction(_RULES, rules.fingerprint)
        same_rules = table.transaction_version(_RULES) == by_rules.version
        facts = [_Facts.open(lake, record, table if same_rules else None) for record in (FACT_EVENT, FACT_SESSION)]
        events, sessions = facts
        dates = events.changed_dates() | sessions.changed_dates()
        if since is not None:
            dates |= {day for day in events.dates() if day >= since}
        if all(found.up_to_date for found in facts) and not dates:
            return None
        live = {date_of(partition): files for partition, files in live_files(table).items()}

        def compute(days: Sequence[date]) -> list[PartitionWrite]:
            writes = []
            with counting(share=threads) as tables:
                for day in days:
                    place = Place(table_uri(lake, DAILY_METRICS.name), DAILY_METRICS, partition_of(day))
                    existing = [file.path for file in live.get(day, [])]
                    of_day = (piece(SESSION_COLUMNS) for piece in sessions.pieces(day))
                    rows = daily_metrics(tables, day, events.pieces(day), of_day, rules)
                    if read_files(place, existing).equals(rows):
                        continue
                    files, seen = tuple(write_files(place, [rows])), fingerprint(live.get(day, []))
                    writes.append(PartitionWrite(place.partition, files, tuple(existing), seen))
            return writes

        days = sorted(dates & (events.dates() | live.keys()))
        shares = [days[first::threads] for first in range(min(threads, len(days)))]
        with ThreadPoolExecutor(threads, thread_name_prefix="daily-metrics") as pool:
            writes = list(chain.from_iterable(pool.map(compute, shares)))
        return Planned(events.version, writes, even_empty=True, also=(sessions.transaction, by_rules))

    return commit_planned(lake, DAILY_METRICS, WriteMode.MERGE, _application(FACT_EVENT), plan)


def _application(facts: Record) -> str:
    return f"{DAILY_METRICS.name}:{facts.name}"


@dataclass(frozen=True)
class _File:
    """A file of a fact table, its number of rows, and the first and last date that the rows touch."""

    place: Place
    path: str
    rows: int
    first: date
    last: date


@dataclass(frozen=True)
class _Facts:
    """A fact table, and how its files have changed since daily_metrics was computed from it.

    Attributes:
        record: The table's record.
        table_uri: The table's folder.
        version: The table's version.
        up_to_date: Whether daily_metrics was computed from this version.
        transaction: The transaction that records in daily_metrics that it was computed from this version.
        files: The table's files.
        changed: The files that were added or removed since, except those in which the sessions are the same, as after
            a stitch.
    """

    record: Record
    table_uri: str
    version: int
    up_to_date: bool
    transaction: Transaction
    files: frozenset[_File]
    changed: frozenset[_File]

    @classmethod
    def open(cls, lake: str, record: Record, metrics: DeltaTable | None) -> "_Facts":
        """Open a fact table, and compare it with the version in the metrics' log; without metrics all files are new."""
        application = _application(record)
        table = find_table(lake, record.name)
        version = table.version() if table is not None else 0
        files = frozenset(_files(lake, record, table)) if table is not None else frozenset()
        done = (metrics.transaction_version(application) or 0) if metrics is not None else 0
        # no files for version 0, which means no table, nor for a version whose log entry was cleaned up
        before = frozenset(_files(lake, record, _earlier(table, done))) if table is not None else frozenset()
        changed = files ^ before
        if record is FACT_SESSION:
            changed = frozenset(_with_changed_sessions(changed, files))
        uri = table_uri(lake, record.name)
        return cls(record, uri, version, done == version, Transaction(application, version), files, changed)

    def dates(self) -> set[date]:
        """The dates on which rows begin: those of the partitions with files."""
        return {file.first for file in self.files}

    def changed_dates(self) -> set[date]:
        """The dates that the rows of changed files touch."""
        return {file.first + _DAY * n for file in self.changed for n in range((file.last - file.first).days + 1)}

    def pieces(self, day: date) -> Iterator[Piece]:
        """The rows of the files that touch a date, in a deterministic order."""
        paths = sorted(file.path for file in self.files if file.first <= day <= file.last)
        return file_pieces(self.table_uri, self.record, paths) if paths else iter(())


def _earlier(table: DeltaTable, version: int) -> DeltaTable | None:
    if version == 0:
        return None
    try:
        return DeltaTable(table.table_uri, version=version)
    except DeltaError:
        return None


def _files(lake: str, record: Record, table: DeltaTable | None) -> Iterator[_File]:
    if table is None:
        return
    ends = TimeBounds.read(table, "session_end").of if record is FACT_SESSION else {}
    for partition, found in live_files(table).items():
        first = date_of(partition)
        for file in found:
            last = first
            if bounds := ends.get(file.path):
                # A file without bounds may have a session of several days if sessions are not cut after a day. To find
                # it is not worth reading all such files, so only one more day is assumed.
                last = first + _DAY if bounds == ALL_TIME else (_EPOCH + timedelta(microseconds=bounds[1])).date()
            yield _File(Place(table_uri(lake, record.name), record, partition), file.path, file.rows, first, last)


def _with_changed_sessions(changed: frozenset[_File], live: frozenset[_File]) -> Iterator[_File]:
    """The changed files of the dates that gained or lost a session, or in which a session has other bounds."""
    of_date: dict[date, tuple[list[_File], list[_File]]] = {}
    for file in changed:
        of_date.setdefault(file.first, ([], []))[file in live].append(file)
    for removed, added in of_date.values():
        if sum(file.rows for file in removed) != sum(file.rows for file in added) or not _same_sessions(removed, added):
            yield from (*removed, *added)


def _same_sessions(removed: Iterable[_File], added: Iterable[_File]) -> bool:
    """Whether the removed and the added files of a date agree in `SESSION_COLUMNS` for all sessions."""
    try:
        before, after = (
            pa.concat_tables(read_files(file.place, [file.path], SESSION_COLUMNS) for file in files)
            for files in (removed, added)
        )
    except StoreError:
        return False  # a removed file may have been deleted by now
    return bool(before.sort_by("session_id").equals(after.sort_by("session_id")))
