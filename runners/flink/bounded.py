"""The end of a job whose input ends.

With checkpoints on, Flink keeps a source alive that has given all it has, and the job with it. To shut such sources
down (Beam's ``shutdown_sources_after_idle_ms``) is no way out: a step that reads piece by piece, as one over a bus
does, then never gets its next piece, and the job hangs with most of its input unread.
"""

from pathlib import Path

from runners.flink.rest import FlinkRest

_END_OF_TIME = 9_223_372_036_854_775
"""Milliseconds: Beam's last moment, and less than Flink's."""


class Drain:
    """Finds out whether a job has nothing left to do, and ends it then.

    It has nothing left when the watermark of every step is at the end of time, and a checkpoint that was begun after
    that is complete: steps that require stable input get the last of it with a checkpoint.

    Args:
        rest: The job's cluster.
        savepoints: Folder for the savepoint with which Flink ends a job, which nobody needs afterwards.
    """

    def __init__(self, rest: FlinkRest, savepoints: str | Path) -> None:
        self._rest, self._savepoints = rest, savepoints
        self._checkpoints: int | None = None

    def end_if_done(self, job: str) -> bool:
        """Look at the job, and end it if nothing is left; to be asked again while the answer is no.

        Raises:
            ServiceError: The cluster does not answer, or cannot end it.
        """
        if not self._is_at_end_of_time(job):
            self._checkpoints = None
            return False
        completed = int(self._rest.get(f"/jobs/{job}/checkpoints")["counts"]["completed"])
        if self._checkpoints is None:
            self._checkpoints = completed
        # the first of the two may have begun before
        if completed < self._checkpoints + 2:
            return False
        self._rest.stop(job, str(self._savepoints))
        return True

    def _is_at_end_of_time(self, job: str) -> bool:
        described = self._rest.get(f"/jobs/{job}")
        if described["state"] != "RUNNING":
            return False
        fed = {node["id"] for node in described["plan"]["nodes"] if node.get("inputs")}
        for step in described["vertices"]:
            if step["id"] not in fed:
                continue
            marks = self._rest.get(f"/jobs/{job}/vertices/{step['id']}/watermarks")
            if len(marks) < step["parallelism"] or any(int(mark["value"]) < _END_OF_TIME for mark in marks):
                return False
        return True
