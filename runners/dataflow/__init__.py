"""Dataflow: options, Flex Template, and checks of a job that need no cloud account."""

from runners.dataflow.options import DataflowOptions
from runners.dataflow.runner import dataflow_runner

__all__ = ["DataflowOptions", "dataflow_runner"]
