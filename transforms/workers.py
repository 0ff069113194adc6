"""Which steps share a worker: a process, with an interpreter's lock and a memory of its own."""

from apache_beam.transforms.resources import ResourceHint


class WorkerHint(ResourceHint):
    """Names the worker of a step, for ``with_resource_hints``; steps without the hint share one more.

    To Beam steps of other hints are of another environment, and Flink's runner starts a process for each. What goes
    from one to the other goes through the runner; what a process alone may have, such as an open RocksDB, all steps of
    that name share.
    """

    urn = "clickstream:worker:v1"


WORKER = "worker"
"""The hint's name."""

ResourceHint.register_resource_hint(WORKER, WorkerHint)
