"""Client for a Flink cluster's REST interface."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any

from runners.services.processes import POLL_SECONDS
from schemas.errors import ServiceError

TIMEOUT_SECONDS = 10.0
ENDED = frozenset({"FINISHED", "FAILED", "CANCELED"})


@dataclass(frozen=True)
class FlinkRest:
    """The REST interface of a cluster, standalone or embedded.

    Attributes:
        address: ``host:port``.
    """

    address: str

    def get(self, path: str) -> Any:
        """The decoded answer to a GET request.

        Raises:
            ServiceError: The cluster does not answer, or answers with an error.
        """
        return self._ask("GET", path)

    def job(self, name: str) -> str | None:
        """The id of the newest job of this name; None if there is none."""
        jobs = [job for job in self.get("/jobs/overview")["jobs"] if job["name"] == name]
        return max(jobs, key=lambda job: job["start-time"])["jid"] if jobs else None

    def state(self, job: str) -> str:
        """A job's state as Flink names it, such as ``RUNNING`` or ``RESTARTING``."""
        return str(self.get(f"/jobs/{job}")["state"])

    def cancel(self, job: str) -> None:
        """Request the cancellation of a job, without waiting for it."""
        self._ask("PATCH", f"/jobs/{job}?mode=cancel")

    def savepoint(self, job: str, folder: str, *, cancel: bool = False, seconds: float = 60.0) -> str:
        """Take a savepoint of a running job.

        Args:
            job: The job's id.
            folder: Target folder, a path or URI that the cluster can write.
            cancel: Whether to cancel the job with the savepoint. If the job goes on, the lake gets ahead of the
                savepoint.
            seconds: How long to wait for the savepoint.

        Returns:
            The savepoint's URI, for `FlinkOptions.resume_from`.

        Raises:
            ServiceError: The savepoint failed or did not complete in time.
        """
        request = {"target-directory": folder, "cancel-job": cancel}
        return self._triggered(job, self._ask("POST", f"/jobs/{job}/savepoints", request), seconds)

    def _triggered(self, job: str, accepted: dict[str, str], seconds: float) -> str:
        trigger = accepted["request-id"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.get(f"/jobs/{job}/savepoints/{trigger}")
            if answer["status"]["id"] == "COMPLETED":
                operation = answer["operation"]
                if "location" in operation:
                    return str(operation["location"])
                reason = operation.get("failure-cause", {}).get("class", "unknown")
                raise ServiceError(f"the savepoint of job {job} failed: {reason}")
            time.sleep(POLL_SECONDS)
        raise ServiceError(f"the savepoint of job {job} was not done within {seconds:.0f} s")

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(f"no Flink cluster answers at {self.address}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise ServiceError(f"the Flink cluster at {self.address} refuses {path}: {answer.status} {answer.reason}")
        return json.loads(content) if content else None
