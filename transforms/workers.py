"""Assigns steps to workers. A worker is a process, with a GIL and memory of its own."""

import apache_beam as beam
from apache_beam.transforms.resources import ResourceHint

_HINT = "worker"


class _WorkerHint(ResourceHint):
    """A resource hint with the name of a step's worker.

    Beam puts steps with different hints into different environments; Flink's runner starts a process for each.
    """

    urn = "clickstream:worker:v1"


ResourceHint.register_resource_hint(_HINT, _WorkerHint)


def in_worker(step: beam.PTransform, worker: str | None) -> beam.PTransform:
    """Run a step in the worker of that name, with the other steps of the name; None for the worker without a name.

    Elements between steps of different workers pass through the runner. A resource that only one process may open, such
    as a RocksDB, must be used in one worker only.
    """
    return step.with_resource_hints(**{_HINT: worker}) if worker else step
