"""The source of `run`: files, a Kafka topic or a Pub/Sub subscription."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.options import Problems, known
from schemas.durations import parse_duration
from schemas.errors import OptionError
from transforms.sources.kafka_positions import parse_start, parse_until

if TYPE_CHECKING:
    import apache_beam as beam

_LEAST_SHARDS, _MOST_SHARDS = 16, 1024
_SHARDS_A_SUBTASK = 4
"""Several, so that hashing gives each subtask about the same number of shards."""
_SHARD_BYTES = 32 << 20
"""Input bytes per shard, as stored (plain or compressed)."""


class Source(NamedTuple):
    """A source of the graph, and the bytes it will read, None where unknown."""

    transform: "beam.PTransform"
    input_bytes: int | None


@dataclass(frozen=True)
class SourceArguments:
    """The options that name the input, unparsed; `pipelines.commands.run_arguments` documents each."""

    input: list[str] | None
    kafka: str | None
    topic: str | None
    start: str
    until: str | None
    max_disorder: str
    idle_timeout: str
    kafka_config: Path | None
    kafka_group: str | None
    pubsub: str | None
    pubsub_id_attribute: str | None
    pubsub_timestamp_attribute: str | None
    archive: str | None

    @property
    def endless(self) -> bool:
        """Whether the run reads the input until it is stopped."""
        return bool(self.pubsub) or (bool(self.kafka) and self.until is None)

    def default_shards(self, input_bytes: int | None, subtasks: int | None) -> int:
        """The number of shards to use unless the user names one.

        The sessions of a shard are computed in one call, so a larger input gets more shards. A followed topic gets
        only as many as keep all subtasks busy, if their number is known: each shard costs every bundle some
        milliseconds, and several shards arrive as several bundles.
        """
        if self.endless and subtasks:
            return 1 if subtasks == 1 else _SHARDS_A_SUBTASK * subtasks
        return min(max(_LEAST_SHARDS, (input_bytes or 0) // _SHARD_BYTES), _MOST_SHARDS)

    def check(self, problems: Problems) -> None:
        """Note the problems that show without opening the input."""
        given = {"--input": self.input, "--kafka": self.kafka, "--pubsub": self.pubsub}
        named = [name for name, value in given.items() if value]
        problems.require(bool(named), "--input: name at least one file, folder or glob; or follow --kafka or --pubsub")
        problems.require(len(named) < 2, f"give one input, not {' and '.join(named)}")
        problems.require(bool(self.kafka) == bool(self.topic), "--kafka and --topic go together")
        problems.require(not (self.input and self.archive), "--archive is for a bus; files are their own archive")
        for bus, option, value in (
            ("--kafka", "--from", self.start != "earliest"),
            ("--kafka", "--until", self.until),
            ("--kafka", "--max-disorder", self.max_disorder != "1m"),
            ("--kafka", "--idle-timeout", self.idle_timeout != "30s"),
            ("--kafka", "--kafka-config", self.kafka_config),
            ("--kafka", "--kafka-group", self.kafka_group),
            ("--pubsub", "--pubsub-id-attribute", self.pubsub_id_attribute),
            ("--pubsub", "--pubsub-timestamp-attribute", self.pubsub_timestamp_attribute),
        ):
            problems.require(not value or bool(given[bus]), f"{option} goes with {bus}")
        problems.attempt("--from", lambda: parse_start(self.start))
        problems.attempt("--until", lambda: parse_until(self.until) if self.until else None)
        problems.attempt("--max-disorder", lambda: parse_duration(self.max_disorder))
        problems.attempt("--idle-timeout", lambda: parse_duration(self.idle_timeout))

    def open(self, problems: Problems, began: datetime, stores: Sequence[str]) -> Source | None:
        """The source, or None with the problem noted. Call it once `check` has found nothing.

        Args:
            problems: Collects the problems.
            began: When the run began.
            stores: Paths and URIs that the run writes to.
        """
        option, opened = self._opener(began, stores)
        return problems.attempt(option, opened)

    def _opener(self, began: datetime, stores: Sequence[str]) -> tuple[str, Callable[[], Source]]:
        if self.kafka:
            return "--kafka", self._kafka
        if self.pubsub:
            return "--pubsub", self._pubsub
        return "--input", lambda: self._files(began, stores)

    def _kafka(self) -> Source:
        from transforms.sources.read_kafka import ReadKafka

        source = ReadKafka(
            known(self.kafka),
            known(self.topic),
            parse_start(self.start),
            parse_until(self.until) if self.until else None,
            max_disorder=parse_duration(self.max_disorder),
            idle_timeout=parse_duration(self.idle_timeout),
            config=self.kafka_config,
            group=self.kafka_group,
        )
        source.check()
        return Source(source, None)

    def _pubsub(self) -> Source:
        from transforms.sources.read_pubsub import ReadPubSub

        source = ReadPubSub(
            known(self.pubsub),
            id_attribute=self.pubsub_id_attribute,
            timestamp_attribute=self.pubsub_timestamp_attribute,
        )
        return Source(source, None)

    def _files(self, began: datetime, stores: Sequence[str]) -> Source:
        from transforms.sources.read_files import ReadFiles, absolute, list_files

        files = list_files(known(self.input))
        for store in stores:
            folder = absolute(store).rstrip("/")
            own = next((path for path in files if path.startswith(f"{folder}/")), None)
            if own is not None:
                raise OptionError(f"{own} is of {store}, which this run writes to: keep events and stores apart")
        return Source(ReadFiles(files, began), sum(files.values()))
