"""Work of a step beside it: the bundle goes on while a file is written, or a batch worked out."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, ParamSpec, TypeVar

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from schemas.errors import ClickstreamError

T = TypeVar("T")
P = ParamSpec("P")

MOST_WORKERS = 4
"""Each holds what it works on and what becomes of it, some 100 MB."""
_GIVES_WAY = 10
_GIVES_SOME_WAY = 5
"""Of a process that others wait for, if not at once: it must keep up."""


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
        workers: How many tasks at a time, at most.
    """

    def __init__(self, name: str, workers: int = MOST_WORKERS) -> None:
        self._workers = min(os.cpu_count() or 1, workers)
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


class WorkAhead(beam.DoFn):
    """A step with work outside of Python's lock for the most part: several elements at a time, results in their order.

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


class ProcessDiedError(ClickstreamError):
    """The process that a task ran in has died."""


def run_apart(task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """Run a task in a process of its own, and wait for it: it has a lock of its own, and leaves no memory behind.

    It gives way to this one where processors are scarce, and does not outlive it.

    Args:
        task: A function of a module, which the process imports.
        args: What to call it with.
        kwargs: What to call it with, by name.

    Returns:
        What it returned, and the processor seconds that it and the start of its process took.

    Raises:
        ProcessDiedError: The process was killed.
        Exception: What the task raised.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_and_tell, args=(sender, task, args, kwargs), daemon=True)
    process.start()
    sender.close()
    try:
        returned, raised, seconds = receiver.recv()
    except EOFError as error:
        process.join()
        raise ProcessDiedError(f"a process for {task.__name__} died with status {process.exitcode}") from error
    finally:
        receiver.close()
    process.join()
    if raised is not None:
        raise raised
    return returned, seconds


class Beside:
    """A process that stays beside this one for tasks in turns, of a lower priority and with a lock of its own.

    It starts with the first task, and anew with the next after it has died. It does not outlive this one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def start(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a task run once those before it are done; does not wait.

        Args:
            task: A function of a module, which the process imports.
            args: What to call it with.
            kwargs: What to call it with, by name.
        """
        with self._lock:
            if self._pool is not None:
                with suppress(BrokenProcessPool):
                    return self._pool.submit(task, *args, **kwargs)
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _give_way, (_GIVES_SOME_WAY,))
            return self._pool.submit(task, *args, **kwargs)

    @staticmethod
    def result(future: Future[T]) -> T:
        """Wait for a task; what it returned.

        Raises:
            ProcessDiedError: The process was killed.
            Exception: What the task raised.
        """
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise ProcessDiedError("the process beside the bundles died while it was at work") from error


BESIDE = Beside()
"""The one that the steps of this process share: one more copy of the libraries, whatever there is to do."""


def _give_way(how_much: int) -> None:
    """Let this process have a lower priority than the one that started it, and end with it."""
    os.nice(how_much)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _run_and_tell(sender: Connection, task: Callable[..., Any], args: Any, kwargs: Any) -> None:
    _give_way(_GIVES_WAY)
    returned, raised = None, None
    try:
        returned = task(*args, **kwargs)
    except Exception as error:
        raised = error
    sender.send((returned, raised, time.process_time()))
