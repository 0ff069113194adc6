"""Tables of an endless input that wait for each other, in files, and the work on them beside the bundles."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_stream import TestStream as Script
from apache_beam.utils.windowed_value import PaneInfoTiming
from hypothesis import given
from hypothesis import strategies as st

from runners.beam_options import parse_beam_options
from schemas.errors import StoreError
from stores.held_tables import delete_held, read_held, write_held
from transforms.sinks import hold_back
from transforms.sinks.held_work import Work
from transforms.sinks.hold_back import HoldBack
from transforms.tables import TableCoder


class Append(beam.DoFn):
    """A line a result."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def process(self, worked: hold_back.Worked) -> None:
        with open(self._path, "a") as out:
            out.write(f"{worked.result} of {len(worked.names)}\n")


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())})


def numbers_of(tables: Iterator[pa.Table]) -> list[int]:
    return sorted(number for table in tables for number in table["n"].to_pylist())


def refuse(tables: Iterator[pa.Table]) -> None:
    raise StoreError(f"no room for {numbers_of(tables)}")


def run(script: Script, folder: Path, work: Work, out: Path) -> None:
    options = parse_beam_options([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    tables = pipeline | script.with_output_types(pa.Table)
    _ = tables | HoldBack(str(folder), 10, work) | beam.ParDo(Append(out))
    pipeline.run().wait_until_finish()


def test_tables_wait_for_their_time_or_the_end_and_their_files_go(tmp_path: Path) -> None:
    held, out = tmp_path / "held", tmp_path / "out"
    script = (
        Script(coder=TableCoder())
        .add_elements([numbers(1, 2)])
        .add_elements([numbers(3)])
        .advance_processing_time(11)
        .add_elements([numbers(4)])
        .advance_watermark_to_infinity()
    )
    run(script, held, numbers_of, out)
    assert out.read_text().splitlines() == ["[1, 2, 3] of 2", "[4] of 1"]
    assert list(held.iterdir()) == []


def test_end_of_the_input_waits_for_a_work_that_runs_though_nothing_else_is_held(tmp_path: Path) -> None:
    held, out = tmp_path / "held", tmp_path / "out"
    script = Script(coder=TableCoder()).add_elements([numbers(1)]).advance_processing_time(11)
    run(script.advance_watermark_to_infinity(), held, numbers_of, out)
    assert out.read_text().splitlines() == ["[1] of 1"]
    assert list(held.iterdir()) == []


def test_error_in_the_work_ends_the_job_with_its_message_and_leaves_the_files(tmp_path: Path) -> None:
    script = Script(coder=TableCoder()).add_elements([numbers(1)]).advance_watermark_to_infinity()
    with pytest.raises(Exception, match=r"no room for \[1\]"):
        run(script, tmp_path / "held", refuse, tmp_path / "out")
    assert len(list((tmp_path / "held").iterdir())) == 1


class Bag:
    """State of a step, as a runner keeps it."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def read(self) -> Iterable[str]:
        return tuple(self.values)

    def add(self, value: str) -> None:
        self.values.append(value)

    def clear(self) -> None:
        self.values = []


class Timer:
    """A timer that says whether it is set."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self, _: object) -> None:
        self.is_set = True


class Slow:
    """Stands for the process beside the bundles; a task ends when it is told to, or waited for."""

    def __init__(self) -> None:
        self.begun: list[tuple[Future[Any], tuple[str, ...]]] = []

    def start(self, _task: object, _work: bytes, _folder: str, names: tuple[str, ...]) -> Future[Any]:
        self.begun.append((Future(), names))
        return self.begun[-1][0]

    def end(self) -> None:
        for future, names in self.begun:
            if not future.done():
                future.set_result(list(names))

    def result(self, future: Future[Any]) -> Any:
        self.end()
        return future.result()


class Step:
    """The step on a runner that goes back to its last checkpoint when it crashes."""

    def __init__(self, beside: Slow) -> None:
        hold_back.SHARED_SUBPROCESS = beside  # type: ignore[assignment]
        self.beside = beside
        self.names, self.look, self.end = Bag(), Timer(), Timer()
        self.arrived = 0
        self.results: list[hold_back.Worked] = []
        self.gone: list[str] = []
        self.do_fn = hold_back._WorkInSubprocess(numbers_of, "")
        self.checkpoint()

    def _emit(self, emitted: Iterator[Any]) -> None:
        for value in emitted:
            if isinstance(value, beam.pvalue.TaggedOutput):
                self.gone.append(value.value.value[1])
            else:
                self.results.append(value.value)

    def group(self, size: int, timing: int = PaneInfoTiming.EARLY) -> None:
        names = [f"file-{self.arrived + n}" for n in range(size)]
        self.arrived += size
        pane = SimpleNamespace(timing=timing)
        self._emit(self.do_fn.process(("", names), pane, self.names, self.look, self.end))

    def fire(self) -> None:
        if self.look.is_set:
            self.look.is_set = False
            self._emit(self.do_fn.look(self.names, self.look))

    def finish(self) -> None:
        if self.end.is_set:
            self._emit(self.do_fn.end(self.names))

    def checkpoint(self) -> None:
        timers = self.look.is_set, self.end.is_set
        self._held = list(self.names.values), timers, self.arrived, len(self.results), len(self.gone)

    def crash(self, with_memory: bool) -> None:
        names, (self.look.is_set, self.end.is_set), self.arrived, results, gone = self._held
        self.names.values = list(names)
        del self.results[results:], self.gone[gone:]
        if with_memory:
            hold_back._RUNNING.clear()


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_back, "SHARED_SUBPROCESS", hold_back.SHARED_SUBPROCESS)


STEPS = st.lists(
    st.one_of(
        st.integers(1, 3),
        st.sampled_from(["look", "work ends", "checkpoint", "crash", "crash that takes the memory"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_each_file_is_in_one_result_whatever_crashes_before_or_after_it(steps: list[int | str]) -> None:
    step = Step(Slow())
    for what in steps:
        match what:
            case int():
                step.group(what)
            case "look":
                step.fire()
            case "work ends":
                step.beside.end()
            case "checkpoint":
                step.checkpoint()
            case "crash":
                step.crash(with_memory=False)
            case _:
                step.crash(with_memory=True)
        assert step.look.is_set or not step.names.values, "what waits is looked at again"
    step.finish()
    arrived = [f"file-{n}" for n in range(step.arrived)]
    assert sorted(name for worked in step.results for name in worked.names) == sorted(arrived)
    assert all(worked.result == list(worked.names) for worked in step.results)
    assert sorted(step.gone) == sorted(arrived), "and it is deleted"
    assert step.names.values == []


def test_groups_wait_while_a_work_runs_and_hold_up_their_bundle_once_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Step(Slow())
    for size in (2, 1, 1):
        step.group(size)
    assert step.results == []
    monkeypatch.setattr(hold_back, "LONGEST_WORK", -1.0)
    step.group(1)
    assert [worked.names for worked in step.results] == [("file-0", "file-1")]
    waiting = ("file-2", "file-3", "file-4")
    assert [names for _, names in step.beside.begun] == [("file-0", "file-1"), waiting]


def test_last_group_of_an_input_is_worked_on_in_its_bundle() -> None:
    step = Step(Slow())
    step.group(1)
    step.group(1, PaneInfoTiming.ON_TIME)
    assert [worked.names for worked in step.results] == [("file-0",), ("file-1",)]


def test_held_tables_are_read_as_they_were_until_they_are_deleted(tmp_path: Path) -> None:
    name = write_held(str(tmp_path / "held"), [numbers(1), numbers(), numbers(2, 3)])
    for _ in range(2):  # a restored run reads it again
        assert read_held(str(tmp_path / "held"), name).equals(numbers(1, 2, 3))
    for _ in range(2):  # and deletes it again
        delete_held(str(tmp_path / "held"), [name])
    with pytest.raises(StoreError, match="cannot read from"):
        read_held(str(tmp_path / "held"), name)
