"""Work in processes beside this one, with a lock of their own; Beam is not loaded there."""

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

_GIVES_WAY = 10
_GIVES_SOME_WAY = 5
"""Of a process that others wait for, if not at once: it must keep up."""


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
