"""A job for Dataflow, as far as it can be seen without an account: its options, its graph, its template."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import typer.main
from apache_beam.portability.api import beam_runner_api_pb2 as api
from google.cloud.dataflow_v1beta3.types import TemplateMetadata

from pipelines.cli import app
from runners.beam_options import parse_beam_options
from runners.dataflow import DataflowOptions, check
from runners.dataflow.check import job_problems, resolve_requirements, store_problems
from runners.dataflow.job import DataflowJob, translate
from runners.dataflow.launch import METADATA, command, parameter_names
from schemas.dead_letters import DEAD_LETTER
from schemas.durations import HOUR, MINUTE, parse_duration, parse_optional_duration
from schemas.errors import OptionError
from schemas.events import EVENT
from schemas.secrets import UserKeySecret
from stores.lake_commit import WriteMode
from transforms.events.decode import Decode
from transforms.events.deduplicate import Deduplicate
from transforms.sessions.policy import SessionPolicy
from transforms.sessions.sessionize import Sessionize
from transforms.sessions.write_sessions import WriteSessions
from transforms.sinks.write_device_store import WriteDeviceEvents, WriteDeviceSessions
from transforms.sinks.write_lake import WriteLake
from transforms.sources.archive import Archive
from transforms.sources.raw_input import RawInput
from transforms.sources.read_kafka import ReadKafka
from transforms.sources.read_pubsub import ReadPubSub

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
IMAGE = "europe-docker.pkg.dev/shop/clicks/clickstream:1.0"
DEVICES = "bigtable:shop-project/clicks/devices"
OPTIONS = DataflowOptions(
    project="shop-project", region="europe-west1", temp_location="gs://shop-temp/beam", image=IMAGE, max_workers=12
)


KAFKA = partial(ReadKafka, "broker:9092", "clicks")
PUBSUB = partial(ReadPubSub, subscription="projects/shop-project/subscriptions/clicks")


def live(source: Callable[[], beam.PTransform], pipeline: beam.Pipeline) -> None:
    """The graph of an endless source, with every step that keeps state, sets timers or commits."""
    policy = SessionPolicy(gap=30 * MINUTE, cap=4 * HOUR, allowed_lateness=HOUR, early_firing=5 * MINUTE)
    raw: RawInput = pipeline | "Read" >> source()
    _ = raw.batches | "Archive" >> Archive("gs://shop/raw")
    decoded = raw.batches | "Decode" >> Decode(UserKeySecret(), NOON)
    unique = decoded.events | "Deduplicate" >> Deduplicate(
        shards=16, gap=policy.gap, allowed_lateness=policy.allowed_lateness, tick=policy.cell
    )
    panes = unique | "Sessionize" >> Sessionize(policy, 16)
    letters = (raw.dead_letters, decoded.dead_letters) | "AllDeadLetters" >> beam.Flatten()
    _ = unique | "EventsToLake" >> WriteLake(EVENT, "gs://shop/lake", WriteMode.APPEND)
    _ = unique | "EventsToDevices" >> WriteDeviceEvents(DEVICES)
    _ = panes | "SessionsToLake" >> WriteSessions("gs://shop/lake")
    _ = panes | "SessionsToDevices" >> WriteDeviceSessions(DEVICES)
    _ = letters | "DeadLettersToLake" >> WriteLake(DEAD_LETTER, "gs://shop/lake", WriteMode.APPEND)


@pytest.fixture(scope="module", params=[KAFKA, PUBSUB], ids=["kafka", "pubsub"])
def job(request: pytest.FixtureRequest) -> Iterator[DataflowJob]:
    """The live graph, translated where no address can be reached."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the translation asks the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield translate(partial(live, request.param), OPTIONS)


def test_live_graph_translates_with_all_that_it_was_told(job: DataflowJob) -> None:
    assert job_problems(job, OPTIONS) == []
    assert job.job.name == "clickstream"
    (pool,) = job.environment.worker_pools
    assert pool.machine_type == "n2-standard-4"
    assert (pool.num_workers, pool.autoscaling_settings.max_num_workers) == (1, 12)
    assert pool.num_threads_per_worker == 4


