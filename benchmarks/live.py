"""Measure the live job with broker, Flink and pipeline on this machine: rate, latency, and where the time goes.

    python benchmarks/live.py                      # what `make bench-live` runs; writes live.json and live.md
    python benchmarks/live.py --events 500000 --seconds 20 --dry-run   # a trial; writes nothing
    python benchmarks/live.py --state-backend=rocksdb --dry-run        # any option of `clickstream run`
    python benchmarks/live.py soak --minutes 15    # memory, state and files each minute at a steady rate

The highest rate is the rate at which the job works off a backlog: only the broker, Flink and the job use the machine
then, and none of them is idle for lack of input. What counts is the part from `SETTLED` to `SATURATED` of the backlog:
before it the job starts, and after it the first steps run out of input.
Latency is the time from sending a probe until a separate reader finds it in the store, through the broker, Flink and
all steps, alongside live traffic.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Producer
from deltalake import DeltaTable
from live_job import LiveJob
from live_steps import measure_steps

from runners.services import KafkaService
from stores.device_store import open_device_store
from stores.lake_sql import connect

HERE = Path(__file__).parent
PROBE = "probe"
PROBE_SECONDS = 0.25
SETTLED, SATURATED, ALL = 0.3, 0.9, 0.97
"""Shares of the backlog. The last rows wait in a bundle that is not full, so the job never has all of them."""
WARM_UP_SECONDS = 30.0
BACKLOG_SECONDS = 300.0
SETTLE_SECONDS = 60.0
SOAK_OPTIONS = ["--session-gap=1m", "--allowed-lateness=1m"]
"""So that what a job remembers is complete after some minutes; with the default options it is after 150."""
TARGET_RATE = 70_000
TARGETS = {"devices": 1.0, "lake": 5.0}
"""Target for the 99th percentile of the latency to each store, seconds."""


@dataclass
class Capacity:
    """How fast a backlog was read.

    Attributes:
        events: Events of the backlog that count.
        rates: Events per second that reached fact_events and the layers, while more were waiting; empty if the backlog
            was worked off in too few commits.
        drained_rate: Events per second until the backlog was worked off, the layers of its last events included.
        cpu_us: Processor time per event, microseconds, by process.
        processors: Average number of busy processors.
        load: Load of the machine before the backlog was produced; above a few tenths other work used the machine.
        memory_mb: Resident memory at the end.
    """

    events: int
    rates: list[int]
    drained_rate: int
    cpu_us: dict[str, float]
    processors: float
    load: float
    memory_mb: dict[str, float]


@dataclass
class Latency:
    """Seconds from sending a probe to finding it in one store."""

    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Number of probes, and the median, 95th and 99th percentile of their latency in seconds."""
        if len(self.seconds) < 2:
            return {"probes": len(self.seconds)}
        cuts = statistics.quantiles(self.seconds, n=100)
        return {
            "probes": len(self.seconds),
            "p50": round(cuts[49], 3),
            "p95": round(cuts[94], 3),
            "p99": round(cuts[98], 3),
        }


class Probes:
    """Sends a probe each `PROBE_SECONDS` and looks for it in both stores, until stopped."""

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


class Commit(NamedTuple):
    """A commit of a table: when it was seen, its rows then, and the processor seconds of each process by then."""

    time: float
    rows: int
    cpu: dict[str, float]


def capacity(job: LiveJob, events: int, load: float) -> Capacity:
    """Wait until the job has worked off the backlog on the topic.

    Raises:
        SystemExit: It did not within `BACKLOG_SECONDS`.
    """
    facts: list[Commit] = []
    layers: list[Commit] = []
    deadline = time.monotonic() + BACKLOG_SECONDS
    # A small backlog may arrive in a single commit: then the start-up phase counts too
    start = Commit(time.monotonic(), 0, job.cpu())
    while True:
        now = Commit(time.monotonic(), job.rows("fact_events"), job.cpu())
        typed = job.rows("user_stream")
        if min(now.rows, typed) >= ALL * events:
            break
        if SETTLED * events <= now.rows < SATURATED * events:
            for commits, seen in ((facts, now), (layers, now._replace(rows=typed))):
                if not commits or seen.rows > commits[-1].rows:
                    commits.append(seen)
        if now.time > deadline:
            raise SystemExit(f"after {BACKLOG_SECONDS:.0f} s {now.rows:,} of {events:,} events are in the lake")
        time.sleep(0.3)
    first = facts[0] if facts else start
    last = facts[-1] if len(facts) > 1 else now
    counted, seconds = last.rows - first.rows, last.time - first.time
    used = {name: seconds_used - first.cpu[name] for name, seconds_used in last.cpu.items()}
    return Capacity(
        events=counted,
        # the first commit may have been made long before it was seen
        rates=[_rate(commits[1], commits[-1]) for commits in (facts, layers) if len(commits) > 2],
        drained_rate=_rate(first, now),
        cpu_us={name: round(spent / counted * 1e6, 1) for name, spent in used.items()},
        processors=round(sum(used.values()) / seconds, 2),
        load=round(load, 1),
        memory_mb=job.memory(),
    )


