"""Micro-batching of an unbounded input: tables wait in files until work with a cost per table is done on many."""

import pickle
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import StrUtf8Coder
from apache_beam.transforms import trigger, window
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import PaneInfoTiming, WindowedValue

from stores.held_tables import delete_held, write_held
from transforms.sinks.held_work import Work, work_on
from transforms.sinks.stable_input import BreakFusion, stable_par_do
from transforms.subprocesses import SHARED_SUBPROCESS
from transforms.tables import at_the_end


class Worked(NamedTuple):
    """The result of the work on a batch of tables.

    Attributes:
        result: What the work returned.
        names: The names of the tables' files. The files are kept until a checkpoint holds the result.
    """

    result: Any
    names: tuple[str, ...]


LOOK_SECONDS = 0.5
"""Interval at which a timer checks whether the running work is done."""
LONGEST_WORK = 60.0
"""Seconds after which a bundle waits for the running work, so that the backlog cannot grow without bound."""
_DONE = "done"


@dataclass(eq=False)
class HoldBack(beam.PTransform):
    """Tables → `Worked`: collects the tables of a few seconds of processing time and runs the work on them together.

    Each bundle writes its tables to one file; the runner moves and checkpoints only the file names. The work starts
    once a checkpoint holds the names. It runs in a subprocess, so that neither a bundle nor a checkpoint waits for it.
    The names leave the state in the bundle that emits the result, so work that a crash interrupts is repeated on the
    same files. A file is deleted once a checkpoint holds the result of its rows. At the end of the input, the work on
    all waiting tables is run and waited for.

    Beam's own `transforms.async_dofn` works in threads of the worker process, and does not handle the end of the input.

    Attributes:
        folder: Folder of the files, a path or URI. Files that a failed attempt leaves there are never read.
        seconds: How long a table waits at most before the work on it starts.
        work: The function that is run on the tables. It may run twice on the same tables; one result is emitted.
        stable_input: See `WriteLake`.
    """

    folder: str
    seconds: int
    work: Work
    stable_input: bool = False

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[Worked]:
        """Write the files, collect their names, run the work, and delete the files after the next checkpoint."""
        worked = (
            tables
            | "Write" >> beam.ParDo(_Write(self.folder)).with_output_types(tuple[str, str])
            | "NowAndThen" >> now_and_then(self.seconds)
            | "Together" >> beam.GroupByKey()
            | "OnceHeld" >> stable_par_do(_Forward(), self.stable_input).with_output_types(tuple[str, list[str]])
            | "Work"
            >> beam.ParDo(_WorkInSubprocess(self.work, self.folder))
            .with_output_types(Worked, **{_DONE: tuple[str, str]})
            .with_outputs(_DONE, main="results")
        )
        _ = (
            worked[_DONE]
            | "AfterCheckpoint" >> BreakFusion(from_timers=True)
            | "Delete" >> stable_par_do(_Delete(self.folder), self.stable_input)
        )
        return worked["results"]


def now_and_then(seconds: int) -> beam.WindowInto:
    """Global windows with a trigger that fires every few seconds of processing time, and at the end of the input."""
    either = trigger.AfterAny(trigger.AfterProcessingTime(seconds), trigger.AfterWatermark())
    return beam.WindowInto(
        window.GlobalWindows(),
        trigger=trigger.Repeatedly(either),
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    )


class _Write(beam.DoFn):
    """Writes a bundle's tables to one file, and emits its name when the bundle ends."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._tables: list[pa.Table] = []

    def process(self, table: pa.Table) -> None:
        self._tables.append(table)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._tables:
            name = write_held(self._folder, self._tables)
            self._tables = []
            # with the maximum timestamp a waiting element is never late, and does not hold the watermark back
            yield at_the_end(("", name))


class _Forward(beam.DoFn):
    """Passes on groups of names unchanged; the step exists for its stable input alone."""

    def process(self, group: tuple[str, Iterable[str]]) -> Iterator[tuple[str, list[str]]]:
        yield group[0], list(group[1])


class _Running(NamedTuple):
    """Work in progress: the names of its files, and when it began by this process's monotonic clock."""

    names: tuple[str, ...]
    future: Future[Any]
    began: float


