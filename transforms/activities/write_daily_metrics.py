"""Keeps daily_metrics in the main graph: refreshed once by a bounded run, periodically by an unbounded one."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.utils.windowed_value import PaneInfoTiming

from schemas.errors import ClickstreamError
from stores.lake_commit import CommitResult
from transforms.activities.daily_metrics import MetricRules
from transforms.activities.refresh_daily_metrics import refresh_daily_metrics
from transforms.background import processors
from transforms.metrics import count
from transforms.sinks.hold_back import now_and_then
from transforms.sinks.stream_lake import count_commit
from transforms.subprocesses import run_in_subprocess

REFRESH_SECONDS = 30
"""Interval between two refreshes of an unbounded run."""
_REST = 19
"""Seconds of rest per CPU second of a refresh, so that refreshes take at most a twentieth of a processor."""


@dataclass(eq=False)
class WriteDailyMetrics(beam.PTransform):
    """Keeps daily_metrics up to date with the facts.

    Input elements: commits of the facts. Output: commits of the metrics. A bounded run refreshes once, after all
    commits. An unbounded one refreshes every `REFRESH_SECONDS` in a subprocess, so that no bundle waits for it, and
    once more at the end of the input. If a refresh is lost, the next one does its work.

    Counters: those of a commit; ``daily_metrics_failed``, refreshes that failed because of another run's commit or a
    missing file.

    Attributes:
        lake: The lake's root, a path or URI.
        rules: Segments, categories, watch time.
    """

    lake: str
    rules: MetricRules

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, commits: beam.PCollection[CommitResult]) -> beam.PCollection[CommitResult]:
        """Group the commits under one key, and refresh."""
        keyed = commits | "OneKey" >> beam.Map(_under_one_key).with_output_types(tuple[str, None])
        if not commits.is_bounded:
            keyed = keyed | "NowAndThen" >> now_and_then(REFRESH_SECONDS)
        return keyed | "Together" >> beam.GroupByKey() | "Refresh" >> beam.ParDo(_Refresh(self.lake, self.rules))


def _under_one_key(_: CommitResult) -> tuple[str, None]:
    return "", None


@beam.typehints.with_output_types(CommitResult)
class _Refresh(beam.DoFn):
    """Refreshes at each firing of the trigger: in the background before the end of the input, in the bundle at it."""

    def __init__(self, lake: str, rules: MetricRules) -> None:
        self._lake, self._rules = lake, rules

    def setup(self) -> None:
        self._refresher = _Refresher(self._lake, self._rules)

    def process(
        self,
        _: tuple[str, Iterable[None]],
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[CommitResult]:
        results, failed = self._refresher.take()
        count("daily_metrics_failed", failed)
        if pane.timing == PaneInfoTiming.EARLY:
            self._refresher.ask()
        else:
            self._refresher.end()
            results.append(refresh_daily_metrics(self._lake, self._rules, threads=processors()))
        for result in results:
            count_commit(result)
            yield result

    def teardown(self) -> None:
        self._refresher.end()


class _Refresher:
    """Refreshes in a subprocess, one at a time and with rests in between; requests during a refresh are combined."""

    def __init__(self, lake: str, rules: MetricRules) -> None:
        self._lake, self._rules = lake, rules
        self._asked, self._ended = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._results: list[CommitResult] = []
        self._failed = 0
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Request a refresh without waiting for it."""
        self._asked.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="daily-metrics", daemon=True)
            self._thread.start()

    def take(self) -> tuple[list[CommitResult], int]:
        """The commits since the last call, and the number of refreshes that failed."""
        with self._lock:
            taken = self._results, self._failed
            self._results, self._failed = [], 0
        return taken

    def end(self) -> None:
        """Wait for the running refresh, and start no other."""
        self._ended.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._asked.wait() and not self._ended.is_set():
            self._asked.clear()
            seconds = 0.0
            try:
                result, seconds = run_in_subprocess(refresh_daily_metrics, self._lake, self._rules)
                with self._lock:
                    self._results.append(result)
            except ClickstreamError:  # another run's commit, or a file compacted away; the next refresh succeeds
                with self._lock:
                    self._failed += 1
            self._ended.wait(_REST * seconds)
