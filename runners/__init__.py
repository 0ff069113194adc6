"""Beam runners and their options: direct, Flink and Dataflow."""
