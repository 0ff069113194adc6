"""One folder for the temporary files of a run, so that none are left behind."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import StoreError


@contextmanager
def scratch() -> Iterator[None]:
    """Make this process and its child processes use a new temporary folder, which is deleted when the context ends.

    Beam leaves empty folders behind: one per pipeline submitted to a portable runner, and one per pipeline that is
    built but not run. The new folder is created in the current temporary folder (TMPDIR).

    Raises:
        StoreError: The folder cannot be created.
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