_RUNNING: dict[str, _Running] = {}
"""The work in progress of each step. A runner may use several instances of a DoFn, and any of them may finish it."""

# The names of the files whose result has not been emitted yet.
_NAMES = beam.DoFn.StateParam(BagStateSpec("names", StrUtf8Coder()))
_LOOK = TimerSpec("look", TimeDomain.REAL_TIME)
_LOOK_TIMER = beam.DoFn.TimerParam(_LOOK)
_END = TimerSpec("end", TimeDomain.WATERMARK)
_END_TIMER = beam.DoFn.TimerParam(_END)


class _WorkInSubprocess(beam.DoFn):
    """File names → the result of the work on these files, followed by each name, tagged as done.

    One piece of work runs at a time, on all names that are waiting.
    """

    def __init__(self, work: Work, folder: str) -> None:
        self._work, self._folder = pickle.dumps(work), folder
        self._step = uuid.uuid4().hex

    def process(
        self,
        group: tuple[str, list[str]],
        pane: Any = beam.DoFn.PaneInfoParam,
        names: Any = _NAMES,
        look: Any = _LOOK_TIMER,
        end: Any = _END_TIMER,
    ) -> Iterator[Any]:
        running = self._running(names)
        if running is not None and time.monotonic() - running.began > LONGEST_WORK:
            yield from self._finish(running, names)
        for name in group[1]:
            names.add(name)
        if pane.timing == PaneInfoTiming.EARLY:
            end.set(window.GlobalWindow().max_timestamp())
            yield from self._advance(names, look)
        else:
            yield from self._finish_all(names)

    @on_timer(_LOOK)
    def look(self, names: Any = _NAMES, look: Any = _LOOK_TIMER) -> Iterator[Any]:
        yield from self._advance(names, look)

    @on_timer(_END)
    def end(self, names: Any = _NAMES) -> Iterator[Any]:
        yield from self._finish_all(names)

    def _advance(self, names: Any, look: Any) -> Iterator[Any]:
        running = self._running(names)
        if running is not None and running.future.done():
            yield from self._finish(running, names)
            running = None
        if running or self._start(names):
            look.set(Timestamp.now() + Duration(seconds=LOOK_SECONDS))

    def _finish_all(self, names: Any) -> Iterator[Any]:
        while running := self._running(names) or self._start(names):
            yield from self._finish(running, names)

    def _running(self, names: Any) -> _Running | None:
        """The running work; None if the runner has since restored a checkpoint in which its names do not wait."""
        running = _RUNNING.get(self._step)
        if running is None or not set(running.names) <= set(names.read()):
            return None
        return running

    def _start(self, names: Any) -> _Running | None:
        """Start the work on all waiting names; None if there are none."""
        waiting = tuple(names.read())
        if not waiting:
            return None
        future = SHARED_SUBPROCESS.start(work_on, self._work, self._folder, waiting)
        _RUNNING[self._step] = running = _Running(waiting, future, time.monotonic())
        return running

    def _finish(self, running: _Running, names: Any) -> Iterator[Any]:
        """Wait for the work, emit its result and its names, and remove the names from the state."""
        _RUNNING.pop(self._step)
        yield at_the_end(Worked(SHARED_SUBPROCESS.result(running.future), running.names))
        left = [name for name in names.read() if name not in running.names]
        names.clear()
        for name in left:
            names.add(name)
        for name in running.names:
            yield beam.pvalue.TaggedOutput(_DONE, at_the_end(("", name)))


class _Delete(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, group: tuple[str, Iterable[str]]) -> None:
        delete_held(self._folder, group[1])
