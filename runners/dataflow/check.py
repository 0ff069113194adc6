"""Checks of a Dataflow job that need no cloud account."""

import platform
import subprocess
import sys
from pathlib import Path

from apache_beam.portability.api import beam_runner_api_pb2 as api

from runners.dataflow.job import DataflowJob
from runners.dataflow.options import DataflowOptions
from schemas.errors import OptionError

STREAMING_ENGINE = "enable_streaming_engine"
IMAGE_PLATFORM = ("linux", "x86_64", 3, 11)
_LISTING = "submission_environment_dependencies.txt"
"""File with pip's list of the packages at submission, staged for the job's log."""

_JOB_TYPE, _AUTOSCALING = "JOB_TYPE_STREAMING", "AUTOSCALING_ALGORITHM_BASIC"


def job_problems(job: DataflowJob, options: DataflowOptions) -> list[str]:
    """Settings that did not reach a translated job, one line each."""
    (pool,) = job.environment.worker_pools
    scaling = pool.autoscaling_settings
    images = {image.container_image for image in pool.sdk_harness_container_images}
    staged = sorted(_staged(job) - {_LISTING})
    most = scaling.max_num_workers
    facts = [
        (job.job.type_.name == _JOB_TYPE, f"the job is {job.job.type_.name}, not {_JOB_TYPE}"),
        (scaling.algorithm.name == _AUTOSCALING, f"autoscaling is {scaling.algorithm.name}, not by throughput"),
        (most == options.max_workers, f"at most {most} workers, not {options.max_workers}"),
        (STREAMING_ENGINE in job.environment.experiments, "Streaming Engine is off"),
        (images == {options.image}, f"the workers' images are {sorted(images)}, not {options.image}"),
        (not staged, f"each worker would fetch {', '.join(staged)}; the image has all that is needed"),
    ]
    return [problem for holds, problem in facts if not holds]


def _staged(job: DataflowJob) -> set[str]:
    """Names of the files staged with the job."""
    return {
        api.ArtifactStagingToRolePayload.FromString(file.role_payload).staged_name
        for environment in job.pipeline.components.environments.values()
        for file in environment.dependencies
    }


def store_problems(lake: str, devices: str, archive: str | None) -> list[str]:
    """Store locations that Dataflow's workers cannot share, one line each.

    >>> store_problems("gs://shop/lake", "bigtable:shop/clicks/devices", None)
    []
    >>> store_problems("gs://shop/lake", "rocksdb:/data/devices", None)
    ['--devices: rocksdb is a folder of one machine; on Dataflow use bigtable:PROJECT/INSTANCE/TABLE']
    """
    kind, _, rest = devices.partition(":")
    problems = [
        f"--{name}: {uri} is not shared by Dataflow's workers; use a gs:// folder"
        for name, uri in (("lake", lake), ("archive", archive))
        if uri is not None and not uri.startswith("gs://")
    ]
    if kind != "bigtable":
        local = kind if rest else "rocksdb"
        problems.append(
            f"--devices: {local} is a folder of one machine; on Dataflow use bigtable:PROJECT/INSTANCE/TABLE"
        )
    elif len([part for part in rest.split("/") if part]) != 3:
        problems.append(f"--devices: {devices} is not bigtable:PROJECT/INSTANCE/TABLE")
    return problems


def resolve_requirements(lock: Path) -> None:
    """Make pip resolve the packages of the workers' image without installing them. Run it on the image's platform.

    It queries the package index and takes a minute or two.

    Raises:
        OptionError: A package is missing, does not match its hash, or is not locked; or this is another platform.
    """
    here = (sys.platform, platform.machine(), *sys.version_info[:2])
    if here != IMAGE_PLATFORM:
        raise OptionError(f"the packages of {lock} are for {IMAGE_PLATFORM}; this is {here}")
    done = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
            # The lock is complete: otherwise pip would look for packages of extras beyond it, which have no hash
            *("--no-deps", "--disable-pip-version-check", "--require-hashes", "--requirement", str(lock)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().rpartition("ERROR: ")[2] or done.stdout
        raise OptionError(f"the packages of {lock} cannot be resolved: {reason.partition(chr(10))[0]}")


if __name__ == "__main__":
    resolve_requirements(Path("requirements.lock"))
