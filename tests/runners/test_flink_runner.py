"""Flink as a runner, with the real thing: state, timers, checkpoints, restores, lost workers, and a clean end."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from runners.flink import FlinkOptions, FlinkRunner, JobFailedError, flink_runner, newest_checkpoint
from runners.flink.options import STATE_BACKENDS
from runners.services import FlinkCluster
from runners.services.processes import birth_of, listens
from schemas.durations import MILLISECOND
from schemas.errors import ServiceError
from stores.lake import find_table, read_table

ROOT = Path(__file__).parents[2]
DEADLINE = 180.0
FAST: dict[str, Any] = {"parallelism": 1, "checkpoint_interval": 300 * MILLISECOND, "restart_delay": 100 * MILLISECOND}


@pytest.fixture(scope="module")
def pipelines() -> Iterator[ModuleType]:
    """The module flink_pipelines.py, on the path that worker processes inherit."""
    sys.path.insert(0, str(Path(__file__).parent))
    yield importlib.import_module("flink_pipelines")
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="module", autouse=True)
def service_home(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Logs of runs go to a folder of the test; the jars stay where they are cached for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def wait_until(holds: Callable[[], Any], what: str, result: Any = None) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        if result is not None and result.state == "FAILED":
            result.wait_until_finish()
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.05)


def lines(out: Path) -> list[list[str]]:
    return [line.split() for line in out.read_text().splitlines()] if out.exists() else []


def numbers(out: Path) -> dict[int, set[int]]:
    """The tallies that were written beside each number."""
    found: dict[int, set[int]] = {}
    for number, tally, _ in lines(out):
        if number != "tick":
            found.setdefault(int(number), set()).add(int(tally))
    return found


def assert_state_went_with_the_source(out: Path) -> None:
    """No number is missing, and each, also one that was written again, was counted exactly once."""
    found = numbers(out)
    assert sorted(found) == list(range(len(found)))
    assert found == {number: {number + 1} for number in found}


@contextmanager
def running(flink: FlinkOptions, build: Callable[[beam.Pipeline, Path], None], out: Path) -> Iterator[Any]:
    options = PipelineOptions([])
    with flink_runner(options, flink) as runner:
        pipeline = beam.Pipeline(runner=runner, options=options)
        build(pipeline, out)
        yield runner, pipeline.run()


def running_tally(
    flink: FlinkOptions, pipelines: ModuleType, out: Path
) -> AbstractContextManager[tuple[FlinkRunner, Any]]:
    return running(flink, pipelines.build_tally, out)


def test_state_goes_on_from_a_checkpoint_and_from_a_savepoint(
    flink_cluster: FlinkCluster, pipelines: ModuleType, tmp_path: Path
) -> None:
    out, checkpoints, savepoints = tmp_path / "out", tmp_path / "checkpoints", tmp_path / "savepoints"

    # embedded, cancelled when the context ends: its newest checkpoint stays
    settings = FAST | {"checkpoints": checkpoints}
    with running_tally(FlinkOptions(**settings), pipelines, out) as (_, result):
        wait_until(lambda: len(numbers(out)) > 20 and newest_checkpoint(checkpoints), "20 numbers", result)
    assert [line for line in lines(out) if line[0] == "tick"]
    assert_state_went_with_the_source(out)

    # on the cluster, from that checkpoint
    first = len(numbers(out))
    settings |= {"master": flink_cluster.up(), "resume_from": newest_checkpoint(checkpoints)}
    with running_tally(FlinkOptions(**settings), pipelines, out) as (runner, result):
        wait_until(lambda: len(numbers(out)) > first + 20, "20 numbers more", result)
        job = runner.job
        assert job is not None
        savepoint = runner.rest.savepoint(job, str(savepoints))
    assert runner.rest.state(job) == "CANCELED"
    assert_state_went_with_the_source(out)
    # restored, not begun again: only what came after the checkpoint was written twice
    assert len([line for line in lines(out) if line[0] == "0"]) == 1

    # embedded again, from a savepoint of the cluster
    second = len(numbers(out))
    with running_tally(FlinkOptions(**FAST, resume_from=savepoint), pipelines, out) as (_, result):
        wait_until(lambda: len(numbers(out)) > second + 20, "20 numbers more", result)
    assert_state_went_with_the_source(out)
    assert len([line for line in lines(out) if line[0] == "0"]) == 1


@pytest.mark.parametrize("cluster", ["embedded", "standalone"])
def test_state_of_a_source_that_puts_its_rest_off_stays_bounded(
    flink_cluster: FlinkCluster, pipelines: ModuleType, tmp_path: Path, cluster: str
) -> None:
    master = flink_cluster.up() if cluster == "standalone" else None
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"

    def states() -> set[bytes]:
        """Names of the states in which the newest checkpoint keeps what is left of a read."""
        with suppress(FileNotFoundError):  # a newer one came
            folder = newest_checkpoint(checkpoints)
            files = [file.read_bytes() for file in folder.iterdir()] if folder else []
            return {name for content in files for name in re.findall(rb"sdf_checkpoint:[0-9]+", content)}
        return set()

    flink = FlinkOptions(**FAST, master=master, checkpoints=checkpoints)
    with running_tally(flink, pipelines, out) as (_, result):
        wait_until(lambda: len(numbers(out)) > 40 * pipelines.BATCH, "40 bundles of the source", result)
        found: list[set[bytes]] = []
        wait_until(lambda: found.append(states()) or found[-1], "a checkpoint", result)
        assert len(found[-1]) <= 16
    assert_state_went_with_the_source(out)


def test_job_survives_its_worker_and_leaves_no_process(pipelines: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running_tally(FlinkOptions(**FAST), pipelines, out) as (runner, result):
        wait_until(lambda: len(numbers(out)) > 10, "10 numbers", result)
        (killed,) = runner.worker_pids()
        os.kill(killed, signal.SIGKILL)
        before = len(numbers(out))
        wait_until(lambda: len(numbers(out)) > before + 20, "20 numbers after the worker's death", result)
        (alive,) = runner.worker_pids()
    assert {int(line[-1]) for line in lines(out)} == {killed, alive}
    assert_state_went_with_the_source(out)
    assert birth_of(alive) is None
    assert not listens(runner.rest.address)


@pytest.mark.parametrize("state_backend", STATE_BACKENDS)
def test_commits_stay_in_order_when_restores_meet_checkpoints_that_take_long(
    pipelines: ModuleType, tmp_path: Path, state_backend: str
) -> None:
    def numbers() -> list[int]:
        found = find_table(str(tmp_path), pipelines.NUMBER.name)
        return sorted(read_table(str(tmp_path), pipelines.NUMBER.name)["number"].to_pylist()) if found else []

    flink = FlinkOptions(**FAST, state_backend=state_backend, max_failures=6)
    with running(flink, pipelines.build_lake, tmp_path) as (runner, result):
        for _ in range(3):
            seen = len(numbers())
            wait_until(lambda seen=seen: len(numbers()) > seen, "more numbers in the lake", result)
            (worker,) = runner.worker_pids()
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda worker=worker: runner.worker_pids() not in ([], [worker]), "another worker", result)
        seen = len(numbers())
        wait_until(lambda: len(numbers()) > seen + 50, "50 numbers more", result)
    found = numbers()
    assert found == list(range(len(found)))


def test_step_that_fails_each_time_ends_the_job_with_its_error(pipelines: ModuleType) -> None:
    options = PipelineOptions([])
    with flink_runner(options, FlinkOptions(**FAST, max_failures=1)) as runner:
        pipeline = beam.Pipeline(runner=runner, options=options)
        _ = pipeline | beam.Create(["this"]) | beam.ParDo(pipelines.Fail())
        with pytest.raises(JobFailedError, match=r"^the job failed: ValueError: cannot take this; see ") as failure:
            pipeline.run().wait_until_finish()
    assert "\n" not in str(failure.value)


def test_job_server_that_dies_is_told_in_one_line(pipelines: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running_tally(FlinkOptions(**FAST), pipelines, out) as (runner, result):
        wait_until(lambda: numbers(out), "a number", result)
        runner.kill_job_server()
        with pytest.raises(ServiceError, match=r"^the Flink job server has gone; its log ") as failure:
            result.wait_until_finish()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_driver(pipelines: ModuleType, tmp_path: Path, sent: signal.Signals) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import apache_beam as beam\n"
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        "from flink_pipelines import build_tally\n"
        "from runners.flink import FlinkOptions, flink_runner\n"
        "options = PipelineOptions([])\n"
        "flink = FlinkOptions(parallelism=1, checkpoint_interval=300_000, checkpoints='checkpoints')\n"
        "with flink_runner(options, flink) as runner:\n"
        "    pipeline = beam.Pipeline(runner=runner, options=options)\n"
        "    build_tally(pipeline, Path('out'))\n"
        "    result = pipeline.run()\n"
        "    print(options.get_all_options()['job_endpoint'], flush=True)\n"
        "    result.wait_until_finish()\n"
    )
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    with (
        open(tmp_path / "errors", "wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as driver,
    ):
        assert driver.stdout is not None
        address = driver.stdout.readline().strip()
        wait_until(lambda: numbers(tmp_path / "out") and newest_checkpoint(tmp_path), "a number and a checkpoint")
        driver.send_signal(sent)
    assert driver.returncode == -sent
    worker = int(lines(tmp_path / "out")[0][-1])
    wait_until(lambda: not listens(address), "the end of the job server")
    wait_until(lambda: birth_of(worker) is None, "the end of the worker")
    assert newest_checkpoint(tmp_path) is not None
    # nothing beside Python's own word on Ctrl-C
    said = (tmp_path / "errors").read_text().splitlines()
    assert [line for line in said if line and not line.startswith((" ", "Traceback"))] == (
        ["KeyboardInterrupt"] if sent is signal.SIGINT else []
    )
