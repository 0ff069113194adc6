"""The main job through its command line: golden files in, both stores out, held against two independent truths."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import fastavro
import polars as pl
import pyarrow as pa
import pytest
import zstandard
from deltalake import write_deltalake

from pipelines.generate import GenerateOptions, GenerateSummary, generate
from schemas.raw_log import RAW_LOG_AVRO
from schemas.secrets import USER_KEY_VARIABLE
from stores.device_store import open_device_store
from stores.lake_sql import connect
from tests.transforms.activities.daily_oracle import assert_exact

SECRET = "for tests"
EVENTS = "SELECT * FROM fact_events ORDER BY device_id, event_time, event_id"
SESSIONS = "SELECT * FROM fact_sessions ORDER BY device_id, session_start"
DEAD = "SELECT reason, field, step, message, payload FROM dead_letters ORDER BY ALL"


class Stores:
    """A lake and a device store below one folder, and the ways to fill and ask them."""

    def __init__(self, folder: Path) -> None:
        self.lake, self.devices = folder / "lake", folder / "devices"

    @property
    def options(self) -> list[str]:
        return ["--lake", str(self.lake), "--devices", f"rocksdb:{self.devices}"]

    def command(self, *inputs: object, **options: str) -> list[str]:
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        return ["run", *(f"--input={path}" for path in inputs), *self.options, *given]

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with connect(str(self.lake)) as lake:
            return lake.sql(sql).fetchall()

    def everything(self) -> dict[str, list[tuple[object, ...]]]:
        """What anyone can ask: the three tables, and of every device its rows in the device store."""
        found = {"events": self.ask(EVENTS), "sessions": self.ask(SESSIONS), "dead": self.ask(DEAD)}
        with open_device_store(str(self.devices)) as store:
            for (device,) in self.ask("SELECT DISTINCT device_id FROM fact_events ORDER BY 1"):
                found[f"device {device}"] = [
                    tuple(row.values())
                    for table in (store.recent_events(str(device), limit=10**6), store.recent_sessions(str(device)))
                    for row in table.to_pylist()
                ]
        return found


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER_KEY_VARIABLE, SECRET)


Run = Callable[..., dict[str, object]]


@pytest.fixture
def run(command_line: Callable[..., Any]) -> Run:
    """Run the job in this process; its report."""

    def run_command(command: list[str]) -> dict[str, object]:
        code, out, err = command_line(*command, "--json")
        assert code == 0, err
        report: dict[str, object] = json.loads(out)
        return report

    return run_command


def spawn(command: list[str], **settings: object) -> "subprocess.Popen[str]":
    """Run the job in a process of its own."""
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "pipelines.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2], **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def replayed(traffic_files: GenerateSummary, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The generated traffic, replayed once by a process of its own."""
    stores = Stores(tmp_path_factory.mktemp("replayed"))
    with spawn(stores.command(traffic_files.files[0].parent), env={**os.environ, USER_KEY_VARIABLE: SECRET}) as process:
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    return stores


def test_generated_traffic_equals_the_oracle_row_by_row(
    replayed: Stores, traffic_files: GenerateSummary, oracle: ModuleType
) -> None:
    glob = f"{traffic_files.files[0].parent}/*.jsonl"
    with duckdb.connect() as con:
        events = oracle.expected_events(con, glob, SECRET)
        sessions = oracle.expected_sessions(con, glob, SECRET)
        con.register("dead", oracle.expected_dead(con, glob))
        con.execute("SET TimeZone = 'UTC'")
        assert len(events) > 19_000
        for table, expected, order in (
            ("fact_events", events, "device_id, event_time, event_id"),
            ("fact_sessions", sessions, "device_id, session_start"),
        ):
            columns = ", ".join(expected.column_names)
            found = replayed.ask(f"SELECT {columns} FROM {table} ORDER BY {order}")
            assert found == con.sql(f"SELECT {columns} FROM expected ORDER BY {order}").fetchall()
        assert (
            replayed.ask("SELECT reason, count(*) FROM dead_letters GROUP BY 1 ORDER BY 1")
            == con.sql("FROM dead").fetchall()
        )


