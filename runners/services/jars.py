"""Java programs from Maven: what a pom names is resolved once, into a folder that every later start reads."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from runners.services.home import cache_home, locked
from schemas.errors import ClickstreamError

Notify = Callable[[str], None]
"""Takes a line for the user about something that takes a while."""


class ServiceError(ClickstreamError):
    """A service beside the pipeline (a broker, a cluster, a job server) cannot be had, or has gone."""


def say(line: str) -> None:
    """Tell the user on standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def resolve_jars(pom: Path, notify: Notify = say) -> list[Path]:
    """The jars that a pom depends on, sorted by name; from Maven the first time, from the cache folder ever after.

    Safe with several processes at the same time: one resolves, the others wait for it. A change of the pom resolves
    anew, into a folder of its own.

    Raises:
        ServiceError: Maven is missing, or cannot resolve the pom.
    """
    content = pom.read_bytes()
    name = re.sub(rb".*?<artifactId>([\w.-]+)</artifactId>.*", rb"\1", content, flags=re.DOTALL).decode()
    folder = cache_home() / "jars" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    if not folder.exists():
        # One lock for all poms: two Mavens must not write one local repository at the same time
        with locked(folder.parent):
            if not folder.exists():
                notify(f"resolving the jars of {name} with Maven, once; this may take some minutes")
                _resolve(pom, folder)
    return sorted(folder.glob("*.jar"))


def _resolve(pom: Path, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServiceError("Maven (the command mvn) is needed to resolve Java programs, and is not installed")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".resolving-") as work:
        # Maven writes beside the pom, and an installed package may be read-only
        copy = shutil.copy(pom, Path(work) / "pom.xml")
        done = subprocess.run(  # noqa: S603
            [
                *(maven, "--batch-mode", "--quiet", "-Dstyle.color=never", "--strict-checksums", "--file", str(copy)),
                *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={work}/jars"),
            ],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR] ")] or [done.stderr.strip()]
            raise ServiceError(f"Maven cannot resolve {pom.name}: {errors[0].removeprefix('[ERROR] ')}")
        os.rename(Path(work) / "jars", folder)


def java() -> str:
    """The command that runs Java: of JAVA_HOME, else of the PATH.

    Raises:
        ServiceError: There is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        raise ServiceError("Java 17 or newer is needed, and no java is on the PATH or in JAVA_HOME")
    return found


def class_path(jars: list[Path]) -> str:
    """Jars as the value of java's ``-cp``. Their order is that of their names: some carry the same classes."""
    return os.pathsep.join(str(jar) for jar in jars)


JAVA_17 = [
    *(
        f"--add-exports={module}=ALL-UNNAMED"
        for module in ("java.base/sun.net.util", "java.security.jgss/sun.security.krb5")
    ),
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            *("java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time"),
            *("java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks"),
            "sun.nio.ch",
        )
    ),
]
"""Flink reaches into these packages; since Java 17 it dies where it may not."""
