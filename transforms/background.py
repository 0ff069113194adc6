"""Work of a step in threads, so that a bundle goes on while a file is written or a batch is computed."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

T = TypeVar("T")
P = ParamSpec("P")

MOST_WORKERS = 4
"""Each holds what it works on and what becomes of it, some 100 MB."""


class Background(Generic[T]):
    """One thread for one task at a time. To start the next is to wait for it, so that memory stays bounded.

    An error of a task is raised by the next call of `start`, `check` or `finish`.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: Future[T] | None = None
        self._done: list[T] = []

    def start(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Wait for the task before, then run this one."""
        self._collect()
        self._pending = self._pool.submit(task, *args, **kwargs)

    def check(self) -> None:
        """Raise the error of a task that has failed; does not wait."""
        if self._pending is not None and self._pending.done():
            self._collect()

    def finish(self) -> list[T]:
        """Wait for the last task; returns the results of all since the last `finish`, in order."""
        self._collect()
        done, self._done = self._done, []
        return done

    def reset(self) -> None:
        """Wait for what a failed bundle has left running, and forget it."""
        pending, self._pending, self._done = self._pending, None, []
        if pending is not None:
            pending.exception()

    def close(self) -> None:
        """Wait for the task that runs, and end the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _collect(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._done.append(pending.result())


class Ahead(Generic[T]):
    """As many tasks at a time as there are processors, for work outside of Python's lock; results in the tasks' order.

    Args:
        name: Of the threads.
        workers: How many tasks at a time, at most.
    """

    def __init__(self, name: str, workers: int = MOST_WORKERS) -> None:
        self._workers = min(os.cpu_count() or 1, workers)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=name)
        self._running: deque[Future[T]] = deque()

    def start(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Start a task; returns the result of the oldest if all threads were busy, and it had to be waited for."""
        done = [self._running.popleft().result()] if len(self._running) == self._workers else []
        self._running.append(self._pool.submit(task, *args, **kwargs))
        return done

    def finish(self) -> Iterator[T]:
        """The results of the tasks that are left, in their order."""
        while self._running:
            yield self._running.popleft().result()

    def reset(self) -> None:
        """Wait for what a failed bundle has left running, and forget it."""
        while self._running:
            self._running.popleft().exception()

    def close(self) -> None:
        """Wait for the tasks that run, and end the threads."""
        self._pool.shutdown(cancel_futures=True)


class WorkAhead(beam.DoFn):
    """A step that works on several elements at a time in threads, mostly outside of Python's lock; results in order.

    Attributes:
        workers: How many elements at a time, at most.
    """

    workers = MOST_WORKERS

    def work(self, *work: Any) -> Any:
        """What is done with an element, in a thread."""
        raise NotImplementedError

    def tell(self, result: Any) -> Iterator[WindowedValue]:
        """What goes on of a result, in the bundle."""
        raise NotImplementedError

    def setup(self) -> None:
        """Start the threads."""
        self._ahead = Ahead[Any](type(self).__name__, self.workers)

    def start_bundle(self) -> None:
        """Forget what a failed bundle has left."""
        self._ahead.reset()

    def process(self, *element: Any) -> Iterator[WindowedValue]:
        """Start an element, and tell of those that are done; a subclass may make of it what `work` takes."""
        for result in self._ahead.start(self.work, *element):
            yield from self.tell(result)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Tell of the rest."""
        for result in self._ahead.finish():
            yield from self.tell(result)

    def teardown(self) -> None:
        """End the threads."""
        self._ahead.close()
