"""Files as a bounded source: globs in, batches of RAW rows out; unreadable parts become dead letters."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO
from urllib.parse import unquote

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from schemas.dead_letters import Reason
from schemas.errors import InputError, StoreError
from stores.locations import check_reachable
from transforms.events.envelope import dead_letters
from transforms.gathered import Gathered
from transforms.metrics import count_dead_letters
from transforms.sources.raw_files import AVRO_BATCH_ROWS, CHUNK_BYTES, Damage, FileFormat, FileSlice, read_slice, sniff
from transforms.sources.raw_input import DEAD_LETTERS, RawInput, count_read

SLICE_BYTES = 128 << 20
"""An uncompressed file is split into slices of this size, so that several workers can read it."""

_SCHEMES = (None, "gs")
_GLOB_CHARACTER = re.compile(r"[*?\[]")


def list_files(patterns: list[str]) -> dict[str, int]:
    """List the files that the globs match, with their sizes in bytes, in order of their names.

    A folder stands for all files below it, including those behind links. Files and folders whose name starts with
    ``_`` or ``.`` are skipped, as is the convention in lakes. A local path or file:// URI is returned as an absolute
    path, so that a file has the same name wherever the job is started. A pattern that is the path of an existing file
    or folder stands for it alone, even if it contains glob characters.

    Raises:
        InputError: A glob matches nothing, the file system fails to list it, or a matching file cannot be read. The
            message names every such glob and file.
    """
    found: dict[str, int] = {}
    problems = []
    for pattern in patterns:
        path = absolute(pattern)
        if not pattern:
            problems.append("a file name must not be empty")
        elif FileSystems.get_scheme(path) not in _SCHEMES:
            problems.append(f"{pattern}: events are read from local files and from gs://")
        else:
            try:
                files = _matching(path, pattern.endswith("/"))
            except (OSError, ValueError, StoreError) as error:  # Beam's own errors are OSErrors
                problems.append(f"cannot list {pattern}: {error}")
                continue
            problems += [] if files else [f"no file matches {pattern}"]
            found |= files
    local = [path for path in found if "://" not in path]
    problems += [f"{path} is not a regular file" for path in local if not os.path.isfile(path)]
    problems += [f"{path} cannot be read: permission denied" for path in local if not os.access(path, os.R_OK)]
    if problems:
        raise InputError("; ".join(problems))
    return dict(sorted(found.items()))


def _matching(path: str, folder: bool) -> dict[str, int]:
    """The files matched by a glob or by the path of a file or folder, with their sizes."""
    if os.path.isfile(path):
        return {path: os.path.getsize(path)}
    if os.path.isdir(path):
        return {below: os.path.getsize(below) for below in _walk(path)}
    fixed = path.rstrip("/") if folder else _GLOB_CHARACTER.split(path)[0].rpartition("/")[0]
    check_reachable(fixed)
    # Beam cannot escape a glob character: ? matches any in its place, and the filter below drops wrong matches
    glob = _GLOB_CHARACTER.sub("?", fixed) + "/**" if folder else path
    matched = FileSystems.match([glob])[0].metadata_list
    below = [file for file in matched if file.path.startswith(fixed) and _is_input(file.path.removeprefix(fixed))]
    return {file.path: file.size_in_bytes for file in below}


def _walk(folder: str) -> Iterator[str]:
    """The input files below a local folder. Links are followed; as they may form cycles, each folder is read once."""

    def refuse(error: OSError) -> None:
        raise error

    read = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        itself = os.stat(parent)
        if (itself.st_dev, itself.st_ino) in read:
            folders.clear()
            continue
        read.add((itself.st_dev, itself.st_ino))
        folders[:] = sorted(filter(_is_input, folders))
        yield from (os.path.join(parent, name) for name in filter(_is_input, files))


def absolute(path: str) -> str:
    """The absolute path of a local path or file:// URI; the URI of another file system unchanged."""
    local = unquote(path.removeprefix("file://")) if path.startswith("file://") else path
    return local if "://" in local else os.path.abspath(local)


def _is_input(path: str) -> bool:
    """Whether no part of a path is hidden; the path is relative to the folder asked for.

    >>> _is_input("day/part-0.jsonl"), _is_input("_truth/part-0.jsonl")
    (True, False)
    """
    return not any(part.startswith(("_", ".")) for part in path.split("/"))


@dataclass(eq=False)
class ReadFiles(beam.PTransform):
    """Reads files of raw events.

    Attributes:
        files: Paths with their sizes, from `list_files`.
        first_met: The arrival time that a dead letter of a damaged file gets.
    """

    files: dict[str, int]
    first_met: datetime

    @no_annotations
    def expand(self, pipeline: beam.Pipeline) -> RawInput:
        """Pipeline → RawInput."""
        read = (
            pipeline
            | "ListFiles" >> beam.Create(list(self.files.items()))
            | "CutIntoSlices" >> beam.ParDo(_CutIntoSlices())
            | "SpreadSlices" >> beam.Reshuffle()
            | "ReadSlices"
            >> beam.ParDo(_ReadSlice(self.first_met))
            .with_output_types(pa.Table, **{DEAD_LETTERS: pa.Table})
            .with_outputs(DEAD_LETTERS, main="batches")
        )
        return RawInput(read["batches"], read[DEAD_LETTERS])


class _CutIntoSlices(beam.DoFn):
    """(path, size) → FileSlice; only uncompressed lines can be split."""

    def process(self, element: tuple[str, int]) -> Iterator[FileSlice]:
        path, size = element
        with _open(path) as stream:
            kind = sniff(stream.read(4), path)
        if kind is not FileFormat.LINES:
            yield FileSlice(path, kind, 0, size)
            return
        for start in range(0, size, SLICE_BYTES):
            yield FileSlice(path, kind, start, min(start + SLICE_BYTES, size))


class _ReadSlice(beam.DoFn):
    """FileSlice → RAW tables, and tagged DEAD_LETTER tables.

    The rows of small files are gathered over the bundle, because each step costs milliseconds a table, however small.
    """

    def __init__(self, first_met: datetime) -> None:
        self._first_met = first_met

    def start_bundle(self) -> None:
        self._gathered = Gathered(AVRO_BATCH_ROWS, CHUNK_BYTES)

    def process(self, element: FileSlice) -> Iterator[Any]:
        with _open(element.path) as stream:
            for piece in read_slice(stream, element):
                if isinstance(piece, Damage):
                    letters = damaged(piece, self._first_met)
                    count_dead_letters(letters)
                    yield beam.pvalue.TaggedOutput(DEAD_LETTERS, letters)
                    continue
                count_read(piece)
                if self._gathered.add(piece):
                    yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for rows in self._gathered.take():
            yield WindowedValue(rows, MIN_TIMESTAMP, [GlobalWindow()])


def damaged(damage: Damage, first_met: datetime) -> pa.Table:
    """The dead letter for an unreadable part of a file."""
    reasons = pa.chunked_array([[Reason.TRUNCATED_INPUT.value]])
    return dead_letters(damage.rows, reasons, pa.chunked_array([[damage.message]]), "read", first_met.date())


def _open(path: str) -> BinaryIO:
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
