"""A step that processes several elements in parallel."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from transforms.background import MOST_WORKERS, Ahead


class WorkAhead(beam.DoFn):
    """A step that processes several elements in parallel threads, for work that releases the GIL; results keep order.

    Attributes:
        workers: Maximum number of elements processed in parallel.
    """

    workers = MOST_WORKERS

    def work(self, *work: Any) -> Any:
        """Process an element; runs in a thread."""
        raise NotImplementedError

    def tell(self, result: Any) -> Iterator[WindowedValue]:
        """Convert a result to output elements; runs in the bundle's thread."""
        raise NotImplementedError

    def setup(self) -> None:
        """Start the threads."""
        self._ahead = Ahead[Any](type(self).__name__, self.workers)

    def start_bundle(self) -> None:
        """Discard the tasks of a failed bundle."""
        self._ahead.reset()

    def process(self, *element: Any) -> Iterator[WindowedValue]:
        """Start the work on an element, and emit finished results; a subclass may pass other arguments for `work`."""
        for result in self._ahead.start(self.work, *element):
            yield from self.tell(result)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Emit the remaining results."""
        for result in self._ahead.finish():
            yield from self.tell(result)

    def teardown(self) -> None:
        """End the threads."""
        self._ahead.close()