def test_generated_traffic_equals_the_generators_own_truth(replayed: Stores, traffic_files: GenerateSummary) -> None:
    truth = traffic_files.truth
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for name, table, order in (
            ("events", "fact_events", "device_id, event_id"),
            ("sessions", "fact_sessions", "device_id, session_start"),
        ):
            expected = con.read_parquet(str(truth / f"{name}.parquet"))
            shared = [c for c in expected.columns if c in {row[0] for row in replayed.ask(f"DESCRIBE {table}")}]
            assert len(shared) >= 4
            columns = ", ".join(shared)
            theirs = expected.select(columns).order(order).fetchall()
            assert replayed.ask(f"SELECT {columns} FROM {table} ORDER BY {order}") == theirs
        expected = con.read_parquet(str(truth / "dead_letters.parquet")).select("payload, reason").order("ALL")
        assert replayed.ask("SELECT payload, reason FROM dead_letters ORDER BY ALL") == expected.fetchall()


def test_device_store_holds_what_the_lake_holds(replayed: Stores) -> None:
    devices = [str(row[0]) for row in replayed.ask("SELECT DISTINCT device_id FROM fact_events ORDER BY 1")][::20]
    assert len(devices) > 10
    events, sessions = (
        dict(replayed.ask(f"SELECT device_id, list({row_id} ORDER BY {order}) FROM {table} GROUP BY 1"))
        for row_id, order, table in (
            ("event_id", "event_time DESC, event_id", "fact_events"),
            ("session_id", "session_start DESC", "fact_sessions"),
        )
    )
    with open_device_store(str(replayed.devices), read_only=True) as store:
        for device in devices:
            assert store.recent_events(device, limit=10**6)["event_id"].to_pylist() == events[device]
            assert store.recent_sessions(device)["session_id"].to_pylist() == sessions[device]


def test_daily_metrics_are_what_the_facts_come_to(replayed: Stores) -> None:
    assert_exact(str(replayed.lake))


def lines_of(traffic: GenerateSummary) -> list[bytes]:
    return [line for path in traffic.files for line in path.read_bytes().splitlines(keepends=True)]


def test_shuffled_split_and_doubled_input_gives_identical_stores(
    replayed: Stores, traffic_files: GenerateSummary, stores: Stores, tmp_path: Path, run: Run
) -> None:
    lines = lines_of(traffic_files)
    random.Random(7).shuffle(lines)
    (tmp_path / "in").mkdir()
    bounds = [0, 3, 5_000, 5_001, 17_000, len(lines)]
    for number, (start, end) in enumerate(pairwise(bounds)):
        (tmp_path / "in" / f"{9 - number}.jsonl").write_bytes(b"".join(lines[start:end]))
    report = run(stores.command(tmp_path / "in"))
    before = replayed.everything()
    assert stores.everything() == before

    report = run(stores.command(tmp_path / "in"))
    assert report["lake_rows"] == {}
    assert stores.everything() == before

    # all of it once more from other files: no event and no session is new, each bad line is a bad line again
    doubled = Stores(tmp_path / "doubled")
    report = run(doubled.command(tmp_path / "in", traffic_files.files[0].parent))
    assert report["duplicates"] == len(lines) + traffic_files.lines - 2 * traffic_files.broken - traffic_files.events
    after = doubled.everything()
    assert after.pop("dead") == sorted(before["dead"] * 2, key=before["dead"].index)
    assert after == {key: rows for key, rows in before.items() if key != "dead"}


