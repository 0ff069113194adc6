"""A step that processes the tables of a bundle together."""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from transforms.gathered import Gathered


class WorkGathered(beam.DoFn):
    """A step that processes the tables of a bundle as one, for work that costs time and output per table.

    Attributes:
        gathered_rows: Number of rows at which the tables are processed before the bundle ends.
    """

    gathered_rows = 100_000

    def work(self, table: pa.Table) -> Iterable[Any]:
        """Process the tables together; returns windowed output elements."""
        raise NotImplementedError

    def start_bundle(self) -> None:
        """Discard the tables of a failed bundle."""
        self._gathered = Gathered(self.gathered_rows)

    def process(self, table: pa.Table) -> Iterator[Any]:
        """Gather a table; a subclass may pass fewer columns."""
        if self._gathered.add(table):
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[Any]:
        """Process the remaining tables."""
        for table in self._gathered.take():
            yield from self.work(table)
