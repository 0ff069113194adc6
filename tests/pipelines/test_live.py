"""The main job on a real broker and real Flink: followed live, held against a replay of its raw log; and replays."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from deltalake import DeltaTable

from pipelines.generate import GenerateOptions, GenerateSummary, generate
from runners.flink import FlinkRest
from runners.flink.job_server import PATCHES
from runners.flink.job_server import POM as JOB_SERVER
from runners.services import FlinkCluster, KafkaService
from runners.services.jars import resolve_jars
from runners.services.processes import birth_of
from schemas.events import EVENT
from schemas.records import Record
from schemas.secrets import USER_KEY_VARIABLE
from schemas.sessions import SESSION
from stores.device_store import open_device_store
from stores.lake_sql import connect
from tests.transforms.activities.daily_oracle import assert_exact

ROOT = Path(__file__).parents[2]
DEADLINE = 240.0
EVENTS = 12_000
HISTORY = ("pane_timing", "pane_index")
"""How a session came to be what it is; a replay has another history and ends in the same session."""
AFTER_ALL = "2026-06-01T00:00:00Z"
SENTINEL = "sentinel"
"""Device of the event that moves the watermark past all others' sessions."""


class Live:
    """A topic, a live run of the job on it, and a batch replay of the raw log that it keeps."""

    def __init__(self, folder: Path, kafka: KafkaService) -> None:
        self.folder, self.kafka = folder, kafka
        self.topic = f"clicks-{uuid.uuid4().hex[:8]}"
        self.log = folder / "run.log"

    def clickstream(self, *arguments: object) -> "subprocess.Popen[bytes]":
        """A command in a process of its own."""
        settings = {**os.environ, USER_KEY_VARIABLE: "for tests", "XDG_STATE_HOME": str(self.folder / "state")}
        with open(self.log, "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *map(str, arguments)], cwd=ROOT, env=settings, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip

    def done(self, *arguments: object) -> None:
        """A command, to its end."""
        assert self.clickstream(*arguments).wait(DEADLINE) == 0, self.log.read_text()

    def stores(self, name: str) -> list[str]:
        return [f"--lake={self.folder / name / 'lake'}", f"--devices=rocksdb:{self.folder / name / 'devices'}"]

    @contextmanager
    def running(self, *more: object) -> Iterator["subprocess.Popen[bytes]"]:
        """The live job, until the block ends."""
        process = self.clickstream(
            "run", "--runner=flink", f"--kafka={self.kafka.address}", f"--topic={self.topic}", *self.stores("live"),
            f"--archive={self.folder / 'raw'}", f"--checkpoints={self.folder / 'checkpoints'}",
            # the traffic is days in minutes: what it calls late is late by minutes of event time, or by hours
            "--idle-timeout=2s", "--allowed-lateness=1d", "--shards=2", "--checkpoint-interval=1s", "--json", *more,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(DEADLINE)
            finally:
                process.kill()

    def create_topic(self, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.address})
        for future in admin.create_topics([NewTopic(self.topic, partitions)]).values():
            future.result()

    def add_partitions(self, total: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.address})
        for future in admin.create_partitions([NewPartitions(self.topic, total)]).values():
            future.result()

    def produce(self, *arguments: object) -> None:
        self.done("produce", f"--kafka={self.kafka.address}", f"--topic={self.topic}", *arguments)

    def send(self, payloads: Iterable[bytes], partition: int) -> None:
        """Put payloads on one partition."""
        producer = Producer({"bootstrap.servers": self.kafka.address})
        for payload in payloads:
            producer.produce(self.topic, payload, partition=partition)
        assert producer.flush(DEADLINE) == 0

    def send_sentinel(self, *times: str) -> None:
        """Send events of the sentinel that happened at these times."""
        events = ({"event_id": t, "event_type": "ping", "timestamp": t, "device_id": SENTINEL} for t in times)
        self.send((json.dumps(event).encode() for event in events), partition=0)

    def end_sessions(self) -> None:
        """Move the watermark past the traffic."""
        self.send_sentinel(AFTER_ALL)

    def replay(self, *options: str) -> None:
        """Replay the raw log into stores of its own."""
        self.done("run", f"--input={self.folder / 'raw'}", *self.stores("replayed"), *options)

    def ask(self, name: str, sql: str) -> list[tuple[Any, ...]]:
        if not DeltaTable.is_deltatable(str(self.folder / name / "lake" / "dead_letters")):
            return []
        with connect(str(self.folder / name / "lake")) as lake:
            return lake.sql(sql).fetchall()

    def wait_until(self, holds: Callable[[], Any], what: str, process: "subprocess.Popen[bytes]") -> None:
        began = asked = time.monotonic()
        while not holds():
            assert process.poll() is None, f"the job ended: {self.log.read_text()}"
            now = time.monotonic()
            assert now < began + DEADLINE, f"not within {DEADLINE:.0f} s: {what}; {self.log.read_text()}"
            # To ask the lake takes a processor from the job that it waits for
            time.sleep(max(0.2, 4 * (now - asked)))
            asked = time.monotonic()

    def events(self) -> int:
        found = self.ask("live", "SELECT count(*) FROM fact_events")
        return int(found[0][0]) if found else 0

    def sessions_closed(self) -> bool:
        """Whether each event of the traffic is in a session, and no session is open: none of them is too late."""
        found = self.ask(
            "live",
            "SELECT sum(event_count), count(*) FILTER (pane_timing = 'EARLY') FROM fact_sessions "
            f"WHERE device_id <> '{SENTINEL}'",
        )
        return found == [(EVENTS, 0)]

    def has_sessions_of_devices(self) -> bool:
        """Whether the device store, read beside the job, has the sessions of the lake: each has its own commits."""
        expected = self.ask(
            "live",
            "SELECT device_id, session_id, event_count FROM fact_sessions "
            f"WHERE device_id <> '{SENTINEL}' ORDER BY ALL",
        )
        found: list[tuple[Any, ...]] = []
        with open_device_store(str(self.folder / "live" / "devices"), read_only=True) as store:
            for device in sorted({row[0] for row in expected}):
                sessions = store.recent_sessions(device, limit=10**6).select(["device_id", "session_id", "event_count"])
                found += map(tuple, map(dict.values, sessions.to_pylist()))
        return sorted(found) == expected

    def jobs_with_checkpoints(self) -> int:
        """How many of the runs have left a complete checkpoint."""
        return len({found.parents[1] for found in self.folder.glob("checkpoints/*/chk-*/_metadata")})

    def has_layers(self) -> bool:
        """Whether each event is in silver and in the activity stream, which take some seconds longer."""
        tables = ("fact_events", "events_wide", "user_stream")
        return len({self.ask("live", f"SELECT count(*) FROM {table}")[0] for table in tables}) == 1

    def has_daily_facts(self) -> bool:
        """Whether the daily facts, which the job keeps up twice a minute, are what its other tables come to."""
        try:
            assert_exact(str(self.folder / "live" / "lake"))
        except AssertionError:
            return False
        return True

    def everything(self, name: str) -> dict[str, list[tuple[Any, ...]]]:
        """The tables and the devices' rows, less the sentinel's and the panes' history."""

        def columns(record: Record) -> str:
            return ", ".join(name for name in record.names if name not in HISTORY)

        others = f"WHERE device_id <> '{SENTINEL}' ORDER BY ALL"
        found = {
            "events": self.ask(name, f"SELECT {columns(EVENT)} FROM fact_events {others}"),
            "sessions": self.ask(name, f"SELECT {columns(SESSION)} FROM fact_sessions {others}"),
            "dead letters": self.ask(name, "SELECT * FROM dead_letters ORDER BY ALL"),
            "activities": self.ask(
                name, f"SELECT * FROM user_stream WHERE anonymous_customer_id <> '{SENTINEL}' ORDER BY ALL"
            ),
            "typed events": self.ask(name, f"SELECT * FROM events_wide {others}"),
        }
        devices = self.ask(name, f"SELECT DISTINCT device_id FROM fact_events {others}")
        with open_device_store(str(self.folder / name / "devices")) as store:
            for (device,) in devices:
                events, sessions = store.recent_events(device, limit=10**6), store.recent_sessions(device, limit=10**6)
                found[f"device {device}"] = [
                    *map(tuple, map(dict.values, events.to_pylist())),
                    *map(tuple, map(dict.values, sessions.drop_columns(list(HISTORY)).to_pylist())),
                ]
        return found


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> GenerateSummary:
    """A day of events: a tick of the sessions has a fixed cost, and each five minutes of event time have one."""
    out = tmp_path_factory.mktemp("live") / "events"
    return generate(
        GenerateOptions(
            events=EVENTS, out=out, devices=400, days=1, duplicate_share=0.05, broken_share=0.01, events_per_file=4_000
        )
    )


