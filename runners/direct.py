"""The DirectRunner on one machine, with a fixed engine and shuffles on disk."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from runners.memory import FLOOR, share_memory
from runners.sampling import short_waits
from schemas.errors import StoreError
from transforms.tables import Spill


@contextmanager
def direct_runner(options: PipelineOptions, floor: int = FLOOR) -> Iterator[PipelineRunner]:
    """The runner for a bounded job in this process.

    DirectRunner itself would choose one of three engines, depending on the pipeline and on whether a binary can be
    downloaded, so that a laptop and a closed network would run different ones. This is always FnApiRunner.
    FnApiRunner keeps shuffles in memory; while the context is open, tables are spilled to a temporary file instead.

    Args:
        options: The pipeline's options, which this runner does not need.
        floor: See `share_memory`; higher for a graph that needs more buffers at a time.

    Raises:
        StoreError: The temporary folder cannot be written.
    """
    del options
    share_memory(floor)
    # Objects from imports stay alive; freezing them spares the garbage collector from walking them again and again
    gc.freeze()
    try:
        spill = Spill()
    except OSError as error:
        raise StoreError(f"cannot make a temporary file for the shuffle: {error}") from error
    with spill, short_waits():
        try:
            yield FnApiRunner()
        finally:
            gc.unfreeze()
