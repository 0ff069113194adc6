"""Writes a shop's click events to files in order of arrival, together with the expected results."""

import gzip
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self, cast

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.deliveries import Broken, deliveries
from pipelines.envelopes import Envelopes
from pipelines.traffic import EVENTS_PER_DEVICE_DAY, Ints, Traffic
from schemas.durations import SECOND
from schemas.errors import OptionError
from schemas.raw_log import RAW_LOG_AVRO, RAW_LOG_CODEC
from schemas.records import TIMESTAMP

FORMATS = ("jsonl", "jsonl.gz", "avro")
TRUTH_FOLDER = "_truth"
PARTITIONS = 4
"""Partitions of the simulated bus, for the Avro format."""
_SLICE = 100_000


@dataclass(frozen=True)
class GenerateOptions:
    """The options of a generation.

    Attributes:
        events: Valid events, each counted once; repeats and broken lines are written in addition.
        out: Folder to write to; created if missing, rejected if not empty.
        devices: Devices that may visit; None for one per sixty events, or more if the days could not hold the events.
        days: Length of the period.
        start: Start of the period; a time without a zone is UTC.
        late_share: Share of events that arrive one minute to six hours after they happened.
        duplicate_share: Share of events that arrive more than once.
        broken_share: Broken lines to write, as a share of `events`.
        seed: The same seed and options give the same bytes.
        format: `jsonl`, `jsonl.gz`, or `avro`, the raw log's format with arrival times.
        events_per_file: Lines in each file except the last.

    Raises:
        OptionError: Options are invalid; the message lists all problems.
    """

    events: int
    out: Path
    devices: int | None = None
    days: int = 7
    start: datetime = datetime(2026, 4, 12, tzinfo=UTC)
    late_share: float = 0.02
    duplicate_share: float = 0.01
    broken_share: float = 0.001
    seed: int = 1
    format: str = "jsonl"
    events_per_file: int = 250_000

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, not {value}"
            for name, value in (("events", self.events), ("days", self.days), ("devices", self.device_count),
                                ("events per file", self.events_per_file))
            if value < 1
        ]  # fmt: skip
        problems += [
            f"{name} must be from 0 to 1, not {value}"
            for name, value in (("late share", self.late_share), ("duplicate share", self.duplicate_share),
                                ("broken share", self.broken_share))
            if not 0 <= value <= 1
        ]  # fmt: skip
        if self.format not in FORMATS:
            problems.append(f"format must be one of {', '.join(FORMATS)}, not {self.format!r}")
        most = self.device_count * self.days * EVENTS_PER_DEVICE_DAY
        if not problems and self.events > most:
            problems.append(
                f"{self.events} events are too many: {self.device_count} devices make at most {most} "
                f"in {self.days} days"
            )
        if problems:
            raise OptionError("; ".join(problems))

    @property
    def device_count(self) -> int:
        """The number of devices that may visit."""
        if self.devices is not None:
            return self.devices
        return max(1, self.events // 60, -(-self.events // (max(self.days, 1) * EVENTS_PER_DEVICE_DAY)))

    @property
    def start_micros(self) -> int:
        """The start of the period, microseconds since 1970 UTC."""
        start = self.start if self.start.tzinfo else self.start.replace(tzinfo=UTC)
        return int(start.timestamp()) * SECOND

    def traffic(self) -> Traffic:
        """The traffic to generate."""
        return Traffic(
            events=self.events, devices=self.device_count, days=self.days, start=self.start_micros,
            late_share=self.late_share, duplicate_share=self.duplicate_share, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class GenerateSummary:
    """The result of a generation.

    Attributes:
        events: Valid events, each counted once.
        lines: Lines (or records) in all files.
        repeats: Lines that repeat an event.
        broken: Broken lines.
        devices: Devices that visited.
        sessions: Sessions under the default rules.
        files: The files of events, in order of arrival.
        truth: The folder with events.parquet, sessions.parquet and dead_letters.parquet.
        size: Bytes of the files of events.
        seconds: Wall time.
    """

    events: int
    lines: int
    repeats: int
    broken: int
    devices: int
    sessions: int
    files: list[Path]
    truth: Path
    size: int
    seconds: float


def generate(options: GenerateOptions) -> GenerateSummary:
    """Generate events and their expected results.

    Events are made in slices of time and written in order of arrival, so that memory does not grow with their
    number. The plan takes about 100 bytes a session.

    Raises:
        OptionError: The folder cannot be created, or is not empty.
    """
    began = time.monotonic()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{options.out} cannot be made: {error.strerror}") from error
    if any(options.out.iterdir()):
        raise OptionError(f"{options.out} is not empty: name a new folder, or empty this one")
    truth = options.out / TRUTH_FOLDER
    truth.mkdir()
    traffic = options.traffic()
    envelopes = Envelopes(traffic)
    _write_sessions(traffic, envelopes, truth / "sessions.parquet")
    broken = Broken.make(traffic, envelopes, options.broken_share, from_bus=options.format == "avro")
    pq.write_table(broken.truth(), truth / "dead_letters.parquet", compression="zstd")

    sink_type = _AvroFiles if options.format == "avro" else _LineFiles
    lines = 0
    with sink_type(options) as sink, _EventTruth(truth / "events.parquet") as event_truth:
        for events, due, horizon in deliveries(traffic, _SLICE):
            event_truth.write(envelopes.truth(events))
            texts, arrivals, devices = broken.between(envelopes, due, horizon)
            sink.write(texts, arrivals, devices)
            lines += len(texts)
    return GenerateSummary(
        events=options.events,
        lines=lines,
        repeats=lines - options.events - len(broken.lines),
        broken=len(broken.lines),
        devices=len(np.unique(traffic.sessions.device)),
        sessions=len(traffic.sessions),
        files=sink.paths,
        truth=truth,
        size=sum(path.stat().st_size for path in sink.paths),
        seconds=time.monotonic() - began,
    )


class _EventTruth:
    """Writes events.parquet as the events are made, in order of sessions rather than of arrival."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            repetitive = [name for name in table.column_names if name not in ("event_id", "event_time")]
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd", use_dictionary=repetitive)
        self._writer.write_table(table)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


class _Files(ABC):
    """Numbered files of `events_per_file` lines."""

    def __init__(self, options: GenerateOptions) -> None:
        self._options = options
        self._room = 0
        self.paths: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def write(self, lines: pl.Series, arrivals: Ints, devices: Ints) -> None:
        """Append lines, each with its line end, to the files."""
        begin = 0
        while begin < len(lines):
            if self._room == 0:
                self.close()
                self.paths.append(self._options.out / f"part-{len(self.paths):05d}.{self._options.format}")
                self.open(self.paths[-1])
                self._room = self._options.events_per_file
            end = min(begin + self._room, len(lines))
            self.append(lines[begin:end], arrivals[begin:end], devices[begin:end])
            self._room -= end - begin
            begin = end

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def open(self, path: Path) -> None:
        """Start a file."""

    @abstractmethod
    def append(self, lines: pl.Series, arrivals: Ints, devices: Ints) -> None:
        """Append to the current file."""

    @abstractmethod
    def close(self) -> None:
        """Finish the current file, if any."""


class _LineFiles(_Files):
    """JSON lines, plain or gzipped."""

    _file: BinaryIO | None = None

    def open(self, path: Path) -> None:
        # no timestamp in the gzip header, so that the same seed gives the same bytes
        zipped = self._options.format.endswith(".gz")
        opened = gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) if zipped else path.open("wb")
        self._file = cast(BinaryIO, opened)

    def append(self, lines: pl.Series, arrivals: Ints, devices: Ints) -> None:  # noqa: ARG002
        assert self._file is not None
        # the lines include their line ends, so their buffer is the text of the file
        array = lines.to_arrow(compat_level=pl.CompatLevel.oldest())
        offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
        self._file.write(memoryview(array.buffers()[2])[offsets[0] : offsets[-1]])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _AvroFiles(_Files):
    """The raw log's format: records with partition, offset and arrival time."""

    _writer: "fastavro.write.Writer | None" = None

    def __init__(self, options: GenerateOptions) -> None:
        super().__init__(options)
        self._next_offset = [0] * PARTITIONS

    def open(self, path: Path) -> None:
        self._file = path.open("wb")
        # fastavro's sync marker is random unless given
        marker = len(self.paths).to_bytes(16, "big")
        self._writer = fastavro.write.Writer(self._file, RAW_LOG_AVRO, codec=RAW_LOG_CODEC, sync_marker=marker)

    def append(self, lines: pl.Series, arrivals: Ints, devices: Ints) -> None:
        assert self._writer is not None
        partitions = devices % PARTITIONS
        for line, arrival, partition in zip(lines, arrivals.tolist(), partitions.tolist(), strict=True):
            offset = self._next_offset[partition]
            self._next_offset[partition] = offset + 1
            self._writer.write({
                "payload": None if line is None else line[:-1], "source": "clicks", "partition": partition,
                "offset": offset, "arrival_time": arrival,
            })  # fmt: skip

    def close(self) -> None:
        if self._writer is not None:
            self._writer.flush()
            self._file.close()


def _write_sessions(traffic: Traffic, envelopes: Envelopes, path: Path) -> None:
    """sessions.parquet: the sessions as they were laid out."""
    sessions = traffic.sessions
    device_ids = envelopes.device_ids.gather(sessions.device)
    table = pa.table({
        "device_id": device_ids.to_arrow(compat_level=pl.CompatLevel.oldest()),
        "session_start": pa.array(sessions.start).cast(TIMESTAMP),
        "session_end": pa.array(sessions.end).cast(TIMESTAMP),
        "event_count": pa.array(sessions.size),
    })  # fmt: skip
    pq.write_table(table, path, compression="zstd")
