"""Run the live job for the benchmarks, with a broker and Flink on this machine, and measure what its processes use."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable

from runners.flink import FlinkRest
from runners.flink.metrics import live_metrics
from runners.services import KafkaService

ROOT = Path(__file__).parents[1]
PARTITIONS = 4
START_SECONDS, END_SECONDS = 120.0, 60.0


class LiveJob:
    """A topic on a real broker and a job that follows it.

    Args:
        folder: Folder for the stores, checkpoints and log of the job.
        kafka: The broker, already started.
        options: Further options of `clickstream run`.
    """

    def __init__(self, folder: Path, kafka: KafkaService, options: Sequence[str] = ()) -> None:
        self.folder, self.kafka, self._options = folder, kafka, options
        self.topic = f"clicks-{folder.name}"
        self.lake, self.devices = folder / "lake", folder / "devices"
        self.settings = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
        admin = AdminClient({"bootstrap.servers": kafka.address})
        for future in admin.create_topics([NewTopic(self.topic, PARTITIONS)]).values():
            future.result()

    @contextmanager
    def running(self) -> Iterator["LiveJob"]:
        """Start the job, yield it once its metrics are available, and end it."""
        command = [
            sys.executable, "-m", "pipelines.cli", "run", "--runner=flink", f"--kafka={self.kafka.address}",
            f"--topic={self.topic}", f"--lake={self.lake}", f"--devices=rocksdb:{self.devices}",
            f"--archive={self.folder / 'raw'}", f"--checkpoints={self.folder / 'checkpoints'}", "--json",
            *self._options,
        ]  # fmt: skip
        with open(self.folder / "run.log", "wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.settings, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not self.metrics():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the job did not start:\n{(self.folder / 'run.log').read_text()}")
                time.sleep(0.5)
            yield self
        finally:
            interrupt(self.process)

    def produce(self, events: int, rate: int | None = None) -> "subprocess.Popen[bytes]":
        """Produce generated traffic with current timestamps in a subprocess; without a rate as fast as possible."""
        command = [
            sys.executable, "-m", "pipelines.cli", "produce", f"--kafka={self.kafka.address}",
            f"--topic={self.topic}", f"--generate={events}", "--now", "--json",
        ]  # fmt: skip
        command += [f"--rate={rate}"] if rate else []
        return subprocess.Popen(command, cwd=ROOT, env=self.settings, stdout=subprocess.DEVNULL)

    @contextmanager
    def compacting(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run `clickstream compact` each minute while the job runs."""
        command = [
            sys.executable, "-m", "pipelines.cli", "compact", f"--lake={self.lake}",
            f"--archive={self.folder / 'raw'}", "--every=1m", "--json",
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            interrupt(process)

    def records(self) -> int:
        """Number of records on the topic."""
        consumer = Consumer({"bootstrap.servers": self.kafka.address, "group.id": "count"})
        try:
            bounds = [consumer.get_watermark_offsets(TopicPartition(self.topic, n)) for n in range(PARTITIONS)]
        finally:
            consumer.close()
        return sum(high - low for low, high in bounds)

    def metrics(self) -> dict[str, int]:
        """The job's counters; empty while they are not available."""
        for port in sorted(listening_ports(self.process.pid)):
            rest = FlinkRest(f"127.0.0.1:{port}")
            try:
                jobs = [job for job in rest.get("/jobs/overview")["jobs"] if job["state"] == "RUNNING"]
                return live_metrics(rest, jobs[0]["jid"]) if jobs else {}
            except Exception:
                continue
        return {}

    def rows(self, table: str) -> int:
        """Number of rows of a table of the lake; 0 before the table exists."""
        if not DeltaTable.is_deltatable(str(self.lake / table)):
            return 0
        actions = DeltaTable(str(self.lake / table)).get_add_actions(flatten=True)
        return int(sum(actions["num_records"].to_pylist()))

    def state_mb(self) -> float:
        """Size of the checkpoints on disk, megabytes: the retained checkpoints and the files that they share."""
        found = 0
        for folder, _, names in os.walk(self.folder / "checkpoints"):
            for name in names:
                with suppress(OSError):  # Flink may delete the file meanwhile
                    found += os.stat(f"{folder}/{name}").st_size
        return round(found / 1e6, 1)

    def files(self) -> dict[str, int]:
        """Number of live files per table; the tables of silver are counted together."""
        found: Counter[str] = Counter()
        for log in self.lake.glob("**/_delta_log"):
            name = log.parent.relative_to(self.lake).parts[0]
            found[name] += len(DeltaTable(str(log.parent)).file_uris())
        return dict(found)

    def cpu(self) -> dict[str, float]:
        """Processor seconds so far of the broker, Flink and the Python steps."""
        found = {"broker": cpu_seconds(self.kafka.process.pid or 0), "flink": 0.0, "python": 0.0}
        for pid in descendants(self.process.pid):
            name = "flink" if "java" in command_of(pid) else "python"
            found[name] += cpu_seconds(pid)
        return found

    def memory(self) -> dict[str, float]:
        """Resident megabytes of Flink and the Python steps; pages that processes share count once."""
        found = {"flink": 0.0, "python": 0.0}
        for pid in descendants(self.process.pid):
            with suppress(OSError):  # the process may end meanwhile
                shared = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                found["flink" if "java" in command_of(pid) else "python"] += int(shared[1]) / 1e3 if shared else 0
        return {name: round(size) for name, size in found.items()}


def interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a command like Ctrl-C; kill it if it does not end in `END_SECONDS`."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def descendants(pid: int) -> list[int]:
    """The descendants of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found += [int(stat.parent.name), *descendants(int(stat.parent.name))]
    return found


def command_of(pid: int) -> str:
    """The command line of a process; empty once the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listening_ports(pid: int) -> set[int]:
    """Ports that the descendants of a process listen on."""
    inodes = set()
    for child in descendants(pid):
        for fd in Path(f"/proc/{child}/fd").glob("*"):
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                ports.add(int(columns[1].rpartition(":")[2], 16))
    return ports
