"""One folder for the temporary files of a run, so that none stays behind."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import StoreError


@contextmanager
def scratch() -> Iterator[None]:
    """Let this process and those it starts put their temporary files into a new folder, which goes with the context.

    Beam leaves some behind: an empty folder a pipeline that a portable runner is given, another a pipeline that is
    built and not run. The folder is made where TMPDIR says.

    Raises:
        StoreError: It cannot be made.
    """
    before = tempfile.gettempdir()
    try:
        made = tempfile.TemporaryDirectory(prefix="clickstream-run-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(f"cannot make a temporary folder in {before}: {error.strerror}") from error
    with made as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = os.environ["TMPDIR"] = before
