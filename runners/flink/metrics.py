"""A job's counters and gauges while it runs, read off the cluster: Beam hands them out only when a job has ended."""

import time
from collections import defaultdict
from urllib.parse import quote

from runners.flink.rest import FlinkRest
from runners.services.processes import POLL_SECONDS
from transforms.metrics import NAMESPACE

FIRST_SECONDS = 5.0
_MARK = f".{NAMESPACE}_"


def live_metrics(rest: FlinkRest, job: str) -> dict[str, int]:
    """What a running job has counted, by name: the sum over its subtasks, of the attempt that runs.

    A cluster looks for figures when it is first asked, and answers without them: it is asked again for a while. Gauges
    and distributions have no sum over steps: of a gauge the greatest counts, of a distribution nothing is here.

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