@pytest.fixture
def live(kafka_service: KafkaService, tmp_path: Path) -> Live:
    # fetched before a test counts the seconds
    resolve_jars(JOB_SERVER, patches=PATCHES)
    return Live(tmp_path, kafka_service)


def assert_live_equals_replay(live: Live, traffic: GenerateSummary, *options: str) -> None:
    """Both stores, row by row; and nothing of the traffic is missing or there twice."""
    live.replay(*options)
    found, expected = live.everything("live"), live.everything("replayed")
    for name, rows in expected.items():
        assert found[name] == rows, f"{name} differ"
    assert found.keys() == expected.keys()
    ids = live.ask("live", f"SELECT device_id, event_id FROM fact_events WHERE device_id <> '{SENTINEL}' ORDER BY ALL")
    truth = pq.read_table(traffic.truth / "events.parquet", columns=["device_id", "event_id"])
    assert ids == sorted(zip(*map(pa.ChunkedArray.to_pylist, truth.columns), strict=True))


def has_open(pid: int, folder: Path) -> bool:
    """Whether a process has a file of a folder open."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # one that is closed meanwhile
            found.add(os.readlink(descriptor))
    return any(Path(path).is_relative_to(folder) for path in found)


def processes_below(pid: int) -> dict[int, str]:
    """Processes that descend from one, with their command lines."""
    found: dict[int, str] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
        if parent == pid:
            child = int(status.parent.name)
            found |= {child: command} | processes_below(child)
    return found


def test_replay_on_flink_ends_in_the_stores_of_one_in_this_process(live: Live, traffic: GenerateSummary) -> None:
    files = [f"--input={path}" for path in traffic.files]
    live.done("run", *files, *live.stores("here"))
    expected = live.everything("here")
    live.done("run", "--runner=flink", *files, *live.stores("flink"))
    assert live.everything("flink") == expected

    # the same events from the bus, over a lake that has them: none of its rows becomes another
    live.produce(*files)
    topic = (f"--kafka={live.kafka.address}", f"--topic={live.topic}", "--until=now")
    live.done("run", "--runner=flink", *topic, *live.stores("flink"))
    found = live.everything("flink")
    for table in ("events", "sessions", "activities", "typed events"):
        assert found[table] == expected[table], f"{table} differ"


def test_live_run_on_skewed_and_idle_partitions_ends_in_the_stores_of_a_batch_replay_of_its_raw_log(
    live: Live, traffic: GenerateSummary
) -> None:
    def timing_of_sentinel() -> list[tuple[Any, ...]]:
        return live.ask(
            "live",
            f"SELECT pane_timing, event_count FROM fact_sessions WHERE device_id = '{SENTINEL}' "
            f"AND session_start = '{AFTER_ALL}'",
        )

    live.create_topic(3)
    # half a day lies between two partitions, and that is twice the lateness; the third has no record at all
    halves = traffic.files[:2], traffic.files[2:]
    with live.running("--allowed-lateness=6h") as job:
        for partition in (1, 0):
            payloads = (line for path in halves[partition] for line in path.read_bytes().split(b"\n") if line)
            live.send(payloads, partition)
        live.wait_until(lambda: live.events() == EVENTS, "all events in the lake", job)
        live.end_sessions()
        live.wait_until(live.sessions_closed, "all sessions closed", job)
        live.wait_until(live.has_sessions_of_devices, "the same sessions in the device store", job)
        panes = dict(live.ask("live", "SELECT pane_timing, count(*) FROM fact_sessions GROUP BY 1"))
        assert panes.get("ON_TIME", 0) > 100
        live.send_sentinel("2026-06-01T03:00:00Z")
        live.wait_until(lambda: timing_of_sentinel() == [("ON_TIME", 1)], "the sentinel's pane on time", job)
        # within the lateness; and one that moves the watermark to the next tick
        live.send_sentinel("2026-06-01T00:05:00Z", "2026-06-01T03:15:00Z")
        live.wait_until(lambda: timing_of_sentinel() == [("LATE", 2)], "the sentinel's late pane", job)
        live.wait_until(live.has_layers, "all events in silver and the stream", job)
        live.wait_until(live.has_daily_facts, "daily facts of all events", job)
    assert_live_equals_replay(live, traffic, "--allowed-lateness=6h")


def test_killed_worker_task_manager_and_broker_lose_nothing_and_double_nothing(
    live: Live, flink_cluster: FlinkCluster, traffic: GenerateSummary
) -> None:
    def workers() -> dict[bool, int]:
        """The workers by whether they have the device store open; the other one reads."""
        found = (pid for pid, command in processes_below(job.pid).items() if "SdkHarness" in command)
        return {has_open(pid, live.folder / "live" / "devices"): pid for pid in found}

    def kill_each_worker() -> None:
        for keeps_stores in (True, False):
            before = workers()
            os.kill(before[keeps_stores], signal.SIGKILL)
            live.wait_until(
                lambda before=before: len(set(workers().values()) - set(before.values())) == 2, "other workers", job
            )

    def kill_task_manager() -> None:
        flink_cluster.task_manager.kill()
        flink_cluster.up()

    def kill_broker() -> None:
        live.kafka.process.kill()
        live.kafka.up()

    live.create_topic(3)
    first, *others = traffic.files
    with live.running(f"--flink-master={flink_cluster.up()}") as job:
        live.produce(f"--input={first}")
        live.wait_until(lambda: live.events() > 1_000, "the first events in the lake", job)
        for path, kill in zip(others, (kill_each_worker, kill_task_manager, kill_broker), strict=True):
            seen = live.events()
            live.produce(f"--input={path}")
            kill()
            live.wait_until(lambda seen=seen: live.events() > seen, f"more events after {kill.__name__}", job)
        live.wait_until(lambda: live.events() == EVENTS, "all events in the lake", job)
        live.end_sessions()
        live.wait_until(live.sessions_closed, "all sessions closed", job)
        live.wait_until(live.has_sessions_of_devices, "the same sessions in the device store", job)
        live.wait_until(live.has_layers, "all events in silver and the stream", job)
    assert_live_equals_replay(live, traffic)


def test_pane_that_no_checkpoint_held_leaves_no_session_when_the_next_attempt_fires_another(live: Live) -> None:
    def click(name: str, minute: int, partition: int) -> None:
        event = {"event_id": name, "event_type": "page_view", "timestamp": f"2026-04-12T12:{minute:02}:00Z"}
        live.send([json.dumps(event | {"device_id": "phone"}).encode()], partition)

    live.create_topic(2)
    click("second", 10, partition=0)
    live.send_sentinel("2026-04-12T12:20:00Z")
    # the first partition alone: an early pane, whose session begins with the second event
    with live.running("--checkpoint-interval=1h", "--early-firing=5m") as job:
        staged = live.folder / "live" / "lake" / "fact_sessions"
        live.wait_until(lambda: any(staged.rglob("*.parquet")), "a pane that waits for a checkpoint", job)
    click("first", 8, partition=1)
    with live.running("--early-firing=5m") as job:
        live.end_sessions()
        closed = "SELECT event_count FROM fact_sessions WHERE device_id = 'phone' AND pane_timing <> 'EARLY'"
        live.wait_until(lambda: live.ask("live", closed) == [(2,)], "the session of both events", job)
        live.wait_until(live.has_sessions_of_devices, "one session in the device store too", job)


def test_run_resumed_from_savepoint_and_checkpoint_goes_on_where_it_stood_and_reads_partitions_added_meanwhile(
    live: Live, flink_cluster: FlinkCluster, traffic: GenerateSummary
) -> None:
    first, second, *others = traffic.files
    live.create_topic(1)
    master = flink_cluster.up()
    with live.running(f"--flink-master={master}") as job:
        live.produce(f"--input={first}")
        live.wait_until(lambda: live.events() > 1_000, "events in the lake", job)
        rest = FlinkRest(master)
        (running,) = (found["jid"] for found in rest.get("/jobs/overview")["jobs"] if found["state"] == "RUNNING")
        # a part of it at most is in the lake by then
        live.produce(f"--input={second}")
        savepoint = rest.savepoint(running, (live.folder / "savepoints").as_uri(), cancel=True)
    assert birth_of(job.pid) is None
    with live.running(f"--resume={savepoint}") as job:
        live.wait_until(lambda: live.events() > 6_000, "the events of two files in the lake", job)
        live.wait_until(lambda: live.jobs_with_checkpoints() == 2, "a checkpoint of its own", job)
    with live.running("--resume=latest") as job:
        live.add_partitions(3)
        live.produce(*(f"--input={path}" for path in others))
        live.wait_until(lambda: live.events() == EVENTS, "all events in the lake", job)
        live.end_sessions()
        live.wait_until(live.sessions_closed, "all sessions closed", job)
        live.wait_until(live.has_sessions_of_devices, "the same sessions in the device store", job)
        live.wait_until(live.has_layers, "all events in silver and the stream", job)
    assert live.ask("live", "SELECT count(DISTINCT partition) FROM dead_letters") == [(3,)]
    assert_live_equals_replay(live, traffic)


def test_fresh_start_on_a_lake_with_rows_of_another_run_is_refused_before_anything_starts(
    live: Live, traffic: GenerateSummary
) -> None:
    live.create_topic(1)
    live.done("run", f"--input={traffic.files[0]}", *live.stores("live"))
    with live.running() as job:
        assert job.wait(DEADLINE) == 2
    refusal = live.log.read_text().splitlines()[-1]
    assert "fact_events has rows of another run" in refusal
    assert "--onto-existing" in refusal
