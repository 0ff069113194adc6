"""An order between steps of a bounded graph that no data carries: what must be durable before what."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam


@dataclass(eq=False)
class After(beam.PTransform):
    """The same elements, none of them before another collection is complete.

    Attributes:
        done: The collection to wait for, a few small elements.
    """

    done: beam.PCollection[Any]

    def expand(self, elements: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """A side input is read when it is complete."""
        waits = beam.ParDo(_Pass(), beam.pvalue.AsList(self.done))
        return elements | "Wait" >> waits.with_output_types(elements.element_type)


class _Pass(beam.DoFn):
    def process(self, element: Any, done: Iterable[Any]) -> Iterator[Any]:
        del done
        yield element
