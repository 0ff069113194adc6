"""What a user chooses of Flink, put into Beam's words and Flink's; which checkpoint is the newest; what went wrong."""

import os
from pathlib import Path

import pytest

from pipelines.commands.run_runner import RunnerArguments
from runners.flink import FlinkOptions, newest_checkpoint
from runners.flink.runner import _cause, _run_folder
from schemas.durations import MILLISECOND, MINUTE, SECOND
from schemas.errors import OptionError


def test_durations_go_to_beam_in_milliseconds() -> None:
    options = FlinkOptions(checkpoint_interval=3 * SECOND, bundle_time=250 * MILLISECOND)
    told = options.for_beam()
    assert told["checkpointing_interval"] == "3000"
    assert told["max_bundle_time_mills"] == "250"


def test_restore_is_told_where_it_works(tmp_path: Path) -> None:
    embedded = FlinkOptions(resume_from=tmp_path)
    assert embedded.for_flink()["execution.savepoint.path"] == tmp_path.as_uri()
    assert "savepoint_path" not in embedded.for_beam()
    cluster = FlinkOptions(resume_from=tmp_path, master="127.0.0.1:8081")
    assert cluster.for_beam()["savepoint_path"] == tmp_path.as_uri()
    assert "execution.savepoint.path" not in cluster.for_flink()


def test_restarts_are_bounded() -> None:
    told = FlinkOptions(max_failures=3, failure_interval=MINUTE).for_flink()
    assert told["restart-strategy.type"] == "failure-rate"
    assert told["restart-strategy.failure-rate.max-failures-per-interval"] == "3"
    assert told["restart-strategy.failure-rate.failure-rate-interval"] == "60000 ms"


def test_every_wrong_option_is_named_at_once() -> None:
    with pytest.raises(OptionError) as refusal:
        FlinkOptions(master="http://somewhere:8081/", parallelism=0, bundle_time=999, state_backend="memory")
    assert str(refusal.value).split("\n") == [
        "parallelism must be at least 1",
        "bundle_time must be at least 1ms",
        "'http://somewhere:8081/' is not the address of a Flink cluster: write it like 127.0.0.1:8081",
        "state backend 'memory' is none of hashmap, rocksdb",
    ]


def test_newest_checkpoint_is_the_last_that_was_completed(tmp_path: Path) -> None:
    for age, name in enumerate(["job-b/chk-10", "job-a/chk-9", "job-a/chk-2"]):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "_metadata").touch()
        os.utime(folder / "_metadata", (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "job-c" / "chk-11").mkdir(parents=True)  # not completed
    assert newest_checkpoint(tmp_path) == tmp_path / "job-b/chk-10"


def test_run_goes_on_with_the_shards_that_it_began_with(tmp_path: Path) -> None:
    def arguments(resume: str | None) -> RunnerArguments:
        return RunnerArguments("flink", None, str(tmp_path / "checkpoints"), "2s", "hashmap", resume, "2")

    checkpoint = tmp_path / "checkpoints" / "job" / "chk-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_metadata").touch()
    arguments("latest").open(endless=True, shards=8)  # of a version that made no note
    arguments(None).note(4)
    arguments("latest").note(8)
    arguments("latest").open(endless=True, shards=4)
    for resume in ("latest", str(checkpoint)):
        with pytest.raises(OptionError, match="--shards: the run began with 4 and goes on with as many, not with 8"):
            arguments(resume).open(endless=True, shards=8)


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_folder_without_checkpoint_has_no_newest(tmp_path: Path, folder: str) -> None:
    assert newest_checkpoint(tmp_path / folder) is None


def test_error_of_a_python_step_is_found_in_the_tracebacks_of_java() -> None:
    text = """java.lang.RuntimeException: The Runner experienced the following error during execution:
Caused by: java.util.concurrent.ExecutionException: Error received from SDK harness for instruction 7: Traceback
  File "common.py", line 1512, in process
schemas.errors.StoreError: cannot write the lake

During handling of the above exception, another exception occurred:

schemas.errors.StoreError: cannot write the lake [while running 'Commit-ptransform-12']

\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.onNext(FnApiControlClient.java:177)
"""
    assert _cause([text]) == "StoreError: cannot write the lake"


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        (["x failed\nCaused by: a.B: outer\n\tat a.b\nCaused by: a.C: inner\n\tat c.d"], "a.C: inner"),
        (["\nno slots\n\tat a.b"], "no slots"),
        ([], "no message"),
    ],
)
def test_error_of_java_is_its_innermost_cause(errors: list[str], cause: str) -> None:
    assert _cause(errors) == cause


def test_folders_of_old_runs_go_unless_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKSTREAM_HOME", str(tmp_path))
    monkeypatch.setattr("runners.flink.runner.RUNS_KEPT", 2)
    with _run_folder() as running:
        ended = []
        for _ in range(4):
            with _run_folder() as folder:
                (folder / "job-server.log").touch()
            ended.append(folder)
        left = set((tmp_path / "flink-runs").iterdir())
        assert running in left
        assert len(left & set(ended)) == 2
