"""Options that Beam and its runners define, passed through by name."""

import contextlib
import io

from apache_beam.options.pipeline_options import PipelineOptions

from schemas.errors import OptionError


def parse_beam_options(arguments: list[str]) -> PipelineOptions:
    """Beam's options of these arguments.

    Raises:
        OptionError: An argument is no option of Beam, or has a value that it does not take.
    """
    stderr = io.StringIO()
    try:
        # Beam's parser drops what it does not know with no more than a log line
        with contextlib.redirect_stderr(stderr):
            options = PipelineOptions(arguments)
            known = options.get_all_options(retain_unknown_options=False)
            kept = options.get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        reason = stderr.getvalue().strip().rpartition("error: ")[2] or "Beam refuses its options"
        raise OptionError(reason) from error
    unknown = sorted(set(kept) - set(known))
    if unknown:
        raise OptionError("no such option: " + ", ".join(f"--{name}" for name in unknown))
    return options
