"""The command `services` as it is typed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runners.services import KafkaService, cache_home

CommandLine = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of the test; the jars stay where they are cached for all."""
    cached = cache_home().parent
    monkeypatch.setenv("XDG_CACHE_HOME", str(cached))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("CLICKSTREAM_HOME", raising=False)
    yield tmp_path
    KafkaService().down()


def test_services_that_never_ran_are_down(command_line: CommandLine, home: Path) -> None:
    assert command_line("services", "status") == (0, "kafka  down\nflink  down\n", "")
    code, out, _ = command_line("services", "status", "--json")
    assert (code, json.loads(out)) == (0, {"kafka": None, "flink": None})
    assert command_line("services", "down") == (0, "", "")


def test_broker_goes_up_and_down(java: None, command_line: CommandLine, home: Path) -> None:
    code, out, err = command_line("services", "up", "kafka")
    assert (code, err) == (0, "")
    address = out.split()[1]
    assert out == f"kafka  {address}\n"
    code, out, _ = command_line("services", "status", "all", "--json")
    assert (code, json.loads(out)) == (0, {"kafka": {"bootstrap": address}, "flink": None})
    assert command_line("services", "down", "kafka") == (0, "", "")
    assert command_line("services", "status", "kafka") == (0, "kafka  down\n", "")


def test_unknown_service_is_refused(command_line: CommandLine, home: Path) -> None:
    code, out, err = command_line("services", "up", "spark")
    assert (code, out) == (2, "")
    assert "'spark' is none of kafka, flink, all" in err
