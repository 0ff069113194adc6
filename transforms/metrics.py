"""Counters of the graph, all in one namespace; see docs/metrics.md for what each means."""

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricResults

NAMESPACE = "clickstream"


def count(name: str, amount: int = 1) -> None:
    """Add to a counter; nothing is sent for zero."""
    if amount:
        Metrics.counter(NAMESPACE, name).inc(amount)


def read_counters(results: MetricResults) -> dict[str, int]:
    """Every counter of a finished (or attempted) run, by name."""
    found = results.query()["counters"]
    return {c.key.metric.name: c.result for c in found if c.key.metric.namespace == NAMESPACE}