def _rate(first: Commit, last: Commit) -> int:
    return round((last.rows - first.rows) / (last.time - first.time))


def latency(job: LiveJob, rate: int, seconds: float) -> dict[str, dict[str, float]]:
    """Probe both stores alongside live traffic."""
    traffic = job.produce(int(rate * (WARM_UP_SECONDS + seconds)), rate)
    time.sleep(WARM_UP_SECONDS)
    with Probes(job) as probes:
        traffic.wait()
    return {"devices": probes.devices.summary(), "lake": probes.lake.summary()}


def measure(events: int, rate: int, seconds: float, job_options: list[str]) -> dict[str, object]:
    """Measure the backlog first, then the latency of live traffic, with the same stores."""
    folder = Path(tempfile.mkdtemp(prefix="bench-live-"))
    kafka = KafkaService(folder / "services")
    kafka.up()
    try:
        load = os.getloadavg()[0]
        job = LiveJob(folder, kafka, job_options)
        job.produce(events).wait()
        with job.running():
            reached = capacity(job, events, load)
            print(f"backlog: {reached}", flush=True)
            seen = latency(job, rate, seconds)
            print(f"latency at {rate:,}/s: {seen}", flush=True)
        return {"capacity": asdict(reached), "latency_rate": rate, "latency": seen, "steps_us": measure_steps()}
    finally:
        kafka.down()
        shutil.rmtree(folder, ignore_errors=True)


def soak(minutes: float, rate: int, job_options: list[str]) -> dict[str, object]:
    """Record memory, state, files and lag each minute at a steady rate, while a reader and `clickstream compact` run.

    The options that are given override `SOAK_OPTIONS`.

    Raises:
        SystemExit: The job or the compaction ended.
    """
    job_options = [*SOAK_OPTIONS, *job_options]
    folder = Path(tempfile.mkdtemp(prefix="bench-live-"))
    kafka = KafkaService(folder / "services")
    kafka.up()
    try:
        with LiveJob(folder, kafka, job_options).running() as job, job.compacting() as compact:
            began, samples = time.monotonic(), []
            with job.produce(int(rate * minutes * 60), rate) as traffic:
                while traffic.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        traffic.wait(min(60.0, 15.0 * minutes))
                    samples.append({"minute": round((time.monotonic() - began) / 60, 1), **_sample(job)})
                    print(json.dumps(samples[-1]), flush=True)
                    if job.process.poll() is not None or compact.poll() is not None:
                        raise SystemExit(f"the job or the compaction ended: {(folder / 'run.log').read_text()}")
            counted = _final_counts(job)
            print(json.dumps(counted), flush=True)
        return {"rate": rate, "options": job_options, "samples": samples, "counted": counted}
    finally:
        kafka.down()
        shutil.rmtree(folder, ignore_errors=True)


def _sample(job: LiveJob) -> dict[str, object]:
    # If a commit or the compaction disturbs the query, it raises and ends the soak
    rows, distinct = _counted(job)
    metrics = job.metrics()
    return {
        **job.memory(),
        "state_mb": job.state_mb(),
        "files": job.files(),
        "raw_files": len(list((job.folder / "raw").rglob("*.avro"))),
        "waiting": metrics.get("consumer_lag", 0),
        "duplicates": metrics.get("duplicates", 0),
        "events": rows,
        "twice": rows - distinct,
        "load": round(os.getloadavg()[0], 1),
    }


def _counted(job: LiveJob) -> tuple[int, int]:
    with connect(str(job.lake)) as lake:
        return lake.sql("SELECT count(*), count(DISTINCT (device_id, event_id)) FROM fact_events").fetchall()[0]


def _final_counts(job: LiveJob) -> dict[str, int]:
    """Where the records of the topic ended up, once the job has committed all of them or the wait timed out.

    The job's counters start again at a restore. An event with invalid properties is counted both as an event and as a
    dead letter.
    """
    produced, deadline = job.records(), time.monotonic() + SETTLE_SECONDS
    while True:
        metrics = job.metrics()
        rows, distinct = _counted(job)
        found = {
            "records": produced,
            "events": rows,
            "duplicates": metrics.get("duplicates", 0),
            "dead_letters": sum(count for name, count in metrics.items() if name.startswith("dead_")),
            "twice": rows - distinct,
        }
        if produced == found["events"] + found["duplicates"] + found["dead_letters"] or time.monotonic() > deadline:
            return found
        time.sleep(1)


