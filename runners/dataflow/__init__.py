"""Dataflow: its options, its Flex Template, and what can be checked of a job without a cloud account."""

from runners.dataflow.options import DataflowOptions
from runners.dataflow.runner import dataflow_runner

__all__ = ["DataflowOptions", "dataflow_runner"]
