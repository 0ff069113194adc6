"""Compiles json_scan.c. Everything else is in pyproject.toml; Beam stages both to remote workers."""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildLibraries(build_ext):
    """Builds C sources into plain shared libraries, which ctypes loads: they work with any version of Python.

    The compiler comes from PyPI (ziglang), so that a machine needs none, and has the same one as the next.
    """

    def get_ext_filename(self, fullname: str) -> str:
        """The same name on every platform."""
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        """Compile for any processor of this architecture: an image may be built on another machine."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        options = ["-O3", "-mcpu=baseline", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
        command = [sys.executable, "-m", "ziglang", "cc", *options, *ext.sources, "-o", str(target)]
        subprocess.run(command, check=True)  # noqa: S603


setup(
    ext_modules=[Extension("transforms.events.json_scan", ["transforms/events/json_scan.c"])],
    cmdclass={"build_ext": BuildLibraries},
)