def test_live_graph_keeps_its_steps_states_and_timers(job: DataflowJob) -> None:
    steps = {step.unique_name: step.spec for step in job.pipeline.components.transforms.values()}
    assert {"Archive/WriteRawLog", "EventsToDevices/WriteEvents", "SessionsToDevices/WriteSessions"} <= steps.keys()
    pardos = {
        name: api.ParDoPayload.FromString(spec.payload)
        for name, spec in steps.items()
        if spec.urn == "beam:transform:pardo:v1"
    }
    assert {name for name, pardo in pardos.items() if pardo.state_specs} == {
        "Deduplicate/OfStream/DropSeen/ParDo(_DropSeen)",
        "Sessionize/TickSessions",
        "EventsToLake/StreamToLake/CommitInOrder/Sequence",
        "SessionsToLake/WriteLake/StreamToLake/CommitInOrder/Sequence",
        "DeadLettersToLake/StreamToLake/CommitInOrder/Sequence",
    }
    timers = {timer.time_domain for pardo in pardos.values() for timer in pardo.timer_family_specs.values()}
    assert timers == {api.TimeDomain.EVENT_TIME}


def test_pubsub_is_read_by_the_service_and_kafka_by_a_splittable_step(job: DataflowJob) -> None:
    steps = {step.unique_name: step.spec for step in job.pipeline.components.transforms.values()}
    if "Read/ReadMessages/Read" in steps:
        assert steps["Read/ReadMessages/Read"].urn == "beam:transform:pubsub_read:v1"
        assert b"projects/shop-project/subscriptions/clicks" in steps["Read/ReadMessages/Read"].payload
    else:
        assert "beam:requirement:pardo:splittable_dofn:v1" in job.pipeline.requirements


def test_job_says_nothing_of_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKSTREAM_USER_KEY_SECRET", "do-not-tell")
    told = translate(partial(live, KAFKA), OPTIONS)
    assert "do-not-tell" not in str(told.environment) + str(told.job)
    assert b"do-not-tell" not in told.pipeline.SerializeToString()


def test_job_with_other_settings_than_those_wanted_is_refused(job: DataflowJob) -> None:
    wanted = DataflowOptions(
        project="shop-project",
        region="europe-west1",
        temp_location="gs://shop-temp",
        image=IMAGE.replace("1.0", "2.0"),
        max_workers=3,
    )
    problems = job_problems(job, wanted)
    assert len(problems) == 2
    assert "at most 12 workers, not 3" in problems
    assert "images" in problems[1]


def test_package_that_each_worker_would_install_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "extra-1.0.tar.gz"
    package.touch()
    job = translate(partial(live, KAFKA), OPTIONS, parse_beam_options([f"--extra_package={package}"]))
    (problem,) = job_problems(job, OPTIONS)
    assert problem.startswith("each worker would fetch extra-1.0.tar.gz")


def test_bounded_graph_is_refused_by_the_check_of_streaming() -> None:
    job = translate(lambda pipeline: pipeline | beam.Create([1]), OPTIONS)
    job.job.type_ = type(job.job.type_).JOB_TYPE_BATCH
    assert job_problems(job, OPTIONS) == ["the job is JOB_TYPE_BATCH, not JOB_TYPE_STREAMING"]


def test_options_given_to_beam_are_completed_and_no_other_is_changed() -> None:
    given = parse_beam_options([
        "--project=shop-project", "--region=europe-west1", "--temp_location=gs://shop-temp", "--job_name=clicks-live",
        f"--sdk_container_image={IMAGE}", "--max_num_workers=50", "--dataflow_service_option=enable_hot_key_logging",
        "--subnetwork=regions/europe-west1/subnetworks/private", "--no_use_public_ips",
    ])  # fmt: skip
    read = DataflowOptions.read(given)
    assert (read.job_name, read.max_workers, read.machine_type) == ("clicks-live", 50, "n2-standard-4")
    completed = read.apply(given).get_all_options()
    expected: dict[str, Any] = {
        "runner": "DataflowRunner",
        "streaming": True,
        "autoscaling_algorithm": "THROUGHPUT_BASED",
        "enable_streaming_engine": True,
        "dataflow_service_options": ["enable_hot_key_logging"],
        "staging_location": "gs://shop-temp",
        "subnetwork": "regions/europe-west1/subnetworks/private",
        "use_public_ips": False,
        "sdk_location": "container",
    }
    assert {name: completed[name] for name in expected} == expected


def test_options_that_are_missing_or_malformed_are_all_named() -> None:
    with pytest.raises(OptionError) as error:
        DataflowOptions.read(parse_beam_options(["--temp_location=/tmp", "--num_workers=9", "--max_num_workers=3"]))
    lines = str(error.value).split("\n")
    assert [line.partition(":")[0] for line in lines] == [
        "--project",
        "--region",
        "--temp_location",
        "--staging_location",
        "--sdk_container_image",
        "--num_workers",
    ]


