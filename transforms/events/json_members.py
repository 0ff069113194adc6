"""Finds members of the JSON objects (RFC 8259) in a column of texts, in one pass over their bytes. No Beam here.

json_scan.c does the work, and other threads run meanwhile. It notes where the wanted members are; only then they are
copied into columns. DuckDB's functions would parse each text again for each question about it.
"""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import whole

try:
    _LIBRARY = ctypes.CDLL(str(Path(__file__).with_name("json_scan.so")))
except OSError as error:
    raise ImportError(f"json_scan.c is not compiled: run make setup, or pip install ({error})") from error
_LIBRARY.scan.restype = _LIBRARY.copy.restype = ctypes.c_int64
_LIBRARY.first.restype = _LIBRARY.times.restype = None


class Kind(IntEnum):
    """What a text or a member is."""

    ABSENT = 0
    """There is no such member; of a whole text: it is not JSON."""
    NULL = 1
    TEXT = 2
    INTEGER = 3
    NUMBER = 4
    """A number with a fraction or an exponent."""
    BOOLEAN = 5
    OBJECT = 6
    ARRAY = 7


class _Wanted(NamedTuple):
    """The keys to look for: those of the top level, followed by those inside of each of these members."""

    names: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int32]
    inner: npt.NDArray[np.int32]


class _Found(NamedTuple):
    """What was found by text, or by key and text; json_scan.c describes each array."""

    document: npt.NDArray[np.uint8]
    repeated_key: npt.NDArray[np.bool_]
    lone_surrogate: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.uint8]
    escaped: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]


class _Others(NamedTuple):
    """The members of the top level with other keys."""

    texts: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    key_ends: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]


class MemberFinder:
    """Finds the members with certain keys at the top level of JSON objects, and inside of these members.

    Args:
        keys: For each key of the top level, the keys inside of it; in ASCII.

    >>> finder = MemberFinder({"id": (), "at": ("x",)})
    >>> found = finder.find(pa.chunked_array([[b'{"id":"a","at":{"x":1.50},"n":7}', b"{"]]))
    >>> [found.texts(*path).to_pylist() for path in (("id",), ("at",), ("at", "x"))]
    [['a', None], ['{"x":1.50}', None], ['1.50', None]]
    >>> found.others().to_pylist(), [Kind(kind).name for kind in found.document]
    (['{"n":7}', None], ['OBJECT', 'ABSENT'])
    """

    def __init__(self, keys: Mapping[str, Sequence[str]]) -> None:
        paths: list[tuple[str, ...]] = [(key,) for key in keys]
        inner = [len(paths)]
        for key, inside in keys.items():
            paths += [(key, name) for name in inside]
            inner.append(len(paths))
        names = [path[-1].encode() for path in paths]
        self._numbers = {path: number for number, path in enumerate(paths)}
        self._wanted = _Wanted(
            np.frombuffer(b"".join(names), np.uint8),
            np.cumsum([0, *map(len, names)], dtype=np.int32),
            np.array(inner, np.int32),
        )
        self._room = 1024

    def find(self, payload: pa.ChunkedArray, rows: npt.NDArray[np.int64] | None = None) -> "Members":
        """Find the members.

        Args:
            payload: Texts in UTF-8, as binary.
            rows: The rows to read, by default all. In other rows nothing is found, whatever is in them.
        """
        texts = whole(payload)
        size = len(texts)
        rows = np.arange(size) if rows is None else np.ascontiguousarray(rows, np.int64)
        data, offsets = _contents(texts)
        containers = np.empty(np.diff(offsets).max(initial=0), np.uint8)
        while True:
            shape = (len(self._numbers), size)
            found = _Found(
                document=np.zeros(size, np.uint8),
                repeated_key=np.zeros(size, np.bool_),
                lone_surrogate=np.zeros(size, np.bool_),
                kinds=np.zeros(shape, np.uint8),
                escaped=np.zeros(shape, np.bool_),
                starts=np.zeros(shape, np.int32),
                ends=np.zeros(shape, np.int32),
            )
            room = self._room
            others = _Others(*(np.empty(room, np.int32) for _ in _Others._fields))
            count = _LIBRARY.scan(
                *_pointers(data, offsets), ctypes.c_int64(size), *_pointers(rows), ctypes.c_int64(len(rows)),
                _struct(self._wanted), _struct(found), _struct(others), ctypes.c_int64(room), *_pointers(containers),
            )  # fmt: skip
            if count <= room:
                return Members(texts, self._numbers, found, _Others(*(array[:count] for array in others)))
            # The next batches will have as many
            self._room = 2 * count


