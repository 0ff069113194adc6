"""Shared by the whole tree: generated traffic, and the oracle that says what must become of it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.generate import GenerateOptions, GenerateSummary, generate


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
