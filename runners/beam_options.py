"""Parses the options of Beam and its runners, which the command line passes through."""

import argparse
import contextlib
import io
from itertools import pairwise
from typing import TypeVar

from apache_beam.options.pipeline_options import PipelineOptions

from schemas.errors import OptionError

OptionsClass = TypeVar("OptionsClass", bound=PipelineOptions)


class _Options(PipelineOptions):
    """Beam's options with cached views; all views of one instance share its values.

    Beam requests five hundred views while it builds our graph, and would create an argument parser for each.
    """

    def __init__(self, flags: list[str]) -> None:
        super().__init__(flags)
        # bypasses the parent class, which treats every attribute as an option
        object.__setattr__(self, "_views", {})

    def view_as(self, cls: type[OptionsClass]) -> OptionsClass:
        if cls not in self._views:
            self._views[cls] = super().view_as(cls)
        view: OptionsClass = self._views[cls]
        return view


def parse_beam_options(arguments: list[str]) -> PipelineOptions:
    """Parse command-line arguments as Beam's options.

    Raises:
        OptionError: An argument is not a Beam option, or has an invalid value; one line per problem.
    """
    stderr = io.StringIO()
    parsers: list[argparse.ArgumentParser] = []
    try:
        with contextlib.redirect_stderr(stderr):
            options = _Options(arguments)
            # Beam only logs and drops unknown arguments; its parser can tell which they are
            options.get_all_options(add_extra_args_fn=parsers.append)
            _, dropped = parsers[0].parse_known_args(arguments)
    except SystemExit as error:
        reason = stderr.getvalue().strip().rpartition("error: ")[2] or "Beam refuses its options"
        raise OptionError(reason) from error
    unknown = sorted({argument.partition("=")[0] for argument in dropped if argument.startswith("-")})
    stray = [
        argument
        for before, argument in pairwise(["", *dropped])
        if not argument.startswith("-") and (not before.startswith("-") or "=" in before)
    ]
    problems = []
    if unknown:
        problems.append(f"no such option: {', '.join(unknown)}")
    if stray:
        first = f"{stray[0]!r}" if len(stray) == 1 else f"{stray[0]!r} and {len(stray) - 1} more"
        problems.append(f"{first}: unexpected argument; quote a glob so that the shell does not expand it")
    if problems:
        raise OptionError("\n".join(problems))
    return options
