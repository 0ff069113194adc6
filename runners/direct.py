"""The DirectRunner on one machine: its engine named, its shuffles on disk."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from schemas.errors import StoreError
from transforms.tables import Spill


@contextmanager
def direct_runner(options: PipelineOptions) -> Iterator[PipelineRunner]:
    """The runner for a bounded job in this process.

    DirectRunner itself would choose between three engines by what the pipeline holds and whether a binary can be
    downloaded, so that a laptop and a closed network run different ones; this is always FnApiRunner. It keeps its
    shuffles in memory; tables go to a temporary file instead (TMPDIR says where) for as long as the context is open.

    Raises:
        StoreError: The temporary folder cannot be written.
    """
    del options
    _keep_freed_memory()
    try:
        spill = Spill()
    except OSError as error:
        raise StoreError(f"cannot make a temporary file for the shuffle: {error}") from error
    with spill:
        yield FnApiRunner()


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed between batches; other C libraries have no such call and go on as they are.

    Each batch needs the same buffers of megabytes again. By default they go back to the system and come back as fresh
    pages, one fault for every four kilobytes: a fifth of the run's time.
    """
    trim_threshold, mmap_threshold = -1, -3
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 512 << 20)