def report(results: dict[str, object]) -> str:
    """The results as a Markdown page."""
    lines = ["# The live job", ""]
    if "capacity" in results:
        lines += [
            f"`make bench-live` on {results['processors']} processors, {results['date']}. A backlog of "
            f"{results['backlog']:,} events, then {results['latency_rate']:,} events a second for a minute.",
            "", *_capacity(results["capacity"]), "", *_latency(results["latency"]), "", *_steps(results["steps_us"]),
        ]  # fmt: skip
    if "soak" in results:
        lines += ["", *_soak(results["soak"])]
    return "\n".join(lines) + "\n"


def _capacity(reached: dict[str, object]) -> list[str]:
    cpu, processors = reached["cpu_us"], os.cpu_count()
    by_process = ", ".join(f"{name} {us}" for name, us in cpu.items())
    memory = ", ".join(f"{name} {size:.0f}" for name, size in reached["memory_mb"].items())
    table = {
        f"events a second while more wait, facts and layers (target {TARGET_RATE:,})": ", ".join(
            f"{rate:,}" for rate in reached["rates"]
        )
        or "too few commits",
        "… until the backlog is worked off": f"{reached['drained_rate']:,}",
        "processor time per event, µs": f"{sum(cpu.values()):.1f}: {by_process}",
        "busy processors": reached["processors"],
        f"events a second if all {processors} processors were busy": f"{1e6 * processors / sum(cpu.values()):,.0f}",
        "memory, MB": memory,
        "load of the machine before": reached["load"],
    }
    return ["| a backlog | |", "|---|---|", *(f"| {name} | {value} |" for name, value in table.items())]


def _latency(seen: dict[str, dict[str, float]]) -> list[str]:
    rows = [
        f"| {name} | {found.get('p50')} | {found.get('p95')} | {found.get('p99')} | {TARGETS[name]} |"
        for name, found in seen.items()
    ]
    return ["| seconds until a reader finds an event | p50 | p95 | p99 | target p99 |", "|---|---|---|---|---|", *rows]


def _steps(steps: dict[str, float]) -> list[str]:
    ordered = sorted(steps.items(), key=lambda step: -step[1])
    return [
        "Where the time of the Python steps goes, measured without Beam, in bundles of 20,000 events:", "",
        "| step | µs per event |", "|---|---|", *(f"| {name} | {us:.2f} |" for name, us in ordered),
        f"| all | {sum(steps.values()):.2f} |",
    ]  # fmt: skip


def _soak(soaked: dict[str, object]) -> list[str]:
    tables = sorted(soaked["samples"][-1]["files"])
    rows = [
        f"| {s['minute']:.0f} | {s['events']:,} | {s['duplicates']:,} | {s['python']:.0f} | {s['flink']:.0f} "
        f"| {s['state_mb']} | {' | '.join(str(s['files'].get(table, 0)) for table in tables)} | {s['raw_files']} "
        f"| {s['waiting']:,} | {s['load']} |"
        for s in soaked["samples"]
    ]
    return [
        f"## Soak at {soaked['rate']:,} events a second, with `clickstream compact --every 1m`", "",
        f"On {soaked['processors']} processors, {soaked['date']}, with `{' '.join(soaked['options'])}`. Python "
        "includes the process that refreshes the daily facts, if it runs when it is sampled. A checkpoint that is "
        "still being written then shows too few megabytes. At the end: "
        + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in soaked["counted"].items()) + ".", "",
        "| minute | events | duplicates | Python, MB | Flink, MB | checkpoints, MB "
        f"| {' | '.join(f'files of {table}' for table in tables)} | of the raw log | records waiting | load |",
        "|---" * (9 + len(tables)) + "|", *rows,
    ]  # fmt: skip


def main() -> None:
    """Measure the rates or run the soak, and save the results."""
    parser = argparse.ArgumentParser(
        description="Measure the live job.", epilog="All other options are passed to `clickstream run`."
    )
    parser.add_argument("what", nargs="?", choices=("rates", "soak"), default="rates")
    parser.add_argument("--events", type=int, default=6_000_000, help="number of events in the backlog")
    parser.add_argument(
        "--rate", type=int, default=10_000, help="events a second while latency is measured, or during the soak"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the latency measurement")
    parser.add_argument("--minutes", type=float, default=15.0, help="duration of the soak")
    parser.add_argument("--dry-run", action="store_true", help="print the results without saving them")
    given, job_options = parser.parse_known_args()
    path = HERE / "live.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if given.what == "soak":
        about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "processors": os.cpu_count()}
        results["soak"] = about | soak(given.minutes, given.rate, job_options)
    else:
        about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "processors": os.cpu_count(), "backlog": given.events}
        results |= about | measure(given.events, given.rate, given.seconds, job_options)
    print(report(results))
    if not given.dry_run:
        path.write_text(json.dumps(results, indent=1) + "\n")
        path.with_suffix(".md").write_text(report(results))


if __name__ == "__main__":
    main()
