"""Where the events of `run` come from: files, a topic of Kafka, or a subscription of Pub/Sub."""

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
"""So that a hash gives each about as many."""
_SHARD_BYTES = 32 << 20
"""Of the input as it lies, plain or compressed."""


class Source(NamedTuple):
    """A source of the graph, and how many bytes it will read where that is known."""

    transform: "beam.PTransform"
    input_bytes: int | None


@dataclass(frozen=True)
class SourceArguments:
    """The options that name the input, as they were written; `pipelines.commands.run_arguments` tells of each."""

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
        """Whether the input is followed until the run is stopped."""
        return bool(self.pubsub) or (bool(self.kafka) and self.until is None)

    def default_shards(self, input_bytes: int | None, subtasks: int | None) -> int:
        """A shard's sessions are worked out at once, so there are more of them the larger the input is.

        Of a topic that is followed there are as few as occupy all subtasks, where their number is known: each costs
        every bundle some milliseconds, and several of them arrive as several bundles.
        """
        if self.endless and subtasks:
            return 1 if subtasks == 1 else _SHARDS_A_SUBTASK * subtasks
        return min(max(_LEAST_SHARDS, (input_bytes or 0) // _SHARD_BYTES), _MOST_SHARDS)

    def check(self, problems: Problems) -> None:
        """Note what can be said of the options without a look at the input."""
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
        """The source, once `check` has found nothing; or None, and what is wrong with the input is noted.

        Args:
            problems: Takes the notes.
            began: When the run began.
            stores: What the run writes to: paths and URIs.
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
