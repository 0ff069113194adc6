"""Dataflow: its options, its Flex Template, and what can be checked of a job without a cloud account."""

from runners.dataflow.options import DataflowOptions

__all__ = ["DataflowOptions"]
