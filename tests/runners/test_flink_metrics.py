"""Counters of a running job, as a cluster's REST interface gives them."""

from typing import Any

from runners.flink import FlinkRest
from runners.flink.metrics import live_metrics


class Cluster(FlinkRest):
    """Two steps that count; no figure is there until it has been asked for some times."""

    asked = 0

    def get(self, path: str) -> Any:
        if path == "/jobs/j":
            return {"vertices": [{"id": "read"}, {"id": "write"}]}
        step = path.split("/")[4]
        name = f"0.{step}.clickstream_rows"
        if "agg=sum" in path:
            return [{"id": name, "sum": {"read": 7.0, "write": 5.0}[step]}]
        Cluster.asked += 1
        return [{"id": "numRecordsIn"}, {"id": name}] if Cluster.asked > 5 else []


def test_cluster_that_has_not_looked_yet_is_asked_again_and_steps_add_up() -> None:
    assert live_metrics(Cluster("127.0.0.1:1"), "j") == {"rows": 12}
