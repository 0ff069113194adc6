import threading

import pytest

from transforms.background import Ahead, Background


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
