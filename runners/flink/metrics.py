"""A job's counters and gauges while it runs, read off the cluster: Beam hands them out only when a job has ended."""

from collections import defaultdict

from runners.flink.rest import FlinkRest
from transforms.metrics import NAMESPACE

_MARK = f".{NAMESPACE}_"


def live_metrics(rest: FlinkRest, job: str) -> dict[str, int]:
    """What a running job has counted, by name; a gauge that several readers set is the greatest of theirs.

    Counters start anew when the job restarts: they are of the attempt that runs.

    Raises:
        ServiceError: The cluster does not answer.
    """
    found: dict[str, int] = defaultdict(int)
    for vertex in rest.get(f"/jobs/{job}")["vertices"]:
        path = f"/jobs/{job}/vertices/{vertex['id']}/subtasks/metrics"
        ours = {metric["id"] for metric in rest.get(path) if _MARK in metric["id"]}
        # A step's name may hold commas, which part the names that are asked for
        for name in sorted(ours):
            values = rest.get(f"{path}?get={_quoted(name)}&agg=sum,max")
            for value in values:
                short = name.rpartition(_MARK)[2]
                if short in GAUGES:
                    found[short] = max(found[short], int(value["max"]))
                else:
                    found[short] += int(value["sum"])
    return dict(found)
