"""The options of a run on Flink, translated into Beam's options and Flink's settings."""

import re
from dataclasses import dataclass
from pathlib import Path

from schemas.durations import MILLISECOND, MINUTE, SECOND
from schemas.errors import OptionError

STATE_BACKENDS = ("hashmap", "rocksdb")
CONCURRENT_CHECKPOINTS = 16
"""Checkpoints that may be in progress at a time. Beam buffers stable input in one more buffer than that, used in turn.

With one concurrent checkpoint, and so two buffers: after a restore or a savepoint, one buffer is still full when the
input after the next checkpoint goes into it too. So input that no checkpoint covers is released, and ahead of input
that an earlier checkpoint covers. With sixteen, this would take sixteen checkpoints that begin before the first one
after a restore completes.
"""


@dataclass(frozen=True)
class FlinkOptions:
    """A user's options for a run on Flink. Durations are in microseconds.

    Attributes:
        master: ``host:port`` of a cluster's REST address; None starts a cluster within the job server.
        parallelism: Subtasks of each step. On one machine, more subtasks cost more than they gain: each has its own
            bundles, timers and part of every checkpoint, and all share the same two workers.
        key_groups: Flink's key groups (max parallelism): the most subtasks that a step can ever have. A resumed run
            keeps their number. Each state has a table per key group, even if empty, in memory and in checkpoints.
        checkpoints: Folder of the checkpoints, a path or URI that every worker of the cluster can access. They are kept
            however the job ends, so that a later run can resume. If None, no checkpoint outlives the run.
        resume_from: A checkpoint or savepoint to start from, of `newest_checkpoint` or `FlinkRest.savepoint`.
        checkpoint_interval: Time between checkpoints. Input becomes visible in the lake once a checkpoint covers it.
        bundle_time: How long a bundle stays open for more input: a trade-off between throughput and latency.
        bundle_size: Number of elements at which a bundle ends, whatever its time.
        max_failures: Failures within `failure_interval` after which the job gives up, whether workers are lost or an
            error recurs.
        failure_interval: See `max_failures`.
        restart_delay: Wait before the job restarts from its last checkpoint.
        bounded: Whether the input ends, and with it the job. Such a job takes no checkpoints: after a failure it starts
            over, and leaves the stores in the same state. With checkpoints, Flink would never close its sources, and
            Beam's runner fails to checkpoint a step with a side input, which a bounded graph has.
        state_backend: ``hashmap`` keeps state on the heap, and each checkpoint writes all of it. ``rocksdb`` keeps
            state on the cluster's disks, and a checkpoint writes only what has changed.
        heap_mb: Memory of the job server, including the embedded cluster, in MiB.
    """

    master: str | None = None
    parallelism: int = 1
    key_groups: int = 16
    checkpoints: str | Path | None = None
    resume_from: str | Path | None = None
    checkpoint_interval: int = 2 * SECOND
    bundle_time: int = 60 * MILLISECOND
    bundle_size: int = 1_000
    max_failures: int = 10
    failure_interval: int = 10 * MINUTE
    restart_delay: int = 1 * SECOND
    bounded: bool = False
    state_backend: str = "hashmap"
    heap_mb: int = 2_048

    def __post_init__(self) -> None:
        """Raise OptionError with one line per problem."""
        problems = [
            f"{name} must be at least 1"
            for name in ("parallelism", "key_groups", "bundle_size", "max_failures", "heap_mb")
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} must be at least 1ms"
            for name in ("checkpoint_interval", "bundle_time", "failure_interval", "restart_delay")
            if getattr(self, name) < MILLISECOND
        ]
        if self.parallelism > self.key_groups:
            problems.append(f"parallelism must not be more than {self.key_groups}, the number of key groups")
        if self.bounded and (self.checkpoints is not None or self.resume_from is not None):
            problems.append("an input that ends takes no checkpoints, and resumes from none: run it again")
        if self.master is not None and not _is_address(self.master):
            problems.append(f"{self.master!r} is not the address of a Flink cluster: write it like 127.0.0.1:8081")
        if self.state_backend not in STATE_BACKENDS:
            problems.append(f"state backend {self.state_backend!r} is none of {', '.join(STATE_BACKENDS)}")
        if problems:
            raise OptionError("\n".join(problems))

    def for_beam(self) -> dict[str, str | bool]:
        """Options of Beam's Flink runner by name, as its job server expects them."""
        options: dict[str, str | bool] = {
            "streaming": True,
            "parallelism": str(self.parallelism),
            "max_parallelism": str(self.key_groups),
            "max_bundle_time_mills": _millis(self.bundle_time),
            "max_bundle_size": str(self.bundle_size),
            "faster_copy": True,
            "object_reuse": True,
        }
        if not self.bounded:
            options |= {
                "checkpointing_interval": _millis(self.checkpoint_interval),
                # Otherwise a checkpoint in the middle of a bundle buffers its output, and some runs emitted nothing
                "finish_bundle_before_checkpointing": True,
                "num_concurrent_checkpoints": str(CONCURRENT_CHECKPOINTS),
            }
        if self.resume_from is not None and self.master is not None:
            options["savepoint_path"] = as_uri(self.resume_from)
        return options

    def for_flink(self) -> dict[str, str]:
        """Flink settings for which Beam has no option, or one that does not work."""
        settings = {
            "state.backend.type": self.state_backend,
            # with RocksDB, a checkpoint writes only what has changed
            "state.backend.incremental": "true",
            "restart-strategy.type": "failure-rate",
            "restart-strategy.failure-rate.max-failures-per-interval": str(self.max_failures),
            "restart-strategy.failure-rate.failure-rate-interval": f"{_millis(self.failure_interval)} ms",
            "restart-strategy.failure-rate.delay": f"{_millis(self.restart_delay)} ms",
        }
        if self.checkpoints is not None:
            settings |= {
                "state.checkpoint-storage": "filesystem",
                "state.checkpoints.dir": as_uri(self.checkpoints),
                "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            }
        if self.resume_from is not None and self.master is None:
            # Beam's own option works on a standalone cluster but not on the embedded one
            settings["execution.savepoint.path"] = as_uri(self.resume_from)
        return settings


def as_uri(folder: str | Path) -> str:
    """A folder as a URI for Flink.

    >>> as_uri("/data/checkpoints"), as_uri("gs://bucket/checkpoints"), as_uri("file:/data/savepoint-1")
    ('file:///data/checkpoints', 'gs://bucket/checkpoints', 'file:/data/savepoint-1')
    """
    text = str(folder)
    return text if re.match(r"[a-z][a-z0-9+.-]*:/", text) else Path(text).absolute().as_uri()


def _millis(micros: int) -> str:
    return str(micros // MILLISECOND)


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal()
