"""Work of a step in threads of its own: the bundle goes on while a file is written, or a batch worked out."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

MOST_WORKERS = 4
"""Each holds what it works on and what becomes of it, some 100 MB."""


class Background(Generic[T]):
    """One task at a time, in one thread; the next waits for it, and with it the bundle, so that memory stays bounded.

    What fails there is raised by the next call of `start` or `finish`.
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
        """Raise what a task that has ended raised; does not wait."""
        if self._pending is not None and self._pending.done():
            self._collect()

    def finish(self) -> list[T]:
        """Wait for the last task; what all of them returned since the last `finish`, in order."""
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
    """

    def __init__(self, name: str) -> None:
        self._workers = min(os.cpu_count() or 1, MOST_WORKERS)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=name)
        self._running: deque[Future[T]] = deque()

    def start(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Start a task; what the oldest returned, where that had to be waited for first."""
        done = [self._running.popleft().result()] if len(self._running) == self._workers else []
        self._running.append(self._pool.submit(task, *args, **kwargs))
        return done

    def finish(self) -> Iterator[T]:
        """What the tasks returned that are left, each as it is there."""
        while self._running:
            yield self._running.popleft().result()

    def reset(self) -> None:
        """Wait for what a failed bundle has left running, and forget it."""
        while self._running:
            self._running.popleft().exception()

    def close(self) -> None:
        """Wait for the tasks that run, and end the threads."""
        self._pool.shutdown(cancel_futures=True)
