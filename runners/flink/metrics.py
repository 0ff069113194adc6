"""A running job's counters and gauges, read from the cluster: Beam reports them only when a job has ended."""

import time
from collections import defaultdict
from urllib.parse import quote

from runners.flink.rest import FlinkRest
from runners.services.processes import POLL_SECONDS
from transforms.metrics import NAMESPACE

FIRST_SECONDS = 5.0
_MARK = f".{NAMESPACE}_"


def live_metrics(rest: FlinkRest, job: str) -> dict[str, int]:
    """A running job's metrics by name: the sum over its subtasks, for the current attempt.

    A cluster collects metrics only once they have been requested, and the first answers lack them: so the request is
    repeated for a while. Gauges and distributions have no sum over steps: a gauge is given by its maximum, and
    distributions are left out.

    Raises:
        ServiceError: The cluster does not answer.
    """
    paths = [f"/jobs/{job}/vertices/{v['id']}/subtasks/metrics" for v in rest.get(f"/jobs/{job}")["vertices"]]
    deadline = time.monotonic() + FIRST_SECONDS
    while not any(rest.get(path) for path in paths) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    found: dict[str, int] = defaultdict(int)
    for path in paths:
        names = [metric["id"] for metric in rest.get(path) if _MARK in metric["id"]]
        if names:
            for value in rest.get(f"{path}?agg=sum&get={quote(','.join(names))}"):
                found[value["id"].rpartition(_MARK)[2]] += int(value["sum"])
    return dict(found)
