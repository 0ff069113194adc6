"""The command line, run in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from pipelines.cli import run_command
from pipelines.terminal import ERR, OUT


class Ended(NamedTuple):
    """How a command ended: its exit status, and what it printed."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Ended]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed depends on no setting of the terminal that the tests are started from."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for console in (OUT, ERR):
        monkeypatch.setattr(console, "_color_system", None)  # which rich decides once, when it is imported


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `clickstream` with these arguments; a terminal of 80 columns."""
    monkeypatch.setattr(OUT, "width", 80)

    def start(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["clickstream", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_command()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return start
