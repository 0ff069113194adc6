"""Work of a step in a thread of its own: the bundle goes on while a file or a batch is written."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


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
