import operator
import os
import pickle
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from schemas.catalogue import shipped_catalogue
from transforms.activities.typed_files import TypeToFiles
from transforms.events.pages import PageRules
from transforms.events.stored_events import StoredKeys
from transforms.identity.merge_dimensions import MergeDimensions
from transforms.sinks.held_work import work_on
from transforms.subprocesses import ProcessDiedError, Subprocess, run_in_subprocess

_LOWEST = 19
"""The lowest priority there is: below it nothing can be lowered."""


def test_task_runs_in_another_process_of_a_lower_priority():
    assert run_in_subprocess(os.getpid)[0] != os.getpid()
    assert run_in_subprocess(os.nice, 0)[0] > min(os.nice(0), _LOWEST - 1)
    result, seconds = run_in_subprocess(operator.pow, 7, 2)
    assert result == 49
    # its start alone takes more than a clock tick
    assert seconds > 0


def test_failure_of_a_task_is_raised_as_it_was():
    with pytest.raises(ZeroDivisionError):
        run_in_subprocess(operator.floordiv, 1, 0)


def test_death_of_a_subprocess_is_told():
    with pytest.raises(ProcessDiedError, match="a process for _exit died with status 3"):
        run_in_subprocess(os._exit, 3)


@pytest.mark.parametrize(
    "waits",
    ["run_in_subprocess(time.sleep, 600)", "SHARED_SUBPROCESS.result(SHARED_SUBPROCESS.start(time.sleep, 600))"],
    ids=["own", "shared"],
)
def test_task_does_not_outlive_a_process_that_is_killed(waits):
    code = f"import time; from transforms.subprocesses import SHARED_SUBPROCESS, run_in_subprocess; {waits}"
    parent = subprocess.Popen([sys.executable, "-c", code])
    child = until(lambda: children_that_run(parent.pid, "spawn_main"))[0]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not Path(f"/proc/{child}").exists() or state_of(child) == "Z")


def test_tasks_share_a_subprocess_of_a_lower_priority_that_is_replaced_when_it_dies():
    helper = Subprocess()
    tasks = [helper.start(os.getpid), helper.start(os.getpid), helper.start(os.nice, 0)]
    first, second, priority = map(helper.result, tasks)
    assert first == second != os.getpid()
    assert priority > min(os.nice(0), _LOWEST - 1)
    with pytest.raises(ZeroDivisionError):
        helper.result(helper.start(operator.floordiv, 1, 0))
    assert helper.result(helper.start(os.getpid)) == first
    with pytest.raises(ProcessDiedError, match="died during a task"):
        helper.result(helper.start(os._exit, 3))
    assert helper.result(helper.start(os.getpid)) != first


@pytest.mark.parametrize(
    "work",
    [
        TypeToFiles(shipped_catalogue(), "lake", date(2026, 4, 12)),
        StoredKeys("lake"),
        MergeDimensions("lake", PageRules()),
    ],
    ids=lambda work: type(work).__name__,
)
def test_subprocess_does_not_load_beam(work):
    helper = Subprocess()
    helper.result(helper.start(pickle.loads, pickle.dumps(work)))
    helper.result(helper.start(pickle.loads, pickle.dumps(work_on)))
    assert not helper.result(helper.start(eval, "'apache_beam' in __import__('sys').modules"))


def until(found, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def children_that_run(parent: int, what: str) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in found if what in Path(f"/proc/{pid}/cmdline").read_text()]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
