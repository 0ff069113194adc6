"""What can be held against a job for Dataflow before there is an account to run it in."""

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
"""What pip lists where the job was started, for the job's log."""

_JOB_TYPE, _AUTOSCALING = "JOB_TYPE_STREAMING", "AUTOSCALING_ALGORITHM_BASIC"


def job_problems(job: DataflowJob, options: DataflowOptions) -> list[str]:
    """What is wrong with a translated job, a line each: a setting that did not arrive."""
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
    """Names of the files that go along with the job."""
    return {
        api.ArtifactStagingToRolePayload.FromString(file.role_payload).staged_name
        for environment in job.pipeline.components.environments.values()
        for file in environment.dependencies
    }


def store_problems(lake: str, devices: str, archive: str | None) -> list[str]:
    """What is wrong with the places of a job whose workers share nothing but the network, a line each.

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
    """Have pip resolve the packages of the image, whose platform this must be; nothing is installed.

    It asks the package index, and takes a minute or two.

    Raises:
        OptionError: A package is not there, does not match its hash, or is not locked; or this is another platform.
    """
    here = (sys.platform, platform.machine(), *sys.version_info[:2])
    if here != IMAGE_PLATFORM:
        raise OptionError(f"the packages of {lock} are for {IMAGE_PLATFORM}; this is {here}")
    done = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
            # The lock is whole: pip would look for a package's extras beyond it, where none has a hash
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
