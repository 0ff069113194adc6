"""Starts `clickstream run` in the launcher of a Flex Template, whose parameter names cannot contain hyphens.

Dataflow calls this file with the template's parameters and Beam's options, all as ``--name=value``.
"""

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path

BEAM_OPTIONS = {"sdk_container_image"}
"""Template parameters that are Beam options and keep Beam's spelling."""

METADATA = Path(__file__).with_name("metadata.json")


def command(arguments: list[str], parameters: Collection[str]) -> list[str]:
    """The command line for the launcher's arguments: template parameters in our spelling, Beam's options unchanged.

    >>> command(["--session_gap=30m", "--runner=DataflowRunner", "--temp_location=gs://b/t"], {"session_gap"})
    ['clickstream', 'run', '--runner=dataflow', '--session-gap=30m', '--temp_location=gs://b/t']
    """
    line = ["clickstream", "run", "--runner=dataflow"]
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--runner":
            continue
        ours = name.removeprefix("--") in parameters
        line.append((name.replace("_", "-") if ours else name) + equals + value)
    return line


def parameter_names() -> list[str]:
    """The template's parameters that are options of `clickstream run`, read from the template's metadata."""
    declared = json.loads(METADATA.read_text(encoding="utf-8"))["parameters"]
    return [parameter["name"] for parameter in declared if parameter["name"] not in BEAM_OPTIONS]


if __name__ == "__main__":
    line = command(sys.argv[1:], parameter_names())
    os.execvp(line[0], line)  # noqa: S606  (no shell: an argument list)
