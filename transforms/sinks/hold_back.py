"""Tables of an endless input held back in files, so that work which costs by the table is done on many at once."""

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
    """The result of the work on some tables.

    Attributes:
        result: What the work returned.
        names: The names of the tables' files, which are kept until a checkpoint has what follows from the result.
    """

    result: Any
    names: tuple[str, ...]


LOOK_SECONDS = 0.5
"""Time between two looks at whether the work is done."""
LONGEST_WORK = 60.0
"""Seconds after which a bundle waits for the running work, so that the input cannot outrun it for ever."""
_DONE = "done"


@dataclass(eq=False)
class HoldBack(beam.PTransform):
    """Tables → `Worked`: the result of a work on the tables of a few seconds of processing time together.

    The tables wait in files, one a bundle; the runner moves and checkpoints only the files' names. The work starts
    once a checkpoint has the names. It runs in a subprocess, so that neither a bundle nor a checkpoint waits for it.
    The names leave the state in the bundle that emits the result: what a crash leaves half done is done again, on the
    same files. A file is deleted once a checkpoint has the result of its rows. At the end of the input all that waits
    is worked on, and waited for.

    Beam's own `transforms.async_dofn` works in threads of the steps' process, and leaves out the end of the input.

    Attributes:
        folder: Folder of the files, a path or URI. What a lost attempt leaves there is never read.
        seconds: How long a table waits at most before the work on it starts.
        work: What is done with the tables. It may be done twice; one of the results is emitted.
        stable_input: As of `WriteLake`.
    """

    folder: str
    seconds: int
    work: Work
    stable_input: bool = False

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[Worked]:
        """Write, wait, work; delete."""
        worked = (
            tables
            | "Write" >> beam.ParDo(_Write(self.folder)).with_output_types(tuple[str, str])
            | "NowAndThen" >> now_and_then(self.seconds)
            | "Together" >> beam.GroupByKey()
            | "OnceHeld" >> stable_par_do(_GoOn(), self.stable_input).with_output_types(tuple[str, list[str]])
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
    """A trigger that fires every few seconds of processing time, and at the end of the input."""
    either = trigger.AfterAny(trigger.AfterProcessingTime(seconds), trigger.AfterWatermark())
    return beam.WindowInto(
        window.GlobalWindows(),
        trigger=trigger.Repeatedly(either),
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    )


class _Write(beam.DoFn):
    """A bundle's tables to a file, named when the bundle ends."""

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
            # the end of time: what waits is never late, and holds no watermark back
            yield at_the_end(("", name))


class _GoOn(beam.DoFn):
    """A group of names, unchanged; only its stable input matters."""

    def process(self, group: tuple[str, Iterable[str]]) -> Iterator[tuple[str, list[str]]]:
        yield group[0], list(group[1])


class _Running(NamedTuple):
    """A work under way: the names of its files, and when it began by this process' monotonic clock."""

    names: tuple[str, ...]
    future: Future[Any]
    began: float


_RUNNING: dict[str, _Running] = {}
"""The work under way of each step. A runner may use several instances of a DoFn: one goes on with another's work."""

# The names of files whose result has not been emitted.
_NAMES = beam.DoFn.StateParam(BagStateSpec("names", StrUtf8Coder()))
_LOOK = TimerSpec("look", TimeDomain.REAL_TIME)
_LOOK_TIMER = beam.DoFn.TimerParam(_LOOK)
_END = TimerSpec("end", TimeDomain.WATERMARK)
_END_TIMER = beam.DoFn.TimerParam(_END)


class _WorkInSubprocess(beam.DoFn):
    """Names of files → the result of the work on them once it is there, and then each name, tagged as done.

    One work runs at a time, on all names that wait.
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
            yield from self._go_on(names, look)
        else:
            yield from self._finish_all(names)

    @on_timer(_LOOK)
    def look(self, names: Any = _NAMES, look: Any = _LOOK_TIMER) -> Iterator[Any]:
        yield from self._go_on(names, look)

    @on_timer(_END)
    def end(self, names: Any = _NAMES) -> Iterator[Any]:
        yield from self._finish_all(names)

    def _go_on(self, names: Any, look: Any) -> Iterator[Any]:
        running = self._running(names)
        if running is not None and running.future.done():
            yield from self._finish(running, names)
            running = None
        if running or self._begin(names):
            look.set(Timestamp.now() + Duration(seconds=LOOK_SECONDS))

    def _finish_all(self, names: Any) -> Iterator[Any]:
        while running := self._running(names) or self._begin(names):
            yield from self._finish(running, names)

    def _running(self, names: Any) -> _Running | None:
        """The running work, unless it is from before the runner went back to a checkpoint: its names no longer wait."""
        running = _RUNNING.get(self._step)
        if running is None or not set(running.names) <= set(names.read()):
            return None
        return running

    def _begin(self, names: Any) -> _Running | None:
        """Begin the work on all names that wait, if any do."""
        waiting = tuple(names.read())
        if not waiting:
            return None
        future = SHARED_SUBPROCESS.start(work_on, self._work, self._folder, waiting)
        _RUNNING[self._step] = running = _Running(waiting, future, time.monotonic())
        return running

    def _finish(self, running: _Running, names: Any) -> Iterator[Any]:
        """Wait for a work, emit its result and its names, and take these out of the state."""
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
