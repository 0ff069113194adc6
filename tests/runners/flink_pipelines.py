"""Small endless pipelines whose output shows whether state, timers and the source's position stayed together.

In a module of its own, since a worker in another process has to import it.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import BooleanCoder, VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms import trigger, window
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Duration, Timestamp

from schemas.records import Field, Record
from transforms.sinks.stable_input import StableParDo
from transforms.sinks.write_lake import WriteLake

START = 1_775_952_000
STEP = 0.1
BATCH = 5
PAUSE = 0.1
NUMBER = Record(
    name="numbers",
    grain="one number",
    fields=(Field("number", pa.int64(), "a number of the source", nullable=False),),
    sort_by=("number",),
    key=("number",),
)


class Numbers(RestrictionProvider):
    def initial_restriction(self, element: int) -> OffsetRange:
        return OffsetRange(0, element)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: Any, restriction: OffsetRange) -> int:
        return 1


class Count(beam.DoFn):
    """A limit to 0, 1, 2 … below it, a tenth of a second of event time apart, some fifty a second."""

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: int,
        tracker: Any = beam.DoFn.RestrictionParam(Numbers()),  # noqa: B008
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),  # noqa: B008
    ) -> Iterator[Any]:
        first = tracker.current_restriction().start
        for number in range(first, first + BATCH):
            if not tracker.try_claim(number):
                return
            time = Timestamp(START + number * STEP)
            estimator.set_watermark(time)
            yield window.TimestampedValue(number, time)
        tracker.defer_remainder(Duration(PAUSE))


class Tally(beam.DoFn):
    """How many numbers there were so far, and a tick for each second of event time."""

    SEEN = ReadModifyWriteStateSpec("seen", VarIntCoder())
    ARMED = ReadModifyWriteStateSpec("armed", BooleanCoder())
    TICK = TimerSpec("tick", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[str, int],
        time: Any = beam.DoFn.TimestampParam,
        seen: Any = beam.DoFn.StateParam(SEEN),  # noqa: B008
        armed: Any = beam.DoFn.StateParam(ARMED),  # noqa: B008
        tick: Any = beam.DoFn.TimerParam(TICK),  # noqa: B008
    ) -> Iterator[tuple[str, str]]:
        key, number = element
        Metrics.counter("tally", "seen").inc()
        seen.write((seen.read() or 0) + 1)
        if not armed.read():
            armed.write(True)
            tick.set(Timestamp(int(time) + 1))
        yield key, f"{number} {seen.read()}"

    @on_timer(TICK)
    def ticked(
        self,
        time: Any = beam.DoFn.TimestampParam,
        armed: Any = beam.DoFn.StateParam(ARMED),  # noqa: B008
    ) -> Iterator[tuple[str, str]]:
        armed.write(False)
        yield "all", f"tick {int(time) - START}"


class Append(beam.DoFn):
    """Lines to the end of a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def process(self, element: tuple[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(f"{line} {os.getpid()}\n" for line in element[1]))


class Fail(beam.DoFn):
    def process(self, element: Any) -> None:
        raise ValueError(f"cannot take {element}")


def build_tally(pipeline: beam.Pipeline, out: Path) -> None:
    """Lines of ``number count pid`` and ``tick second pid``, through a step that requires stable input."""
    _ = (
        pipeline
        | beam.Create([1_000_000_000], reshuffle=False)
        | beam.ParDo(Count())
        | "Key" >> beam.WithKeys("all").with_output_types(tuple[str, int])
        | beam.ParDo(Tally()).with_output_types(tuple[str, str])
        | beam.WindowInto(
            window.GlobalWindows(),
            trigger=trigger.Repeatedly(trigger.AfterCount(1)),
            accumulation_mode=trigger.AccumulationMode.DISCARDING,
        )
        | beam.GroupByKey()
        | "Append" >> StableParDo(Append(out))
    )


class Rows(beam.DoFn):
    def process(self, number: int) -> Iterator[pa.Table]:
        yield pa.table({"number": [number]}, schema=NUMBER.schema)


class EverySecond(beam.DoFn):
    def process(self, number: int) -> Iterator[tuple[str, int]]:
        if number % 50 == 0:
            yield "all", number


class Linger(beam.DoFn):
    """Longer than a checkpoint is apart: no checkpoint gets past it before it is done."""

    def process(self, _: tuple[str, int]) -> None:
        time.sleep(0.7)


def build_lake(pipeline: beam.Pipeline, lake: Path) -> None:
    """Numbers into a table of the lake, beside a step that keeps checkpoints from being complete for a while."""
    numbers = pipeline | beam.Create([1_000_000_000], reshuffle=False) | beam.ParDo(Count())
    rows = numbers | beam.ParDo(Rows()).with_output_types(pa.Table)
    _ = rows | WriteLake(NUMBER, str(lake), stable_input=True)
    some = numbers | beam.ParDo(EverySecond()).with_output_types(tuple[str, int])
    _ = some | beam.Reshuffle() | beam.ParDo(Linger())
