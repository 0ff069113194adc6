"""What `run` makes of the options that name its input."""

import pytest

from pipelines.commands.run_source import SourceArguments


def _source(*, kafka: str | None = None, until: str | None = None) -> SourceArguments:
    return SourceArguments(
        input=None if kafka else ["events"],
        kafka=kafka,
        topic="clicks" if kafka else None,
        start="earliest",
        until=until,
        max_disorder="1m",
        idle_timeout="30s",
        kafka_config=None,
        kafka_group=None,
        pubsub=None,
        pubsub_id_attribute=None,
        pubsub_timestamp_attribute=None,
        archive=None,
    )


@pytest.mark.parametrize(
    ("input_bytes", "shards"), [(None, 16), (0, 16), (512 << 20, 16), (2 << 30, 64), (1 << 50, 1024)]
)
def test_larger_input_has_more_shards_within_bounds(input_bytes: int | None, shards: int) -> None:
    assert _source().default_shards(input_bytes, None) == shards


@pytest.mark.parametrize(("subtasks", "shards"), [(None, 16), (1, 1), (2, 8), (8, 32)])
def test_topic_that_is_followed_has_few_shards(subtasks: int | None, shards: int) -> None:
    assert _source(kafka="localhost:9092").default_shards(None, subtasks) == shards


def test_topic_that_ends_has_as_many_shards_as_files() -> None:
    assert _source(kafka="localhost:9092", until="now").default_shards(None, 1) == 16
