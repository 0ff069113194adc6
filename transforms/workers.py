"""Which steps share a worker: a process, with an interpreter's lock and a memory of its own."""

import apache_beam as beam
from apache_beam.transforms.resources import ResourceHint

_HINT = "worker"


class _WorkerHint(ResourceHint):
    """Names the worker of a step.

    To Beam steps of other hints are of another environment, and Flink's runner starts a process for each.
    """

    urn = "clickstream:worker:v1"


ResourceHint.register_resource_hint(_HINT, _WorkerHint)


def in_worker(step: beam.PTransform, worker: str | None) -> beam.PTransform:
    """A step that shares a worker with the others of that name; None: with those of none.

    What goes on to steps of another worker passes through the runner. What a process alone may have, such as a RocksDB
    that is open, has to be in one of them.
    """
    return step.with_resource_hints(**{_HINT: worker}) if worker else step