class Members:
    """The members of a column of texts.

    Attributes:
        document: By row, the `Kind` of the whole text.
        has_others: By row: are there members of the top level with other keys?
        repeated_key: By row: does a key occur twice at the top level?
        lone_surrogate: By row: is an escape half of a surrogate pair? In `texts` it is U+FFFD, but not where JSON is
            given as it stands.
    """

    def __init__(
        self, payload: pa.Array, numbers: Mapping[tuple[str, ...], int], found: _Found, others: _Others
    ) -> None:
        self._payload, self._numbers, self._found, self._others = payload, numbers, found, others
        self.document = found.document
        self.has_others = np.zeros(len(payload), np.bool_)
        self.has_others[others.texts] = True
        self.lone_surrogate = found.lone_surrogate
        self.repeated_key = found.repeated_key | self._repeated_others()

    def kinds(self, *path: str) -> npt.NDArray[np.uint8]:
        """By row, the `Kind` of the member with this key, or these keys."""
        return self._found.kinds[self._numbers[path]]

    def texts(self, *path: str, rows: npt.NDArray[np.int64] | None = None) -> pa.Array:
        """The text of a JSON string, any other value as it stands, and null for a null or absent member.

        Args:
            path: The key, or keys.
            rows: The rows to return, by default all.
        """
        number = self._numbers[path]
        kinds, escaped, starts, ends = (array[number] for array in self._found[-4:])
        present = kinds > Kind.NULL
        if rows is None:
            rows = np.arange(len(present))
        if not present.any():
            return pa.nulls(len(rows), pa.string())
        return self._copy(rows, present, escaped, starts, ends)

    def sizes(self, *path: str) -> npt.NDArray[np.int32]:
        """By row, the size of the member in bytes, with any escapes; 0 if it is null or absent."""
        number = self._numbers[path]
        found = self._found
        return (found.ends[number] - found.starts[number]) * (found.kinds[number] > Kind.NULL)

    def times(self, *path: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """By row, the member as a time in microseconds since 1970, UTC; and by row, whether it was read as one.

        Read are integers of at most fifteen digits, as milliseconds, whether written as 5, 5.0 or 50e-1; and texts such
        as 2026-04-12T00:00:00.5+02:00.
        """
        number, found = self._numbers[path], self._found
        return _times(self._payload, found.kinds[number], found.starts[number], found.ends[number])

    def others(self) -> pa.Array:
        """By row, an object of the members of the top level with other keys, or null; each as it stands."""
        found = self._others
        everywhere = np.ones(len(found.texts), np.bool_)
        members = self._copy(np.arange(len(everywhere)), everywhere, ~everywhere, found.starts, found.ends)
        rows, counts = np.unique(found.texts, return_counts=True)
        lists = pa.ListArray.from_arrays(np.cumsum([0, *counts], dtype=np.int32), members)
        objects = pc.binary_join_element_wise("{", pc.binary_join(lists, ","), "}", "")
        with_others = np.zeros(len(self._payload), np.bool_)
        with_others[rows] = True
        return pc.replace_with_mask(pa.nulls(len(with_others), pa.string()), pa.array(with_others), objects)

    def _repeated_others(self) -> npt.NDArray[np.bool_]:
        """By row: does one of the other keys occur twice?"""
        found = self._others
        repeated = np.zeros(len(self._payload), np.bool_)
        if np.any(found.texts[1:] == found.texts[:-1]):
            everywhere = np.ones(len(found.texts), np.bool_)
            keys = self._copy(np.arange(len(everywhere)), everywhere, everywhere, found.starts + 1, found.key_ends - 1)
            counts = (
                pa.table({"text": found.texts, "key": keys}).group_by(["text", "key"]).aggregate([([], "count_all")])
            )
            repeated[counts.filter(pc.greater(counts["count_all"], 1))["text"]] = True
        return repeated

    def _copy(
        self,
        chosen: npt.NDArray[np.int64],
        present: npt.NDArray[np.bool_],
        escaped: npt.NDArray[np.bool_],
        starts: npt.NDArray[np.int32],
        ends: npt.NDArray[np.int32],
    ) -> pa.Array:
        """The chosen ones of some parts of the texts, as strings."""
        data, _ = _contents(self._payload)
        out = np.empty(ends.sum(dtype=np.int64) - starts.sum(dtype=np.int64), np.uint8)
        offsets = np.zeros(len(chosen) + 1, np.int32)
        size = _LIBRARY.copy(
            *_pointers(data, chosen), ctypes.c_int64(len(chosen)),
            *_pointers(present, escaped, starts, ends, out, offsets[1:]),
        )  # fmt: skip
        valid = pa.py_buffer(np.packbits(present[chosen], bitorder="little"))
        return pa.Array.from_buffers(pa.string(), len(chosen), [valid, pa.py_buffer(offsets), pa.py_buffer(out[:size])])


def first_times(payload: pa.Array, key: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The first member with a key at the top level of each text, as `Members.times` reads it.

    What follows the member is not read, and need not be JSON.

    Args:
        payload: Texts in UTF-8 or other bytes, as binary.
        key: The key, in ASCII.

    >>> [values.tolist() for values in first_times(pa.array([b'{"a":{"t":1},"t":2}', b'{"t"', None]), "t")]
    [[2000, 0, 0], [True, False, False]]
    """
    size, name = len(payload), np.frombuffer(key.encode(), np.uint8)
    data, offsets = _contents(payload)
    kinds = np.empty(size, np.uint8)
    starts, ends = np.zeros(size, np.int32), np.zeros(size, np.int32)
    _LIBRARY.first(
        *_pointers(data, offsets), ctypes.c_int64(size), *_pointers(name), ctypes.c_int32(len(name)),
        *_pointers(kinds, starts, ends),
    )  # fmt: skip
    return _times(payload, kinds, starts, ends)


def _times(
    payload: pa.Array, kinds: npt.NDArray[np.uint8], starts: npt.NDArray[np.int32], ends: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    micros, known = np.empty(len(payload), np.int64), np.empty(len(payload), np.bool_)
    data, _ = _contents(payload)
    _LIBRARY.times(
        *_pointers(data), ctypes.c_int64(len(payload)), *_pointers(kinds, starts, ends, micros, known)
    )  # fmt: skip
    return micros, known


def _contents(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """The bytes of all texts, and the offsets of the texts."""
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int32)
    offsets = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data or b"", np.uint8), offsets


def _pointers(*arrays: npt.NDArray[Any]) -> Iterator[ctypes.c_void_p]:
    assert all(array.flags.c_contiguous for array in arrays)
    return (ctypes.c_void_p(array.ctypes.data) for array in arrays)


def _struct(arrays: tuple[npt.NDArray[Any], ...]) -> ctypes.Array[ctypes.c_void_p]:
    """A struct of pointers to arrays."""
    return (ctypes.c_void_p * len(arrays))(*_pointers(*arrays))
