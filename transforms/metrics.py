"""Counters and distributions of the graph, in one namespace. docs/metrics.md describes each and where to find it."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricResults

NAMESPACE = "clickstream"

SEEN_HERE: Counter[str] = Counter()
"""Live counts of this process, for the progress bar of a runner that works in this process. A retried bundle counts
twice here, but never in `read_counters`."""


def count(name: str, amount: int = 1) -> None:
    """Add to a counter; nothing is sent for zero."""
    if amount:
        Metrics.counter(NAMESPACE, name).inc(amount)
        SEEN_HERE[name] += amount


def count_dead_letters(letters: pa.Table) -> None:
    """Count DEAD_LETTER rows by their reason."""
    for reason in pc.value_counts(letters["reason"]).to_pylist():
        count(f"dead_{reason['values']}", reason["counts"])


def observe(name: str, value: int) -> None:
    """Add a value to a distribution (count, sum, minimum and maximum)."""
    Metrics.distribution(NAMESPACE, name).update(value)


def read_counters(results: MetricResults) -> dict[str, int]:
    """All counters of a run by name, committed or else attempted, each summed over the steps that use the name."""
    totals: Counter[str] = Counter()
    for counter in results.query()["counters"]:
        if counter.key.metric.namespace == NAMESPACE:
            totals[counter.key.metric.name] += counter.result
    return dict(totals)
