"""What `produce` sends: files as they are, generated traffic, or such traffic as if it happened now."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.broken_lines import broken_line
from pipelines.deliveries import Broken, Deliveries, deliveries, envelope_to_break
from pipelines.envelopes import Envelopes
from pipelines.generate import GenerateOptions
from pipelines.traffic import Ints
from schemas.durations import SECOND
from schemas.errors import InputError

BATCH_ROWS = 20_000
_ROUND_EVENTS = 500_000
_LIVE_SECONDS = 0.05

Clock = Callable[[], float]


def file_payloads(files: Mapping[str, int]) -> Iterator[pa.Array]:
    """The payloads of files of events by path and size, JSON lines or raw logs, file after file; null for a tombstone.

    Raises:
        InputError: A file is damaged. What stands before the damage has been given.
    """
    # Beam's file systems, and with them Beam, are needed by no other source
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    from transforms.sources.raw_files import Damage, FileSlice, read_slice, sniff

    for path, size in files.items():
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            kind = sniff(stream.read(4), path)
            stream.seek(0)
            for piece in read_slice(stream, FileSlice(path, kind, 0, size)):
                if isinstance(piece, Damage):
                    raise InputError(f"{path}: {piece.message}")
                yield from piece["payload"].chunks


def generated_payloads(events: int, seed: int) -> Iterator[pa.Array]:
    """The events that `clickstream generate --format avro` writes, in order of arrival, broken ones and all."""
    plan = _Plan(events, seed)
    broken = Broken.make(plan.traffic, plan.envelopes, plan.options.broken_share, from_bus=True)
    for _, due, horizon in deliveries(plan.traffic, BATCH_ROWS):
        texts, _, _ = broken.between(plan.envelopes, due, horizon)
        if len(texts):
            yield _payloads(texts)


def live_payloads(events: int, seed: int, rate: float | None, clock: Clock = time.time) -> Iterator[pa.Array]:
    """Traffic that happens now: each event is stamped with the time it is sent, less the delay that it has had.

    Delays are those of the generator: about a second, and for a few of them hours. Devices come and go.

    Args:
        events: Good events; repeats and broken ones come on top.
        seed: Names the traffic, but for its times.
        rate: Payloads per second that are taken; None for as fast as can be.
        clock: Seconds since 1970.
    """
    rows = BATCH_ROWS if rate is None else max(1, min(BATCH_ROWS, round(rate * _LIVE_SECONDS)))
    started: float | None = None
    sent = good = broken = 0
    for plan, due in _rounds(events, seed, rows):
        now = clock()
        started = now if started is None else started
        # a batch is asked for when the one before has been sent, and takes its time to be sent itself
        offsets = np.zeros(len(due.nth)) if rate is None else np.arange(sent, sent + len(due.nth)) / rate
        stamps = (np.maximum(started + offsets, now) * SECOND).astype(np.int64)
        lines = plan.envelopes.lines(replace(due.events, time=plan.times(due, stamps), arrival=stamps), due.nth)
        good += len(lines)
        spoilt = range(broken, int(good * plan.options.broken_share))
        broken += len(spoilt)
        bad = [plan.broken(number, int(now * SECOND)) for number in spoilt]
        payloads = pa.concat_arrays([_payloads(lines), pa.array(bad, pa.binary())])
        sent += len(payloads)
        yield payloads


class _Plan:
    """Traffic as `generate` would write it by default, in the raw log's format."""

    def __init__(self, events: int, seed: int) -> None:
        self.options = GenerateOptions(events=events, out=Path(), seed=seed, format="avro")
        self.traffic = self.options.traffic()
        self.envelopes = Envelopes(self.traffic)
        self._times = np.zeros(events, np.int64)

    def times(self, due: Deliveries, stamps: Ints) -> Ints:
        """When these events happened if they are sent at `stamps`; a repeat says what its first delivery said."""
        first = due.nth == 0
        delays = due.events.arrival - due.events.time
        self._times[due.events.number[first]] = (stamps - delays)[first]
        return self._times[due.events.number]

    def broken(self, number: int, micros: int) -> bytes | None:
        """The broken event of this number, sent at this time."""
        devices = self.envelopes.device_ids
        return broken_line(
            number, envelope_to_break(number, devices[number % len(devices)], micros), from_bus=True
        ).payload


def _rounds(events: int, seed: int, rows: int) -> Iterator[tuple[_Plan, Deliveries]]:
    """Traffic without end in memory that is bounded: round after round of it, each planned while the last is sent."""
    sizes = [_ROUND_EVENTS] * (events // _ROUND_EVENTS) + [events % _ROUND_EVENTS]
    with ThreadPoolExecutor(1, thread_name_prefix="plan") as planner:
        plans = (planner.submit(_Plan, size, seed + number) for number, size in enumerate(sizes) if size)
        planned = next(plans, None)
        while planned is not None:
            plan = planned.result()
            planned = next(plans, None)
            for _, due, _ in deliveries(plan.traffic, BATCH_ROWS):
                for begin in range(0, len(due.nth), rows):
                    part = np.arange(begin, min(begin + rows, len(due.nth)))
                    yield plan, Deliveries(due.events.take(part), due.nth[part])


def _payloads(lines: pl.Series) -> pa.Array:
    """Lines without their ends."""
    return pc.binary_slice(lines.to_arrow(compat_level=pl.CompatLevel.oldest()), 0, -1).cast(pa.binary())
