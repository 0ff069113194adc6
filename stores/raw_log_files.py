"""Files of the raw log: their folders, names and summaries, and how they are written.

Readers read every file whose name does not start with ``.`` or ``_``. Such a file is complete and never changes.
"""

import hashlib
import io
import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import fastavro
from pyarrow.fs import FileSystem

from schemas.durations import SECOND
from stores.lake_files import NULL_PARTITION

TEMPORARY_SUFFIX = ".tmp"

_OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems where a file becomes visible when it is closed, and renaming is not cheap."""

SUMMARY_KEY = "clickstream.summary"


class RawLogFile(NamedTuple):
    """A file of the raw log: its path below the log's root, its rows and bytes."""

    path: str
    rows: int
    size: int


class Summary(NamedTuple):
    """The summary of a file's rows in its header.

    Attributes:
        source: The source of all rows.
        earliest: The earliest arrival, microseconds since 1970; None if no row has an arrival time.
        offsets: The first and the last offset of each partition.
    """

    source: str
    earliest: int | None
    offsets: dict[str, tuple[int, int]]


def read_summary(data: bytes) -> Summary | None:
    """The summary in a file's header; None if another program wrote the file.

    Raises:
        Exception: It is not an Avro file; fastavro raises many kinds.
    """
    found = fastavro.block_reader(io.BytesIO(data)).metadata.get(SUMMARY_KEY)
    if found is None:
        return None
    said = json.loads(found)
    return Summary(said["source"], said["earliest"], {key: (low, high) for key, (low, high) in said["offsets"].items()})


def hour_folder(arrival_time: int | None) -> str:
    """The Hive-style folder of the hour of an arrival, microseconds since 1970.

    >>> hour_folder(1775995200_000000)
    'arrival_date=2026-04-12/arrival_hour=12'
    >>> hour_folder(None)
    'arrival_date=__HIVE_DEFAULT_PARTITION__/arrival_hour=__HIVE_DEFAULT_PARTITION__'
    """
    if arrival_time is None:
        return f"arrival_date={NULL_PARTITION}/arrival_hour={NULL_PARTITION}"
    return f"{_utc(arrival_time):arrival_date=%Y-%m-%d/arrival_hour=%H}"


def hour_end(folder: str) -> datetime | None:
    """The end of the hour of a folder below the log's root; None if it is not an hour's folder.

    >>> hour_end("arrival_date=2026-04-12/arrival_hour=23")
    datetime.datetime(2026, 4, 13, 0, 0, tzinfo=datetime.timezone.utc)
    """
    found = re.fullmatch(r"arrival_date=(\d{4}-\d{2}-\d{2})/arrival_hour=(\d{2})", folder)
    if found is None:
        return None
    return datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00+00:00") + timedelta(hours=1)


def file_name(source: str, earliest: int | None, data: bytes) -> str:
    """A file's name: its source, its earliest arrival to the microsecond, and a hash of its bytes.

    The names of one source sort in the order of arrival.

    >>> file_name("clicks", 1775995200_250000, b"")[:31]
    'clicks-20260412T120000.250000Z-'
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", source).strip("._-")[-100:] or "raw"
    time = "undated" if earliest is None else f"{_utc(earliest):%Y%m%dT%H%M%S.%fZ}"
    return f"{safe}-{time}-{hashlib.blake2b(data, digest_size=12).hexdigest()}.avro"


def write_whole(filesystem: FileSystem, path: str, data: bytes) -> None:
    """Write a file so that readers see it only when it is complete. Replaces a file of the same name.

    A local file is not synced to disk, nor are those of the lake: a process crash loses nothing, but a power failure
    loses what the operating system has not written yet.
    """
    folder, _, name = path.rpartition("/")
    filesystem.create_dir(folder, recursive=True)
    direct = filesystem.type_name in _OBJECT_STORES
    target = path if direct else f"{folder}/.{name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    with filesystem.open_output_stream(target) as out:
        out.write(data)
    if not direct:
        filesystem.move(target, path)


def _utc(micros: int) -> datetime:
    seconds, rest = divmod(micros, SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
