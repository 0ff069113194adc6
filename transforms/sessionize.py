"""The transform that turns event batches into session panes; it expands by the boundedness of its input."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from schemas.errors import OptionError
from schemas.sessions import PaneTiming
from transforms.cells import cells_of, merge_cells
from transforms.metrics import count
from transforms.policy import SessionPolicy
from transforms.sessions import panes_of_bounded
from transforms.tables import ShardedTable, split_by_shard


@dataclass(eq=False)
class Sessionize(beam.PTransform):
    """Event batches in, session panes out.

    Element in: rows of EVENT_BATCH, stamped with their earliest event time. Element out: rows of SESSION_PANE
    in the global window; an order between elements is not promised, `pane_index` gives it.

    A bounded input needs neither state nor timers: its panes are a closed form of its cells, and no event is
    late.

    Attributes:
        policy: The rules.
        shards: How many keys the devices are spread over; the parallelism, at most.

    Raises:
        OptionError: `shards` is not positive.
    """

    policy: SessionPolicy
    shards: int = 16

    def __post_init__(self) -> None:
        super().__init__()
        if self.shards < 1:
            raise OptionError(f"the number of shards must be at least 1, not {self.shards}")

    def expand(self, pcoll: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Cells before the shuffle: fewer rows to move, and they merge in any order after it."""
        cells = pcoll | "SummarizeIntoCells" >> beam.ParDo(_ToCells(self.policy, self.shards))
        return (
            cells
            | "GroupByShard" >> beam.GroupByKey()
            | "ChainIntoSessions" >> beam.ParDo(_ChainBounded(self.policy))
        )


class _ToCells(beam.DoFn):
    """An event batch into the cells of each shard."""

    def __init__(self, policy: SessionPolicy, shards: int) -> None:
        self._policy = policy
        self._shards = shards

    def process(self, events: pa.Table) -> Iterator[ShardedTable]:
        yield from split_by_shard(cells_of(events, self._policy), self._shards)


class _ChainBounded(beam.DoFn):
    """All the cells of a shard into its panes."""

    def __init__(self, policy: SessionPolicy) -> None:
        self._policy = policy

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[pa.Table]:
        _, tables = element
        panes = panes_of_bounded(merge_cells(tables), self._policy)
        count_panes(panes)
        yield panes


def count_panes(panes: pa.Table) -> None:
    """Count panes by their timing, and retractions apart."""
    retracted = panes.column("is_retraction")
    count("retractions", retracted.combine_chunks().true_count)
    standing = panes.filter(pa.compute.invert(retracted)).column("pane_timing")
    for timing in PaneTiming:
        total = pa.compute.sum(pa.compute.equal(standing, timing.value)).as_py()
        count(f"panes_{timing.value.lower()}", total or 0)