def test_files_of_every_kind_together_give_the_same_stores(
    replayed: Stores, traffic_files: GenerateSummary, stores: Stores, tmp_path: Path, run: Run
) -> None:
    lines = lines_of(traffic_files)
    quarter = len(lines) // 4
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(b"".join(lines[:quarter]))
    (tmp_path / "in" / "b.gz").write_bytes(gzip.compress(b"".join(lines[quarter : 2 * quarter])))
    (tmp_path / "in" / "c.zst").write_bytes(zstandard.compress(b"".join(lines[2 * quarter : 3 * quarter])))
    with (tmp_path / "in" / "d.avro").open("wb") as log:
        rows = [
            {"payload": line.removesuffix(b"\n"), "source": "clicks", "partition": 0, "offset": n, "arrival_time": None}
            for n, line in enumerate(lines[3 * quarter :])
        ]
        fastavro.writer(log, RAW_LOG_AVRO, rows, codec="deflate")
    run(stores.command(tmp_path / "in" / "*"))
    assert stores.everything() == replayed.everything()


def test_reference_engine_gives_the_same_sessions(
    replayed: Stores, traffic_files: GenerateSummary, stores: Stores, run: Run
) -> None:
    run(stores.command(traffic_files.files[0].parent, session_engine="beam"))
    # pane_index counts early panes, which the two engines fire at other instants; the reference has milliseconds
    state = "SELECT device_id, date_trunc('millisecond', session_start), event_count, revenue, entry_page, country"
    order = "FROM fact_sessions ORDER BY ALL"
    assert stores.ask(f"{state} {order}") == replayed.ask(f"{state} {order}")


def test_day_by_day_replay_ends_in_the_same_stores(
    replayed: Stores, traffic_files: GenerateSummary, stores: Stores, run: Run
) -> None:
    for path in traffic_files.files:
        run(stores.command(path))
    assert stores.ask(EVENTS) == replayed.ask(EVENTS)
    assert stores.ask(DEAD) == replayed.ask(DEAD)
    assert_exact(str(stores.lake))


def test_overwrite_replaces_the_dates_it_touches_and_no_other(
    traffic_files: GenerateSummary, stores: Stores, tmp_path: Path, run: Run
) -> None:
    run(stores.command(traffic_files.files[0].parent))
    untouched = stores.ask("SELECT * FROM fact_events WHERE event_date <> DATE '2026-04-13' ORDER BY ALL")
    line = {"event_id": "only", "event_type": "click", "timestamp": "2026-04-13T12:00:00Z", "device_id": "d"}
    (tmp_path / "one.jsonl").write_text(json.dumps(line))
    run(stores.command(tmp_path / "one.jsonl", write_mode="overwrite"))
    assert stores.ask("SELECT event_id FROM fact_events WHERE event_date = DATE '2026-04-13'") == [("only",)]
    assert stores.ask("SELECT event_count FROM fact_sessions WHERE start_date = DATE '2026-04-13'") == [(1,)]
    assert stores.ask("SELECT * FROM fact_events WHERE event_date <> DATE '2026-04-13' ORDER BY ALL") == untouched


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_input_without_events_is_no_error(stores: Stores, tmp_path: Path, run: Run, content: bytes) -> None:
    (tmp_path / "empty.jsonl").write_bytes(content)
    report = run(stores.command(tmp_path / "empty.jsonl"))
    assert (report["events_read"], report["sessions"]) == (0, 0)
    assert stores.ask("SELECT count(*) FROM fact_sessions") == [(0,)]


