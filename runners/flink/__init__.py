"""Flink as a runner: embedded or a cluster."""

from runners.flink.checkpoints import newest_checkpoint
from runners.flink.options import FlinkOptions
from runners.flink.rest import FlinkRest
from runners.flink.runner import FlinkRunner, JobFailedError, flink_runner

__all__ = ["FlinkOptions", "FlinkRest", "FlinkRunner", "JobFailedError", "flink_runner", "newest_checkpoint"]
