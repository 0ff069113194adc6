"""Where files lie: the file system that a path or URI names, and whether it answers at all."""

import os

import pyarrow as pa
from pyarrow.fs import FileSystem

from schemas.errors import StoreError, first_line

PATIENCE_SECONDS = 5
"""Left to itself the client of Google Cloud Storage tries for a quarter of an hour."""
_GAVE_UP = "Retry policy exhausted"
"""In what the client says where nothing answered it."""
_answered: set[str] = set()


def open_location(uri: str) -> tuple[FileSystem, str]:
    """The file system of a path or URI, and the absolute path in it.

    Raises:
        StoreError: The scheme is unknown, or the URI malformed, or an object store does not answer.
    """
    check_reachable(uri)
    try:
        filesystem, path = FileSystem.from_uri(uri if "://" in uri else os.path.abspath(uri))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StoreError(f"{uri} is not a location of a lake: {first_line(error)}") from error
    except OSError as error:  # where a bucket of S3 lies is asked at once
        raise StoreError(f"{uri} cannot be reached: {first_line(error)}") from error
    return filesystem, path


def check_reachable(uri: str) -> None:
    """Find out whether Google Cloud Storage answers where a ``gs://`` URI points to, once a process and bucket.

    A refusal is an answer: who may not ask for a bucket may still use what lies in it. Of other stores nothing is
    asked: the client of S3 gives up by itself.

    Raises:
        StoreError: There is no network, or there are no credentials.
    """
    bucket = uri.split("/")[2] if uri.startswith("gs://") else None
    if bucket is None or bucket in _answered:
        return
    try:
        limit = f"{'&' if '?' in uri else '?'}retry_limit_seconds={PATIENCE_SECONDS}"
        filesystem, path = FileSystem.from_uri(uri + limit)
        filesystem.get_file_info(path)
    except (OSError, ValueError) as error:
        reason = str(error).partition(" error_info=")[0]
        if _GAVE_UP in reason:
            raise StoreError(f"{uri} cannot be reached: {' '.join(reason.split())}") from error
    _answered.add(bucket)
