"""A job's counters and gauges while it runs, read off the cluster: Beam hands them out only when a job has ended."""

from collections import defaultdict
from urllib.parse import quote

from runners.flink.rest import FlinkRest
from transforms.metrics import NAMESPACE

_MARK = f".{NAMESPACE}_"


def live_metrics(rest: FlinkRest, job: str) -> dict[str, int]:
    """What a running job has counted, by name: the sum over its subtasks, of the attempt that runs.

    Gauges and distributions have no sum over steps: of a gauge the greatest counts, of a distribution nothing is here.

    Raises:
        ServiceError: The cluster does not answer.
    """
    found: dict[str, int] = defaultdict(int)
    for vertex in rest.get(f"/jobs/{job}")["vertices"]:
        path = f"/jobs/{job}/vertices/{vertex['id']}/subtasks/metrics"
        names = [metric["id"] for metric in rest.get(path) if _MARK in metric["id"]]
        if names:
            for value in rest.get(f"{path}?agg=sum&get={quote(','.join(names))}"):
                found[value["id"].rpartition(_MARK)[2]] += int(value["sum"])
    return dict(found)
