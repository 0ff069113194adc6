"""Whether an object store answers, found out in seconds: its client goes on trying for a quarter of an hour."""

from pyarrow.fs import FileSystem

from schemas.errors import StoreError

PATIENCE_SECONDS = 5
_GAVE_UP = "Retry policy exhausted"
"""In what the client says where nothing answered it."""
_answered: set[str] = set()


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
