"""Runs tasks in subprocesses, each with a GIL of its own and without Beam loaded."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, ParamSpec, TypeVar

from schemas.errors import ClickstreamError

T = TypeVar("T")
P = ParamSpec("P")

_NICENESS = 10
_NICENESS_SHARED = 5
"""The shared subprocess must keep up, as steps eventually wait for its results."""


class ProcessDiedError(ClickstreamError):
    """The subprocess that a task ran in has died."""


def run_in_subprocess(task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """Run a task in a new subprocess and wait for it. The task's memory is released with the subprocess.

    The subprocess has a lower priority than this process, and ends with it.

    Args:
        task: A function of a module, which the subprocess imports.
        args: Its arguments.
        kwargs: Its arguments by name.

    Returns:
        The task's result, and the CPU seconds that it took, including the start of the subprocess.

    Raises:
        ProcessDiedError: The subprocess was killed.
        Exception: What the task raised.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_and_send, args=(sender, task, args, kwargs), daemon=True)
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


class Subprocess:
    """A long-lived subprocess of lower priority that runs tasks one at a time.

    It starts with the first task, and ends with this process. If it has died, the next task starts it again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def start(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a task without waiting for it; it runs after the tasks queued before it.

        Args:
            task: A function of a module, which the subprocess imports.
            args: Its arguments.
            kwargs: Its arguments by name.
        """
        with self._lock:
            if self._pool is not None:
                with suppress(BrokenProcessPool):
                    return self._pool.submit(task, *args, **kwargs)
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _follow_parent, (_NICENESS_SHARED,)
            )
            return self._pool.submit(task, *args, **kwargs)

    @staticmethod
    def result(future: Future[T]) -> T:
        """Wait for a task and return its result.

        Raises:
            ProcessDiedError: The subprocess was killed.
            Exception: What the task raised.
        """
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise ProcessDiedError("the background process of the worker died during a task") from error


SHARED_SUBPROCESS = Subprocess()
"""The subprocess that all steps of this process share, so that the libraries are loaded in one subprocess only."""


def _follow_parent(niceness: int) -> None:
    """Lower the priority of this process, and end it when its parent process ends."""
    os.nice(niceness)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _run_and_send(sender: Connection, task: Callable[..., Any], args: Any, kwargs: Any) -> None:
    _follow_parent(_NICENESS)
    returned, raised = None, None
    try:
        returned = task(*args, **kwargs)
    except Exception as error:
        raised = error
    sender.send((returned, raised, time.process_time()))
