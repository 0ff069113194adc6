"""Temporary files of a run lie in one folder, and go with it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runners.scratch import scratch
from schemas.errors import StoreError


def test_temporary_files_of_a_process_and_its_children_go_with_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with scratch():
        ours = Path(tempfile.mkdtemp())
        program = [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp(), end='')"]
        theirs = Path(subprocess.run(program, capture_output=True, check=True, text=True).stdout)
        assert ours.is_dir()
        assert theirs.is_dir()
        assert ours.parent == theirs.parent
        assert [ours.parent] == list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path)


def test_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="cannot make a temporary folder in"), scratch():
        pytest.fail("it is not there")
