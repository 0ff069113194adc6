"""Java programs from Maven: a pom's dependencies are resolved once, into a folder that later starts reuse."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runners.services.home import cache_home, locked
from schemas.errors import ServiceError

_PATCHES = "0-patches"
"""Name of the patches' jar, which sorts before all others."""


def say(line: str) -> None:
    """Print a line on standard error, to tell the user that something takes a while."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def resolve_jars(pom: Path, patches: Sequence[Path] = ()) -> list[Path]:
    """The jars that a pom depends on, sorted by name. Maven resolves them on first use; later they come from the cache.

    Safe with several processes at the same time: one resolves, the others wait. A changed pom or patch is resolved
    into a new folder.

    Args:
        pom: The pom to resolve.
        patches: Java sources of classes that replace those of the jars; they are compiled into the first jar.

    Raises:
        ServiceError: Maven is missing or cannot resolve the pom, or the patches' compiler is missing or fails.
    """
    content = pom.read_bytes()
    name = re.sub(rb".*?<artifactId>([\w.-]+)</artifactId>.*", rb"\1", content, flags=re.DOTALL).decode()
    version = hashlib.sha256(b"".join([content, *(patch.read_bytes() for patch in patches)])).hexdigest()[:12]
    folder = cache_home() / "jars" / f"{name}-{version}"
    if not folder.exists():
        # One lock for all poms: two Maven processes must not write the same local repository concurrently
        with locked(folder.parent):
            if not folder.exists():
                say(f"resolving the jars of {name} with Maven, once; this may take some minutes")
                _resolve(pom, patches, folder)
    return sorted(folder.glob("*.jar"))


def _resolve(pom: Path, patches: Sequence[Path], folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServiceError("Maven (the command mvn) is needed to resolve Java programs, and is not installed")
    compiler = java("javac") if patches else None
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".resolving-") as work:
        # Maven writes beside the pom, and an installed package may be read-only
        copy = shutil.copy(pom, Path(work) / "pom.xml")
        done = _run(
            [
                *(maven, "--batch-mode", "--quiet", "-Dstyle.color=never", "--strict-checksums", "--file", str(copy)),
                *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={work}/jars"),
            ]
        )
        if done.returncode != 0:
            errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR] ")] or [done.stderr.strip()]
            raise ServiceError(f"Maven cannot resolve {pom.name}: {errors[0].removeprefix('[ERROR] ')}")
        if compiler is not None:
            _compile(compiler, patches, Path(work))
        os.rename(Path(work) / "jars", folder)


def _compile(compiler: str, patches: Sequence[Path], work: Path) -> None:
    classes = work / "classes"
    done = _run(
        [
            *(compiler, "--release", "11", "-proc:none", "-Xlint:-options", "-d", str(classes)),
            *("-cp", class_path(sorted((work / "jars").glob("*.jar"))), *map(str, patches)),
        ]
    )
    if done.returncode != 0:
        first, *_ = done.stderr.splitlines() or [""]
        raise ServiceError(f"javac cannot compile the patches: {first}")
    shutil.make_archive(str(work / _PATCHES), "zip", classes)
    os.rename(work / f"{_PATCHES}.zip", work / "jars" / f"{_PATCHES}.jar")


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end without input, and capture its output."""
    return subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def java(program: str = "java") -> str:
    """The path of java or another JDK program, from JAVA_HOME if it is set, or else from PATH.

    Raises:
        ServiceError: The program is not found.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(program, path=str(Path(home) / "bin") if home else None)
    if found is None:
        raise ServiceError(f"a JDK of Java 17 or newer is needed, and no {program} is on the PATH or in JAVA_HOME")
    return found


def class_path(jars: list[Path]) -> str:
    """The value of java's ``-cp`` for jars sorted by name; the order matters, as some contain the same classes."""
    return os.pathsep.join(str(jar) for jar in jars)


QUICK_COMPILER = "-XX:TieredStopAtLevel=1"
"""The optimising compiler takes a third of Java's CPU time in the first minutes, and little of a job is Java."""
STEADY_HEAP = "-XX:+UseSerialGC"
"""The serial collector's heap grows only with live data; the default collector's also grows when CPUs are scarce."""
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
"""Java options for packages that Flink accesses; without them it fails on Java 17 and newer."""
