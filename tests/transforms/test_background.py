import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transforms.background import Ahead, Background, Beside, ProcessDiedError, run_apart


@pytest.fixture
def background():
    background = Background[int]("test")
    yield background
    background.close()


def test_tasks_return_in_the_order_of_their_start(background):
    for number in range(5):
        background.start(lambda number: number * 2, number)
    assert background.finish() == [0, 2, 4, 6, 8]
    assert background.finish() == []


def test_second_task_waits_for_the_first(background):
    release, order = threading.Event(), []
    background.start(lambda: (release.wait() and order.append("first")) or 1)
    threading.Timer(0.01, release.set).start()
    background.start(lambda: order.append("second") or 2)
    assert background.finish() == [1, 2]
    assert order == ["first", "second"]


def test_failure_is_raised_by_the_next_call(background):
    background.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        background.start(lambda: 1)
    background.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        background.finish()


def test_reset_forgets_what_a_failed_bundle_left(background):
    background.start(lambda: 1)
    background.start(lambda: 1 // 0)
    background.reset()
    background.start(lambda: 3)
    assert background.finish() == [3]


def test_tasks_ahead_overlap_and_return_in_the_order_of_their_start(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    ahead, second_runs = Ahead[int]("test"), threading.Event()
    assert ahead.start(lambda: second_runs.wait(10) and 1) == []
    assert ahead.start(lambda: second_runs.set() or 2) == []
    assert ahead.start(lambda number: number, 3) == [1]
    assert list(ahead.finish()) == [2, 3]
    assert list(ahead.finish()) == []
    ahead.close()


def test_failure_ahead_is_raised_in_its_turn_and_forgotten_by_reset():
    ahead = Ahead[int]("test")
    ahead.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(ahead.finish())
    ahead.start(lambda: 1 // 0)
    ahead.reset()
    assert list(ahead.finish()) == []
    ahead.close()


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


def test_task_apart_does_not_outlive_a_process_that_is_killed():
    code = "import time; from transforms.background import run_apart; run_apart(time.sleep, 600)"
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


def test_process_beside_does_not_outlive_one_that_is_killed():
    code = "import time; from transforms.background import BESIDE; BESIDE.result(BESIDE.start(time.sleep, 600))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    child = until(lambda: children_that_run(parent.pid, "spawn_main"))[0]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not Path(f"/proc/{child}").exists() or state_of(child) == "Z")


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
