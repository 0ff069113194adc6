"""Measure the live job with broker, Flink and pipeline on this machine: the rate it keeps up with, and its latency.

    python benchmarks/live.py                      # what `make bench-live` runs; writes live.json and live.md
    python benchmarks/live.py --rates 30000 --seconds 30 --dry-run     # a trial; writes nothing
    python benchmarks/live.py soak --minutes 15    # flat memory, bounded files

A rate is kept up with when the records that wait on the bus at its end are no more than `SECONDS_BEHIND` of it. Latency
is from the moment a probe is sent until a reader of its own finds it in the store: through the broker, Flink and all
steps, beside 10,000 events a second of traffic.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable

from runners.flink import FlinkRest
from runners.flink.metrics import live_metrics
from runners.services import KafkaService
from stores.device_store import open_device_store

HERE = Path(__file__).parent
ROOT = HERE.parent
PARTITIONS = 4
PROBE = "probe"
PROBE_SECONDS = 0.25
SECONDS_BEHIND = 5
WARM_UP_SECONDS = 15.0
START_SECONDS = 120.0


@dataclass
class Rate:
    """A rate that was tried.

    Attributes:
        offered: Events a second sent.
        stored: Events a second that came into the lake meanwhile.
        behind: Seconds of traffic that waited on the bus at the end.
        cpu: Processors in use, on average, by process.
    """

    offered: int
    stored: float
    behind: float
    cpu: dict[str, float]

    @property
    def kept_up(self) -> bool:
        """Whether no more than a few seconds of traffic waited at the end."""
        return self.behind <= SECONDS_BEHIND


@dataclass
class Latency:
    """Seconds from sending a probe to finding it, of one store."""

    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Number of probes, and their median, 95th and 99th percentile in seconds."""
        if len(self.seconds) < 2:
            return {"probes": len(self.seconds)}
        cuts = statistics.quantiles(self.seconds, n=100)
        return {
            "probes": len(self.seconds),
            "p50": round(cuts[49], 3),
            "p95": round(cuts[94], 3),
            "p99": round(cuts[98], 3),
        }


class LiveJob:
    """A topic of a real broker, and the job that follows it."""

    def __init__(self, folder: Path, kafka: KafkaService) -> None:
        self.folder, self.kafka = folder, kafka
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
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def produce(self, rate: int, seconds: float) -> "subprocess.Popen[bytes]":
        """Traffic at a rate, beside this process."""
        return subprocess.Popen(
            [
                sys.executable, "-m", "pipelines.cli", "produce", f"--kafka={self.kafka.address}",
                f"--topic={self.topic}", f"--generate={int(rate * seconds)}", "--now", f"--rate={rate}", "--json",
            ],
            cwd=ROOT, env=self.settings, stdout=subprocess.DEVNULL,
        )  # fmt: skip

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
        """Rows of a table of the lake."""
        actions = DeltaTable(str(self.lake / table)).get_add_actions(flatten=True)
        return int(sum(actions["num_records"].to_pylist()))

    def files(self) -> dict[str, int]:
        """Live files of each table."""
        return {
            table: len(DeltaTable(str(self.lake / table)).file_uris()) for table in ("fact_events", "fact_sessions")
        }

    def cpu(self) -> dict[str, float]:
        """Processor seconds so far: of the broker, Flink, and the Python steps."""
        found = {"broker": cpu_seconds(self.kafka.process.pid or 0), "flink": 0.0, "python": 0.0}
        for pid in below(self.process.pid):
            name = "flink" if "java" in command_of(pid) else "python"
            found[name] += cpu_seconds(pid)
        return found

    def memory(self) -> dict[str, float]:
        """Resident megabytes of Flink and of the Python steps."""
        found = {"flink": 0.0, "python": 0.0}
        for pid in below(self.process.pid):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found["flink" if "java" in command_of(pid) else "python"] += pages * 4096 / 1e6
        return {name: round(size) for name, size in found.items()}


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


def try_rate(job: LiveJob, rate: int, seconds: float) -> Rate:
    """Send at a rate, and see whether the job keeps up."""
    traffic = job.produce(rate, seconds)
    time.sleep(min(WARM_UP_SECONDS, seconds / 3))
    before, cpu_before, began = job.rows("fact_events"), job.cpu(), time.monotonic()
    traffic.wait()
    elapsed = time.monotonic() - began
    stored = (job.rows("fact_events") - before) / elapsed
    cpu = {name: round((used - cpu_before[name]) / elapsed, 2) for name, used in job.cpu().items()}
    behind = job.metrics().get("consumer_lag", 0) / rate
    deadline = time.monotonic() + 120
    while job.metrics().get("consumer_lag", 0) > 0 and time.monotonic() < deadline:
        time.sleep(0.5)
    return Rate(rate, round(stored), round(behind, 1), cpu)


