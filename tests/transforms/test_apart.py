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
from transforms.apart import Beside, ProcessDiedError, run_apart
from transforms.events.pages import PageRules
from transforms.events.stored_events import StoredKeys
from transforms.identity.merge_dimensions import MergeDimensions
from transforms.sinks.held_work import work_on


def test_task_apart_runs_in_another_process_of_a_lower_priority():
    assert run_apart(os.getpid)[0] != os.getpid()
    assert run_apart(os.nice, 0)[0] > os.nice(0)
    result, seconds = run_apart(operator.pow, 7, 2)
    assert result == 49
    # its start alone takes more than a clock tick
    assert seconds > 0


def test_failure_of_a_task_apart_is_raised_as_it_was():
    with pytest.raises(ZeroDivisionError):
        run_apart(operator.floordiv, 1, 0)


def test_death_of_a_task_apart_is_told():
    with pytest.raises(ProcessDiedError, match="a process for _exit died with status 3"):
        run_apart(os._exit, 3)


@pytest.mark.parametrize(
    "waits", ["run_apart(time.sleep, 600)", "BESIDE.result(BESIDE.start(time.sleep, 600))"], ids=["apart", "beside"]
)
def test_task_does_not_outlive_a_process_that_is_killed(waits):
    code = f"import time; from transforms.apart import BESIDE, run_apart; {waits}"
    parent = subprocess.Popen([sys.executable, "-c", code])
    child = until(lambda: children_that_run(parent.pid, "spawn_main"))[0]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not Path(f"/proc/{child}").exists() or state_of(child) == "Z")


def test_tasks_beside_share_a_process_of_a_lower_priority_that_is_replaced_when_it_dies():
    beside = Beside()
    tasks = [beside.start(os.getpid), beside.start(os.getpid), beside.start(os.nice, 0)]
    first, second, priority = map(beside.result, tasks)
    assert first == second != os.getpid()
    assert priority > os.nice(0)
    with pytest.raises(ZeroDivisionError):
        beside.result(beside.start(operator.floordiv, 1, 0))
    assert beside.result(beside.start(os.getpid)) == first
    with pytest.raises(ProcessDiedError, match="died while it was at work"):
        beside.result(beside.start(os._exit, 3))
    assert beside.result(beside.start(os.getpid)) != first


@pytest.mark.parametrize(
    "work",
    [
        TypeToFiles(shipped_catalogue(), "lake", date(2026, 4, 12)),
        StoredKeys("lake"),
        MergeDimensions("lake", PageRules()),
    ],
    ids=lambda work: type(work).__name__,
)
def test_process_beside_does_not_load_beam(work):
    beside = Beside()
    beside.result(beside.start(pickle.loads, pickle.dumps(work)))
    beside.result(beside.start(pickle.loads, pickle.dumps(work_on)))
    assert not beside.result(beside.start(eval, "'apache_beam' in __import__('sys').modules"))


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
