"""The job as the benchmarks run it: a broker and Flink on this machine, and what their processes use."""

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
    """A topic of a real broker, and the job that follows it, with more options where they are given."""

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
        """The job, from its first commit to its end."""
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
            end(self.process)

    def produce(self, events: int, rate: int | None = None) -> "subprocess.Popen[bytes]":
        """Traffic that happens now, beside this process; as fast as can be without a rate."""
        command = [
            sys.executable, "-m", "pipelines.cli", "produce", f"--kafka={self.kafka.address}",
            f"--topic={self.topic}", f"--generate={events}", "--now", "--json",
        ]  # fmt: skip
        command += [f"--rate={rate}"] if rate else []
        return subprocess.Popen(command, cwd=ROOT, env=self.settings, stdout=subprocess.DEVNULL)

    @contextmanager
    def compacting(self) -> Iterator["subprocess.Popen[bytes]"]:
        """`clickstream compact` each minute, beside the job."""
        command = [
            sys.executable, "-m", "pipelines.cli", "compact", f"--lake={self.lake}",
            f"--archive={self.folder / 'raw'}", "--every=1m", "--json",
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            end(process)

    def records(self) -> int:
        """Records on the topic."""
        consumer = Consumer({"bootstrap.servers": self.kafka.address, "group.id": "count"})
        try:
            bounds = [consumer.get_watermark_offsets(TopicPartition(self.topic, n)) for n in range(PARTITIONS)]
        finally:
            consumer.close()
        return sum(high - low for low, high in bounds)

    def metrics(self) -> dict[str, int]:
        """The job's counters; none while they cannot be had."""
        for port in sorted(listening_below(self.process.pid)):
            rest = FlinkRest(f"127.0.0.1:{port}")
            try:
                jobs = [job for job in rest.get("/jobs/overview")["jobs"] if job["state"] == "RUNNING"]
                return live_metrics(rest, jobs[0]["jid"]) if jobs else {}
            except Exception:
                continue
        return {}

    def rows(self, table: str) -> int:
        """Rows of a table of the lake; none before it is there."""
        if not DeltaTable.is_deltatable(str(self.lake / table)):
            return 0
        actions = DeltaTable(str(self.lake / table)).get_add_actions(flatten=True)
        return int(sum(actions["num_records"].to_pylist()))

    def state_mb(self) -> float:
        """Megabytes of the checkpoints on disk: the newest ones, and what they share."""
        found = 0
        for folder, _, names in os.walk(self.folder / "checkpoints"):
            for name in names:
                with suppress(OSError):  # one that is no longer needed goes meanwhile
                    found += os.stat(f"{folder}/{name}").st_size
        return round(found / 1e6, 1)

    def files(self) -> dict[str, int]:
        """Live files of the tables; those of silver as one."""
        found: Counter[str] = Counter()
        for log in self.lake.glob("**/_delta_log"):
            name = log.parent.relative_to(self.lake).parts[0]
            found[name] += len(DeltaTable(str(log.parent)).file_uris())
        return dict(found)

    def cpu(self) -> dict[str, float]:
        """Processor seconds so far: of the broker, Flink, and the Python steps."""
        found = {"broker": cpu_seconds(self.kafka.process.pid or 0), "flink": 0.0, "python": 0.0}
        for pid in below(self.process.pid):
            name = "flink" if "java" in command_of(pid) else "python"
            found[name] += cpu_seconds(pid)
        return found

    def memory(self) -> dict[str, float]:
        """Resident megabytes of Flink and of the Python steps; pages that processes share count once."""
        found = {"flink": 0.0, "python": 0.0}
        for pid in below(self.process.pid):
            with suppress(OSError):  # one that ends meanwhile
                shared = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                found["flink" if "java" in command_of(pid) else "python"] += int(shared[1]) / 1e3 if shared else 0
        return {name: round(size) for name, size in found.items()}


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a command as Ctrl-C does; one that does not is killed."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def below(pid: int) -> list[int]:
    """Processes that descend from one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found += [int(stat.parent.name), *below(int(stat.parent.name))]
    return found


def command_of(pid: int) -> str:
    """A process' command line; empty once it has gone."""
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


def listening_below(pid: int) -> set[int]:
    """Ports that a process or its descendants listen on."""
    inodes = set()
    for child in below(pid):
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