def test_truncated_gzip_arrives_up_to_its_break_and_says_so(stores: Stores, tmp_path: Path, run: Run) -> None:
    line = '{{"event_id":"e{0}","event_type":"click","timestamp":"2026-04-13T12:00:00Z","device_id":"d{0}"}}\n'
    data = gzip.compress("".join(line.format(n) for n in range(1000)).encode())
    (tmp_path / "cut.gz").write_bytes(data[: len(data) * 2 // 3])
    report = run(stores.command(tmp_path / "cut.gz"))
    ((count, highest),) = stores.ask("SELECT count(*), max(CAST(event_id[2:] AS INTEGER)) FROM fact_events")
    assert 300 < int(str(count)) == int(str(highest)) + 1 < 1000
    assert report["dead_letters"] == {"truncated_input": 1}
    assert stores.ask("SELECT reason, step FROM dead_letters") == [("truncated_input", "read")]


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_traffic(tmp_path_factory: pytest.TempPathFactory) -> GenerateSummary:
    """Enough to be in the middle of something when the process is killed."""
    return generate(GenerateOptions(events=120_000, devices=300, out=tmp_path_factory.mktemp("large") / "events"))


@pytest.fixture(scope="module")
def undisturbed(
    large_traffic: GenerateSummary, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[object, ...]]]:
    """What the stores hold after a run over the large traffic that nothing disturbed."""
    stores = Stores(tmp_path_factory.mktemp("undisturbed"))
    with spawn(stores.command(large_traffic.files[0].parent), env={**os.environ, USER_KEY_VARIABLE: SECRET}) as process:
        process.communicate()
    assert process.returncode == 0
    return stores.everything()


def until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait until something can be seen of a process, or it has ended."""
    while process.poll() is None and not happened():
        time.sleep(0.005)


def any_file(folder: Path, pattern: str) -> bool:
    return next(folder.rglob(pattern), None) is not None


MOMENTS: dict[str, Callable[[Stores], bool]] = {
    "the device store is being written": lambda s: any_file(s.devices, "*.log") or any_file(s.devices, "*.sst"),
    "files of events lie in the lake": lambda s: any_file(s.lake / "fact_events", "*.parquet"),
    "the events are committed": lambda s: any_file(s.lake / "fact_events" / "_delta_log", "*1.json"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_repeated_equals_an_undisturbed_one(
    large_traffic: GenerateSummary,
    undisturbed: dict[str, list[tuple[object, ...]]],
    stores: Stores,
    run: Run,
    moment: str,
) -> None:
    source = large_traffic.files[0].parent
    with spawn(stores.command(source)) as process:
        until(lambda: MOMENTS[moment](stores), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    run(stores.command(source))
    assert stores.everything() == undisturbed


def fails(command: list[str], **settings: object) -> str:
    """The one line that a run ends with that must fail."""
    with spawn(command, **settings) as process:
        output, errors = process.communicate()
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert process.returncode != 0
    assert (len(lines), output) == (1, "")
    assert "Traceback" not in errors
    return lines[0]


@pytest.fixture
def one_event(tmp_path: Path) -> Path:
    path = tmp_path / "one.jsonl"
    path.write_text('{"event_id":"e","event_type":"click","timestamp":"2026-04-13T12:00:00Z","device_id":"d"}\n')
    return path


def test_lake_of_another_schema_is_refused_before_anything_is_written(stores: Stores, one_event: Path) -> None:
    write_deltalake(str(stores.lake / "fact_events"), pa.table({"event_id": pa.array([1], pa.int64())}))
    error = fails(stores.command(one_event))
    assert "fact_events" in error
    assert "event_id" in error
    assert not any_file(stores.lake / "fact_sessions", "*.parquet")


def test_device_store_in_use_by_another_process_is_refused(stores: Stores, one_event: Path) -> None:
    with open_device_store(str(stores.devices)):
        assert str(stores.devices) in fails(stores.command(one_event))
    assert not any_file(stores.lake, "*.parquet")


@pytest.mark.parametrize("option", ["--lake", "--devices"])
def test_place_without_permission_is_refused(stores: Stores, one_event: Path, option: str) -> None:
    # sysfs takes no new folders, not even from root
    assert "/sys/" in fails([*stores.command(one_event), f"{option}=/sys/clickstream"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB, too small for any store of the large traffic."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", mounted], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount a small file system here: {made.stderr.decode().strip()}")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


@pytest.mark.parametrize("full", ["lake", "devices", "temporary files"])
def test_full_disk_ends_the_run_and_room_mends_it(
    large_traffic: GenerateSummary, small_disk: Path, tmp_path: Path, run: Run, full: str
) -> None:
    stores = Stores(tmp_path)
    source = large_traffic.files[0].parent
    environment = dict(os.environ)
    if full == "temporary files":
        environment["TMPDIR"] = str(small_disk)
    else:
        setattr(stores, full, small_disk / full)
    error = fails(stores.command(source), env=environment)
    assert "No space left" in error or "disk" in error
    # what had been visible in the lake stays whole
    for table in ("fact_events", "fact_sessions"):
        if any_file(stores.lake / table / "_delta_log", "*.json"):
            assert stores.ask(f"SELECT count(*) FROM {table}")[0][0] in (0, 120_000, large_traffic.sessions)

    elsewhere = Stores(tmp_path / "elsewhere")
    if full == "lake":
        elsewhere.devices = stores.devices
    elif full == "devices":
        elsewhere.lake = stores.lake
    run(elsewhere.command(source))
    assert elsewhere.ask("SELECT count(*) FROM fact_events") == [(120_000,)]
    truth = pl.read_parquet(large_traffic.truth / "sessions.parquet")
    assert elsewhere.ask("SELECT count(*) FROM fact_sessions") == [(len(truth),)]


def test_every_wrong_option_is_named_at_once(command_line: Callable[..., Any]) -> None:
    wrong = {
        "--session-gap": "soon",
        "--shards": "0",
        "--write-mode": "maybe",
        "--session-engine": "x",
        "--max-session": "-1h",
        "--devices": "papyrus:roll",
        "--checkpoint-interval": "often",
    }
    code, _, errors = command_line("run", *(f"{option}={value}" for option, value in wrong.items()))
    assert code == 2
    for option in (*wrong, "--lake", "--input"):
        assert f"error: {option}: " in errors


def test_option_of_another_input_or_runner_is_refused_not_passed_over(command_line: Callable[..., Any]) -> None:
    of_others = {
        "--from": "latest", "--until": "now", "--kafka-config": "x", "--kafka-group": "x", "--max-disorder": "2m",
        "--idle-timeout": "1m", "--pubsub-id-attribute": "x", "--pubsub-timestamp-attribute": "x",
        "--flink-master": "localhost:8081", "--checkpoints": "x", "--checkpoint-interval": "5s", "--resume": "x",
        "--state-backend": "rocksdb", "--parallelism": "2",
    }  # fmt: skip
    code, _, errors = command_line("run", "--input=x", *(f"{option}={value}" for option, value in of_others.items()))
    assert code == 2
    for option in of_others:
        assert f"error: {option} goes with --" in errors


@pytest.mark.parametrize(("store", "scheme"), [("lake", ""), ("lake", "file://"), ("devices", "rocksdb:")])
def test_input_that_holds_a_store_of_the_run_is_refused(
    command_line: Callable[..., Any], tmp_path: Path, store: str, scheme: str
) -> None:
    places = {"lake": f"{tmp_path}/elsewhere/lake", "devices": f"{tmp_path}/elsewhere/devices"}
    places[store] = f"{scheme}{tmp_path}/in/{store}"
    (tmp_path / "in" / store).mkdir(parents=True)
    (tmp_path / "in" / store / "x").touch()
    stores = (f"--{name}={place}" for name, place in places.items())
    code, _, errors = command_line("run", f"--input={tmp_path}/in", *stores)
    assert (code, errors.count("\n")) == (2, 1)
    assert f"{tmp_path}/in/{store}/x is of {places[store].removeprefix('rocksdb:')}, which this run writes to" in errors


def test_files_and_beam_options_and_stores_are_checked_together(stores: Stores, tmp_path: Path) -> None:
    with spawn([*stores.command(tmp_path / "nothing*"), "--lake=/sys/x", "--bogus", "1"]) as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 3
    assert "--bogus" in errors
    assert "no file matches" in errors
