"""The runner of `run`: direct in this process, Flink or Dataflow."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.options import RUNNERS, Problems, parse_choice, parse_count
from schemas.durations import parse_duration
from schemas.errors import OptionError

if TYPE_CHECKING:
    from pipelines.run import OpenRunner

_LAYERS_FLOOR = 1_280 << 20
"""Memory that a run with the layers may take in this process before it returns what is free: below it, giving back and
fetching again the buffers of each batch takes a tenth of the run's time."""


@dataclass(frozen=True)
class RunnerArguments:
    """The options that name the runner, unparsed; `pipelines.commands.run_arguments` documents each."""

    runner: str
    flink_master: str | None
    checkpoints: str | None
    checkpoint_interval: str
    state_backend: str
    resume: str | None
    parallelism: str

    def check(self, problems: Problems, endless: bool) -> None:
        """Note the problems of these options, for an input that is endless or not."""
        problems.attempt("--runner", lambda: parse_choice(self.runner, RUNNERS))
        problems.attempt("--checkpoint-interval", lambda: parse_duration(self.checkpoint_interval))
        problems.attempt("--parallelism", lambda: parse_count(self.parallelism))
        for option, given in (
            ("--flink-master", self.flink_master),
            ("--checkpoints", self.checkpoints),
            ("--checkpoint-interval", self.checkpoint_interval != "2s"),
            ("--state-backend", self.state_backend != "hashmap"),
            ("--resume", self.resume),
            ("--parallelism", self.parallelism != "1"),
        ):
            problems.require(not given or self.runner == "flink", f"{option} goes with --runner flink")
        problems.require(self.resume != "latest" or bool(self.checkpoints), "--resume: latest needs --checkpoints")
        resumable = endless or not (self.checkpoints or self.resume)
        problems.require(resumable, "--checkpoints and --resume are for a topic that is followed; a replay starts over")

    def open(self, endless: bool, shards: int, layers: bool = False) -> "OpenRunner":
        """The function that opens the runner. Call it once `check` has found nothing.

        Args:
            endless: Whether the job follows a topic.
            shards: The number of shards.
            layers: Whether the job writes the layers, for which a run in this process needs some 400 MB more.

        Raises:
            OptionError: There is no checkpoint to resume from, its run had another number of shards, or there are
                more subtasks than key groups.
        """
        if self.runner == "flink":
            return self._flink(endless, shards)
        if self.runner == "dataflow":
            from runners.dataflow import dataflow_runner

            return dataflow_runner
        from runners.direct import direct_runner

        return partial(direct_runner, floor=_LAYERS_FLOOR) if layers else direct_runner

    def _flink(self, endless: bool, shards: int) -> "OpenRunner":
        from runners.flink import FlinkOptions, check_shards, flink_runner, newest_checkpoint

        found: str | Path | None = self.resume
        if self.resume == "latest" and self.checkpoints:
            found = newest_checkpoint(Path(self.checkpoints))
            if found is None:
                raise OptionError(f"--resume: there is no completed checkpoint below {self.checkpoints}")
        parallelism = parse_count(self.parallelism)
        if parallelism > (most := max(shards, FlinkOptions.key_groups)):
            raise OptionError(f"--parallelism: at most {most}; for more give as many --shards")
        flink = FlinkOptions(
            master=self.flink_master,
            parallelism=parallelism,
            key_groups=most,
            # With one shard, a bundle emits a single element, and the next step gets no more for a while
            bundle_size=1 if shards == 1 else FlinkOptions.bundle_size,
            checkpoints=self.checkpoints,
            resume_from=found,
            checkpoint_interval=parse_duration(self.checkpoint_interval),
            bounded=not endless,
            state_backend=self.state_backend,
        )
        if self._noted and self.resume:
            check_shards(self._noted, shards)
        return partial(flink_runner, flink=flink)

    @property
    def subtasks(self) -> int | None:
        """Subtasks of each step; None where the number is not known before the run."""
        return parse_count(self.parallelism) if self.runner == "flink" else None

    def noted_shards(self) -> int | None:
        """The number of shards of the run that is resumed; None where no run is, or its number is unknown."""
        if not self.resume or not self._noted:
            return None
        from runners.flink import noted_shards

        return noted_shards(self._noted)

    def note(self, shards: int) -> None:
        """Note the number of shards beside the checkpoints, for a run that resumes; called as a valid run starts."""
        if self._noted and not self.resume:
            from runners.flink import note_shards

            note_shards(self._noted, shards)

    @property
    def _noted(self) -> Path | None:
        """The folder of the checkpoints if it is on this machine, else None."""
        return Path(self.checkpoints) if self.checkpoints and "://" not in self.checkpoints else None