class Probes:
    """Sends a probe each quarter of a second and looks for it in both stores, until stopped."""

    def __init__(self, job: LiveJob) -> None:
        self.devices, self.lake = Latency(), Latency()
        self._job = job
        self._sent: dict[str, float] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=step, daemon=True)
            for step in (self._send, self._look_in_devices, self._look_in_lake)
        ]

    def __enter__(self) -> "Probes":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        producer = Producer({"bootstrap.servers": self._job.kafka.address, "linger.ms": 0})
        number = 0
        while not self._stop.wait(PROBE_SECONDS):
            name = f"p{number}"
            event = {
                "event_id": name,
                "event_type": "ping",
                "timestamp": datetime.now(UTC).isoformat(),
                "device_id": PROBE,
            }
            self._sent[name] = time.monotonic()
            producer.produce(self._job.topic, json.dumps(event).encode(), key=PROBE)
            producer.flush()
            number += 1

    def _found(self, latency: Latency, seen: set[str], names: list[str]) -> None:
        now = time.monotonic()
        for name in names:
            if name not in seen and name in self._sent:
                seen.add(name)
                latency.seconds.append(now - self._sent[name])

    def _look_in_devices(self) -> None:
        seen: set[str] = set()
        with open_device_store(str(self._job.devices), read_only=True) as store:
            while not self._stop.wait(0.02):
                self._found(self.devices, seen, store.recent_events(PROBE, limit=100)["event_id"].to_pylist())

    def _look_in_lake(self) -> None:
        seen: set[str] = set()
        table = DeltaTable(str(self._job.lake / "fact_events"))
        known = set(table.file_uris())
        while not self._stop.wait(0.1):
            table.update_incremental()
            fresh = set(table.file_uris()) - known
            for uri in fresh:
                rows = pq.read_table(uri, columns=["device_id", "event_id"], partitioning=None)
                self._found(self.lake, seen, rows.filter(pc.equal(rows["device_id"], PROBE))["event_id"].to_pylist())
            known |= fresh


def measure(rates: list[int], seconds: float, latency_rate: int) -> dict[str, object]:
    """Latency first, on young stores, then the rates in order until one is too much."""
    folder = Path(tempfile.mkdtemp(prefix="bench-live-"))
    kafka = KafkaService(folder / "services")
    kafka.up()
    try:
        with LiveJob(folder, kafka).running() as job:
            traffic = job.produce(latency_rate, WARM_UP_SECONDS + seconds)
            time.sleep(WARM_UP_SECONDS)
            with Probes(job) as probes:
                traffic.wait()
            print(f"latency at {latency_rate:,}/s: devices {probes.devices.summary()} lake {probes.lake.summary()}")
            tried = []
            for rate in rates:
                tried.append(try_rate(job, rate, seconds))
                print(tried[-1], flush=True)
                if not tried[-1].kept_up:
                    break
            return {
                "latency_rate": latency_rate,
                "devices": probes.devices.summary(),
                "lake": probes.lake.summary(),
                "rates": [asdict(rate) for rate in tried],
                "memory_mb": job.memory(),
            }
    finally:
        kafka.down()
        shutil.rmtree(folder, ignore_errors=True)


def soak(minutes: float, rate: int) -> list[dict[str, object]]:
    """Memory, files and lag each minute at a steady rate, with `clickstream compact` beside the job."""
    folder = Path(tempfile.mkdtemp(prefix="bench-live-"))
    kafka = KafkaService(folder / "services")
    kafka.up()
    samples: list[dict[str, object]] = []
    try:
        with LiveJob(folder, kafka).running() as job:
            traffic = job.produce(rate, minutes * 60)
            compact = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", "compact", f"--lake={job.lake}", "--every=1m", "--json"],
                cwd=ROOT, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            began = time.monotonic()
            while traffic.poll() is None:
                time.sleep(60)
                counted = job.metrics()
                checkpoints = max(folder.glob("checkpoints/*/chk-*"), key=os.path.getmtime, default=None)
                state = sum(f.stat().st_size for f in checkpoints.glob("*")) if checkpoints else 0
                samples.append(
                    {
                        "minute": round((time.monotonic() - began) / 60, 1),
                        **job.memory(),
                        "state_mb": round(state / 1e6, 1),
                        "files": job.files(),
                        "waiting": counted.get("consumer_lag", 0),
                        "events": job.rows("fact_events"),
                    }
                )
                print(json.dumps(samples[-1]), flush=True)
            compact.send_signal(signal.SIGINT)
            compact.wait()
        return samples
    finally:
        kafka.down()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure what is asked for, and keep the results."""
    parser = argparse.ArgumentParser(description="Measure the live job.")
    parser.add_argument("what", nargs="?", choices=("rates", "soak"), default="rates")
    parser.add_argument("--rates", type=int, nargs="+", default=[20_000, 30_000, 40_000, 50_000, 60_000, 70_000])
    parser.add_argument("--latency-rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--soak-rate", type=int, default=10_000)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    path = HERE / "live.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if given.what == "soak":
        results["soak"] = {"rate": given.soak_rate, "samples": soak(given.minutes, given.soak_rate)}
    else:
        results["rates"] = measure(given.rates, given.seconds, given.latency_rate)
    if not given.dry_run:
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
