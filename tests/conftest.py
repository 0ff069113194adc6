"""Shared by the whole tree: generated traffic, and the oracle that says what must become of it."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from pipelines.generate import GenerateOptions, GenerateSummary, generate
from runners.load_beam import load_beam
from runners.services import FlinkCluster, KafkaService

# Before any test imports Beam: the tests build thousands of small pipelines
load_beam(google_cloud=True)

# How busy a machine is must fail no test; in CI the examples are the same at every run
settings.register_profile(
    "any-machine",
    settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any-machine")


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What Beam and killed processes leave behind lies with the files of the tests, of which pytest keeps few."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("temporary"))
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The module tests/pipelines/oracle.py, which the import mode of the tests does not put on the path."""
    path = Path(__file__).parent / "pipelines" / "oracle.py"
    spec = importlib.util.spec_from_file_location("clickstream_oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def traffic_files(tmp_path_factory: pytest.TempPathFactory) -> GenerateSummary:
    """20,000 events of 400 devices in three days, with more repeats and broken lines than usual."""
    out = tmp_path_factory.mktemp("traffic") / "events"
    return generate(
        GenerateOptions(
            events=20_000,
            out=out,
            devices=400,
            days=3,
            duplicate_share=0.05,
            broken_share=0.01,
            events_per_file=6_000,
        )
    )


@pytest.fixture(scope="session")
def java() -> None:
    """Skips a test that needs a JDK and Maven on a machine without them, except in CI, where they must be there."""
    missing = [command for command in ("java", "javac", "mvn") if shutil.which(command) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI must have {' and '.join(missing)}: the tests of the live path would not run")
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: a real broker or cluster cannot be started")


@pytest.fixture(scope="session")
def kafka_service(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService]:
    """A real broker, running, for tests that leave it running; `address` says where. Topics: a new name a test."""
    service = KafkaService(tmp_path_factory.mktemp("services"))
    try:
        service.up()
        yield service
    finally:
        service.down()


@pytest.fixture(scope="session")
def flink_cluster(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """A real cluster of one TaskManager, running; a test that takes a part of it down calls `up` again."""
    cluster = FlinkCluster(tmp_path_factory.mktemp("services"))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
