"""The Flink runner, on an embedded or a standalone cluster."""

from runners.flink.checkpoints import check_shards, newest_checkpoint, note_shards, noted_shards
from runners.flink.options import FlinkOptions
from runners.flink.rest import FlinkRest
from runners.flink.runner import FlinkRunner, JobFailedError, flink_runner

__all__ = [
    "FlinkOptions",
    "FlinkRest",
    "FlinkRunner",
    "JobFailedError",
    "check_shards",
    "flink_runner",
    "newest_checkpoint",
    "note_shards",
    "noted_shards",
]
