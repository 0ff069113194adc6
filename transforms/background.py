"""Background threads: the caller continues while a file is written or a batch is computed."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

MOST_WORKERS = 4
"""Each worker holds its input and its result, some 100 MB."""


def processors(most: int = MOST_WORKERS) -> int:
    """The number of processors of this machine, but at most `most`."""
    return min(os.cpu_count() or 1, most)


class Background(Generic[T]):
    """One thread that runs one task at a time. `start` waits for the previous task, which bounds the memory.

    If a task fails, the next call of `start`, `check` or `finish` raises its error.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: Future[T] | None = None
        self._done: list[T] = []

    def start(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Wait for the previous task, then start this one."""
        self._collect()
        self._pending = self._pool.submit(task, *args, **kwargs)

    def check(self) -> None:
        """Raise the error of a failed task, without waiting for a running one."""
        if self._pending is not None and self._pending.done():
            self._collect()

    def finish(self) -> list[T]:
        """Wait for the last task; returns the results of all tasks since the last `finish`, in order."""
        self._collect()
        done, self._done = self._done, []
        return done

    def reset(self) -> None:
        """Wait for the task that a failed bundle left running, and discard its result."""
        pending, self._pending, self._done = self._pending, None, []
        if pending is not None:
            pending.exception()

    def close(self) -> None:
        """Wait for the running task, and end the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _collect(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._done.append(pending.result())


class Ahead(Generic[T]):
    """Runs up to one task per processor in parallel, for work that releases the GIL; results keep the tasks' order.

    Args:
        name: Prefix of the threads' names.
        workers: Maximum number of parallel tasks.
    """

    def __init__(self, name: str, workers: int = MOST_WORKERS) -> None:
        self._workers = processors(workers)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=name)
        self._running: deque[Future[T]] = deque()

    def start(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Start a task. If all threads are busy, first wait for the oldest task, and return its result."""
        done = [self._running.popleft().result()] if len(self._running) == self._workers else []
        self._running.append(self._pool.submit(task, *args, **kwargs))
        return done

    def finish(self) -> Iterator[T]:
        """Yield the results of the remaining tasks, in their order."""
        while self._running:
            yield self._running.popleft().result()

    def reset(self) -> None:
        """Wait for the tasks that a failed bundle left running, and discard their results."""
        while self._running:
            self._running.popleft().exception()

    def close(self) -> None:
        """Wait for the running tasks, and end the threads."""
        self._pool.shutdown(cancel_futures=True)
