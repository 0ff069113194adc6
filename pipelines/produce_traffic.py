"""The payloads that `produce` sends: from files, generated traffic, or generated traffic with current times."""

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
    """The payloads of files of events (JSON lines or raw logs), file by file; null for a tombstone.

    Args:
        files: Sizes of the files by path.

    Raises:
        InputError: A file is damaged. The payloads before the damage have been yielded.
    """
    # Imported here, because no other source needs Beam
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
    """The events that `clickstream generate --format avro` writes, in order of arrival, including broken ones."""
    plan = _Plan(events, seed)
    broken = Broken.make(plan.traffic, plan.envelopes, plan.options.broken_share, from_bus=True)
    for _, due, horizon in deliveries(plan.traffic, BATCH_ROWS):
        texts, _, _ = broken.between(plan.envelopes, due, horizon)
        if len(texts):
            yield _payloads(texts)


def live_payloads(events: int, seed: int, rate: float | None, clock: Clock = time.time) -> Iterator[pa.Array]:
    """Generated traffic with current times: an event's time is the time of sending minus its generated delay.

    Delays are about a second, and for a few events up to hours.

    Args:
        events: Valid events; repeats and broken ones are sent in addition.
        seed: Determines the traffic except its times.
        rate: Payloads that are consumed per second; None for as fast as possible.
        clock: Seconds since 1970.
    """
    rows = BATCH_ROWS if rate is None else max(1, min(BATCH_ROWS, round(rate * _LIVE_SECONDS)))
    started: float | None = None
    sent = good = broken = 0
    for plan, due in _rounds(events, seed, rows):
        now = clock()
        started = now if started is None else started
        # a batch is requested once the previous one is sent; stamps its events with the times they will be sent at
        offsets = np.zeros(len(due.nth)) if rate is None else np.arange(sent, sent + len(due.nth)) / rate
        stamps = (np.maximum(started + offsets, now) * SECOND).astype(np.int64)
        lines = plan.envelopes.lines(replace(due.events, time=plan.times(due, stamps), arrival=stamps), due.nth)
        good += len(lines)
        broken_numbers = range(broken, int(good * plan.options.broken_share))
        broken += len(broken_numbers)
        broken_payloads = [plan.broken(number, int(now * SECOND)) for number in broken_numbers]
        payloads = pa.concat_arrays([_payloads(lines), pa.array(broken_payloads, pa.binary())])
        sent += len(payloads)
        yield payloads


class _Plan:
    """Traffic as `generate` writes it by default in the raw log's format."""

    def __init__(self, events: int, seed: int) -> None:
        self.options = GenerateOptions(events=events, out=Path(), seed=seed, format="avro")
        self.traffic = self.options.traffic()
        self.envelopes = Envelopes(self.traffic)
        self._times = np.zeros(events, np.int64)

    def times(self, due: Deliveries, stamps: Ints) -> Ints:
        """The events' times if they are sent at `stamps`; a repeat keeps the time of its first delivery."""
        first = due.nth == 0
        delays = due.events.arrival - due.events.time
        self._times[due.events.number[first]] = (stamps - delays)[first]
        return self._times[due.events.number]

    def broken(self, number: int, micros: int) -> bytes | None:
        """The payload of a broken event, by its number and time of sending."""
        devices = self.envelopes.device_ids
        return broken_line(
            number, envelope_to_break(number, devices[number % len(devices)], micros), from_bus=True
        ).payload


def _rounds(events: int, seed: int, rows: int) -> Iterator[tuple[_Plan, Deliveries]]:
    """Traffic in rounds, which bounds memory; each round is planned while the previous one is sent."""
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
    """Lines without their line ends."""
    return pc.binary_slice(lines.to_arrow(compat_level=pl.CompatLevel.oldest()), 0, -1).cast(pa.binary())
