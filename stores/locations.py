"""The file system of a path or URI, and a check that it is reachable."""

import os

import pyarrow as pa
from pyarrow.fs import FileSystem

from schemas.errors import StoreError, first_line

PATIENCE_SECONDS = 5
"""Retry limit: by default the Google Cloud Storage client retries for a quarter of an hour."""
_GAVE_UP = "Retry policy exhausted"
"""Part of the client's error message if nothing answered."""
_answered: set[str] = set()


def open_location(uri: str) -> tuple[FileSystem, str]:
    """The file system of a path or URI, and the absolute path in it.

    Raises:
        StoreError: The scheme is unknown, the URI is malformed, or an object store does not answer.
    """
    check_reachable(uri)
    try:
        filesystem, path = FileSystem.from_uri(uri if "://" in uri else os.path.abspath(uri))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StoreError(f"{uri} is not a location of a lake: {first_line(error)}") from error
    except OSError as error:  # for S3, this already requests the bucket's region
        raise StoreError(f"{uri} cannot be reached: {first_line(error)}") from error
    return filesystem, path


def check_reachable(uri: str) -> None:
    """Check that Google Cloud Storage answers for a ``gs://`` URI, once per process and bucket.

    A refusal counts as an answer: a user who may not query a bucket may still use its objects. Other stores are not
    checked, as the S3 client gives up by itself.

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
