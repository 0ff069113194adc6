"""What `run` makes of the options that name its runner."""

from pathlib import Path

import pytest

from pipelines.commands.run_runner import RunnerArguments
from schemas.errors import OptionError


def _where(checkpoints: Path, *, resume: str | None = None, parallelism: str = "1") -> RunnerArguments:
    return RunnerArguments(
        runner="flink",
        flink_master=None,
        checkpoints=str(checkpoints),
        checkpoint_interval="2s",
        state_backend="hashmap",
        resume=resume,
        parallelism=parallelism,
    )


def test_run_goes_on_with_the_shards_that_it_began_with(tmp_path: Path) -> None:
    _where(tmp_path).note(3)
    assert _where(tmp_path).noted_shards() is None
    resumed = _where(tmp_path, resume="somewhere")
    assert resumed.noted_shards() == 3
    resumed.open(endless=True, shards=3)
    with pytest.raises(OptionError, match="--shards: the run began with 3 and goes on with as many, not with 4"):
        resumed.open(endless=True, shards=4)


def test_state_is_cut_into_enough_pieces_for_all_subtasks(tmp_path: Path) -> None:
    _where(tmp_path, parallelism="16").open(endless=True, shards=1)
    _where(tmp_path, parallelism="20").open(endless=True, shards=80)
    with pytest.raises(OptionError, match="--parallelism: at most 16; for more give as many --shards"):
        _where(tmp_path, parallelism="17").open(endless=True, shards=1)