@pytest.mark.parametrize(
    ("lake", "devices", "archive", "named"),
    [
        ("gs://shop/lake", DEVICES, "gs://shop/raw", []),
        ("lake", DEVICES, "raw", ["--lake", "--archive"]),
        ("gs://shop/lake", "/data/devices", None, ["--devices"]),
        ("gs://shop/lake", "cassandra:host/keyspace", None, ["--devices"]),
        ("gs://shop/lake", "bigtable:project/table", None, ["--devices"]),
    ],
)
def test_places_that_workers_do_not_share_are_named(
    lake: str, devices: str, archive: str | None, named: list[str]
) -> None:
    assert [line.partition(":")[0] for line in store_problems(lake, devices, archive)] == named


def test_template_is_what_the_service_takes() -> None:
    template = TemplateMetadata.from_json(METADATA.read_text(encoding="utf-8"))
    assert template.streaming
    assert template.supports_exactly_once
    names = [parameter.name for parameter in template.parameters]
    assert len(set(names)) == len(names)
    assert all(parameter.help_text and parameter.label and parameter.regexes for parameter in template.parameters)
    assert {parameter.name for parameter in template.parameters if not parameter.is_optional} == {
        "sdk_container_image",
        "lake",
        "devices",
    }


def test_every_parameter_of_the_template_is_an_option_of_the_command() -> None:
    options = {
        option.removeprefix("--").replace("-", "_")
        for parameter in typer.main.get_command(app).commands["run"].params  # type: ignore[attr-defined]
        for option in parameter.opts
    }
    assert set(parameter_names()) <= options


def regex_of(name: str) -> "re.Pattern[str]":
    declared = json.loads(METADATA.read_text(encoding="utf-8"))["parameters"]
    (regexes,) = (parameter["regexes"] for parameter in declared if parameter["name"] == name)
    return re.compile(regexes[0])


@pytest.mark.parametrize("text", ["30m", "1h30m", "90s", "500ms", "off", "", "30", "m", "1.5h", "-5m"])
def test_durations_of_the_template_are_those_of_the_command(text: str) -> None:
    for name, parse in (("session_gap", parse_duration), ("max_session", parse_optional_duration)):
        try:
            parse(text)
            accepted = True
        except OptionError:
            accepted = False
        assert bool(regex_of(name).search(text)) == accepted


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("lake", "gs://shop/lake", "/data/lake"),
        ("devices", DEVICES, "rocksdb:/data/devices"),
        ("pubsub", "projects/shop-project/subscriptions/clicks", "clicks"),
        ("kafka", "a.shop:9092,b.shop:9092", "a.shop"),
        ("sdk_container_image", IMAGE, "clickstream"),
    ],
)
def test_template_takes_what_the_job_takes_and_no_other(name: str, good: str, bad: str) -> None:
    assert regex_of(name).search(good)
    assert not regex_of(name).search(bad)


def test_launcher_spells_our_options_as_the_command_does() -> None:
    given = ["--lake=gs://shop/lake", "--session_gap=30m", f"--sdk_container_image={IMAGE}", "--runner=DataflowRunner"]
    assert command([*given, "--template_location=/template/job"], parameter_names()) == [
        "clickstream",
        "run",
        "--runner=dataflow",
        "--lake=gs://shop/lake",
        "--session-gap=30m",
        f"--sdk_container_image={IMAGE}",
        "--template_location=/template/job",
    ]


def test_image_copies_what_is_there_and_is_of_this_beam() -> None:
    root = METADATA.parents[2]
    lines = (METADATA.parent / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert f"FROM apache/beam_python3.11_sdk:{beam.__version__}" in lines
    copied = [
        path
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for path in line.removeprefix("COPY ").split()[:-1]
    ]
    assert [path for path in copied if not (root / path).exists()] == []
    packages = {"schemas", "stores", "transforms", "runners", "pipelines", "requirements.lock"}
    assert packages <= set(copied)


def test_packages_that_do_not_resolve_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the real index is for `python -m runners.dataflow.check`, not for each run of the tests
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(OptionError, match=r"requirements\.lock cannot be resolved: No matching distribution found"):
        resolve_requirements(lock)


def test_packages_are_not_resolved_for_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "IMAGE_PLATFORM", ("linux", "riscv64", 3, 11))
    with pytest.raises(OptionError, match="riscv64"):
        resolve_requirements(Path("requirements.lock"))
