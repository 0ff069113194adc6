"""A standalone Flink cluster on this machine, with a JobManager and a TaskManager, for trials and tests."""

import http.client
import json
import uuid
from pathlib import Path

from runners.services.home import locked, state_home
from runners.services.jars import JAVA_17, QUICK_COMPILER, STEADY_HEAP, class_path, java, resolve_jars
from runners.services.processes import DetachedProcess, free_port, listens
from schemas.errors import ServiceError

POM = Path(__file__).with_name("flink.pom.xml")
START_SECONDS = 60.0
NETWORK = {
    "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
    # Enough 32 kB buffers for a bundle of the source: the next is read while later steps process the previous one
    "taskmanager.network.memory.max-overdraft-buffers-per-gate": "1024",
}
"""Settings of a local cluster's network buffers."""
_SETTINGS = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: 127.0.0.1
rest.address: 127.0.0.1
rest.port: {port}
rest.bind-address: 127.0.0.1
rest.bind-port: {port}
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: 4
taskmanager.cpu.cores: 2
# The sizes that Flink's start scripts would compute; they match the TaskManager's Java options
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.task.heap.size: 512m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.managed.size: 128m
taskmanager.memory.jvm-metaspace.size: 512m
taskmanager.memory.jvm-overhead.min: 128m
taskmanager.memory.jvm-overhead.max: 128m
io.tmp.dirs: {folder}/tmp
# Greatest age of metrics in REST answers, in milliseconds; by default ten seconds
metrics.fetcher.update-interval: 1000
# Detect a killed TaskManager within seconds
heartbeat.interval: 1000
heartbeat.timeout: 20000
"""
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_TASK_MANAGER_MEMORY = ["-Xmx640m", "-XX:MaxDirectMemorySize=256m", "-XX:MaxMetaspaceSize=512m"]


class FlinkCluster:
    """A cluster whose settings, logs and process files are below a folder. Several can run side by side.

    Args:
        home: The folder; by default the user's state folder.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.folder = (home or state_home()).absolute() / "flink"
        self.job_manager = DetachedProcess("flink-jobmanager", self.folder)
        self.task_manager = DetachedProcess("flink-taskmanager", self.folder)

    @property
    def address(self) -> str:
        """The REST address, or the last one if the cluster is not running."""
        return str(self._recorded().get("address"))

    def up(self, port: int | None = None) -> str:
        """Start the parts of the cluster that are not running, and wait until a TaskManager offers its slots.

        Args:
            port: REST port; by default the last one used, or else any free port.

        Returns:
            The REST address, for ``--flink-master``.

        Raises:
            ServiceError: The cluster cannot start, or runs on a port other than the requested one.
        """
        jars = resolve_jars(POM)
        with locked(self.folder):
            if self.job_manager.pid is None:
                self.task_manager.stop()  # left from a JobManager that is gone
                self._start_job_manager(jars, port)
            if port is not None and not self.address.endswith(f":{port}"):
                raise ServiceError(f"flink runs at {self.address}: take it down first to have it on port {port}")
            self.job_manager.wait_until(lambda: self._task_managers() is not None, START_SECONDS)
            if self.task_manager.pid is None:
                self._start_task_manager(jars)
            name = self._recorded()["task_manager"]
            self.task_manager.wait_until(lambda: name in (self._task_managers() or []), START_SECONDS)
            return self.address

    def down(self) -> None:
        """Stop the cluster and its jobs."""
        with locked(self.folder):
            self.task_manager.stop()
            self.job_manager.stop()

    def status(self) -> str | None:
        """The REST address if both processes run and the TaskManager has joined; otherwise None."""
        if self.job_manager.pid is None or self.task_manager.pid is None:
            return None
        return self.address if self._recorded()["task_manager"] in (self._task_managers() or []) else None

    def _start_job_manager(self, jars: list[Path], port: int | None) -> None:
        last = self._recorded().get("address")
        port = port or (int(last.rpartition(":")[2]) if last else free_port())
        if listens(f"127.0.0.1:{port}"):
            raise ServiceError(f"flink cannot have port {port}: another program listens there")
        (self.folder / "tmp").mkdir(exist_ok=True)
        settings = _SETTINGS.format(port=port, rpc=free_port(), folder=self.folder)
        settings += "".join(f"{name}: {value}\n" for name, value in NETWORK.items())
        (self.folder / "flink-conf.yaml").write_text(settings, encoding="utf-8")
        self._record(address=f"127.0.0.1:{port}")
        memory = ["-Xmx512m", "-XX:MaxMetaspaceSize=512m"]
        self.job_manager.start(self._java(self.job_manager, jars, memory, _JOB_MANAGER))

    def _start_task_manager(self, jars: list[Path]) -> None:
        # A unique name, because the JobManager may still list a dead TaskManager for a while
        name = f"taskmanager-{uuid.uuid4().hex[:8]}"
        self._record(address=self.address, task_manager=name)
        command = self._java(self.task_manager, jars, _TASK_MANAGER_MEMORY, _TASK_MANAGER)
        self.task_manager.start([*command, "-D", f"taskmanager.resource-id={name}"])

    def _java(self, process: DetachedProcess, jars: list[Path], memory: list[str], program: str) -> list[str]:
        return [
            *(java(), *memory, STEADY_HEAP, QUICK_COMPILER, "-Dfile.encoding=UTF-8", *JAVA_17),
            f"-Djava.io.tmpdir={process.empty_tmpdir()}",
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
            *("-cp", class_path(jars), program, "--configDir", str(self.folder)),
        ]

    def _task_managers(self) -> list[str] | None:
        """Names of the TaskManagers that have joined; None if the JobManager does not answer."""
        connection = http.client.HTTPConnection(self.address, timeout=2.0)
        try:
            connection.request("GET", "/taskmanagers")
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:  # it answers before it is ready
                return None
            return [manager["id"] for manager in json.loads(answer.read())["taskmanagers"]]
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _recorded(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / "cluster.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def _record(self, **values: str) -> None:
        (self.folder / "cluster.json").write_text(json.dumps(values), encoding="utf-8")
