"""Deduplicate dead letters: if the raw log has a record twice, decoding gives two dead letters with the same id."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.windowed_value import WindowedValue

from transforms.gathered import Gathered
from transforms.tables import Table, at_the_end
from transforms.work_gathered import WorkGathered

_GATHERED_ROWS = 20_000
"""Number of dead letters that are split and written together: each step takes about a millisecond per table, even for
few rows."""


@dataclass(eq=False)
class UniqueDeadLetters(beam.PTransform):
    """Tables of DEAD_LETTER → tables of DEAD_LETTER in which each id occurs once. Copies are not counted as dropped.

    An unbounded input passes unchanged: a bus delivers each offset once, and a restart resumes from a checkpoint.
    """

    def expand(self, letters: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        """Group by the first digit of the id, to bound the number of ids that one group must hold."""
        if not letters.is_bounded:
            return letters
        return (
            letters
            | "SplitById" >> beam.ParDo(_SplitById())
            | "GroupById" >> beam.GroupByKey()
            | "DropCopies" >> beam.ParDo(_DropCopies())
        )


@beam.typehints.with_output_types(tuple[str, Table])
class _SplitById(WorkGathered):
    gathered_rows = _GATHERED_ROWS

    def work(self, letters: pa.Table) -> Iterator[WindowedValue]:
        digits = pc.utf8_slice_codeunits(letters["dead_letter_id"], 0, 1)
        for digit in pc.unique(digits).to_pylist():
            yield at_the_end((digit, letters.filter(pc.equal(digits, digit))))


@beam.typehints.with_output_types(Table)
class _DropCopies(beam.DoFn):
    def process(self, group: tuple[str, Iterable[pa.Table]]) -> Iterator[pa.Table]:
        seen: set[str] = set()
        unique = Gathered(_GATHERED_ROWS)
        for letters in group[1]:
            fresh = []
            for row, letter_id in enumerate(letters["dead_letter_id"].to_pylist()):
                if letter_id not in seen:
                    seen.add(letter_id)
                    fresh.append(row)
            if fresh and unique.add(letters.take(fresh)):
                yield from unique.take()
        yield from unique.take()
