"""The commits of a run of the session dimension: four tables, in the one order that a crash cannot spoil."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

import apache_beam as beam
from deltalake.transaction import Transaction

from schemas.errors import StoreBusyError
from schemas.events import FACT_EVENT
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from stores.lake import live_files, open_table
from stores.lake_commit import CommitResult, NamedWrite, PartitionWrite, WriteMode, commit, fingerprint
from transforms.sinks.stream_lake import count_commit


@dataclass(eq=False)
class CommitSessionDimension(beam.PTransform):
    """Writes of the four tables in, the results of their commits out.

    The bridge goes first. It tells of the sessions before the run's dates, which the run does not touch: it is true
    whether or not the rest follows, and the same run again finds the same numbers. The next two commits each
    replace all of their dates or none; last the events get their sessions.

    Of two runs at a time the second to commit fails: each commit is refused if its partitions are no longer those
    that the run has read, or the bridge is of other dates.

    Attributes:
        lake: The lake's root, a path or URI.
        before: The first of the run's dates.
        counted: Dates of dim_sessions before it that the bridge was worked out from, as they were.
    """

    lake: str
    before: date
    counted: tuple[PartitionWrite, ...] = ()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, writes: beam.PCollection[NamedWrite]) -> beam.PCollection[CommitResult]:
        """All writes to one worker."""
        return (
            writes
            | "OneKey" >> beam.WithKeys(0).with_output_types(tuple[int, NamedWrite])
            | "GroupAll" >> beam.GroupByKey()
            | "CommitInOrder" >> beam.ParDo(_Commit(self))
        )


@beam.typehints.with_output_types(CommitResult)
class _Commit(beam.DoFn):
    """The bridge, the sessions, the events' places, the events."""

    def __init__(self, commits: CommitSessionDimension) -> None:
        self._lake = commits.lake
        # made once a run: its transactions are committed once, however often the step is retried
        self._run_id = uuid.uuid4().hex
        self._before, self._counted = commits.before.isoformat(), commits.counted

    def process(self, group: tuple[int, Iterable[NamedWrite]]) -> Iterator[CommitResult]:
        writes: dict[str, list[PartitionWrite]] = {}
        for name, write in group[1]:
            writes.setdefault(name, []).append(write)
        sessions = [*writes.get(DIM_SESSIONS.name, ()), *self._counted]
        self._check_sessions(sessions)
        for record in (SESSION_BRIDGE, DIM_SESSIONS, EVENT_SESSIONS, FACT_EVENT):
            of_table = sessions if record is DIM_SESSIONS else writes.get(record.name, [])
            transaction = Transaction(f"{record.name}:{self._run_id}", 1)
            result = commit(self._lake, record, of_table, WriteMode.MERGE, transaction)
            count_commit(result)
            yield result
            if record is SESSION_BRIDGE:
                self._check_bridge()

    def _check_sessions(self, writes: Iterable[PartitionWrite]) -> None:
        """The sessions that the bridge was worked out from: a bridge of others would be wrong for good."""
        live = live_files(open_table(self._lake, DIM_SESSIONS))
        if any(write.seen != fingerprint(live.get(write.partition, [])) for write in writes):
            raise StoreBusyError(f"{DIM_SESSIONS.name}: another run changed it while this one was computing; run again")

    def _check_bridge(self) -> None:
        """The bridge is of this run's dates: a run of other dates has worked it out from sessions that are to go."""
        if set(live_files(open_table(self._lake, SESSION_BRIDGE))) - {(self._before,)}:
            raise StoreBusyError(f"{SESSION_BRIDGE.name}: a run of other dates has changed it; run again")
