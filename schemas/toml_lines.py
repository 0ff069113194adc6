"""Parses TOML with the line of each setting, to report a mistake with its line; tomllib does not keep lines."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Path = tuple[str, ...]

_LONGEST = 200
"""Most lines of one setting; for a longer one, or one without an end, the mistake is reported at its first line."""


class Mistake(NamedTuple):
    """A mistake and its line, counted from 1."""

    line: int
    message: str


@dataclass
class Document:
    """A TOML document.

    Attributes:
        values: Tables and settings, as tomllib returns them.
        lines: The line of each table and setting, by path.
        mistakes: Lines that are not TOML, and names that are defined twice.
    """

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of a setting, or of the nearest table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_toml(text: str) -> Document:
    """Parse a document statement by statement; an invalid statement is noted, and the others are still parsed.

    >>> document = read_toml('[a]' + chr(10) + 'b = 1' + chr(10) + 'b = 2')
    >>> document.values, document.lines[("a", "b")], document.mistakes[0].line
    ({'a': {'b': 1}}, 2, 3)
    """
    document = Document()
    table: Path = ()
    for line, found in _statements(text):
        if isinstance(found, str):
            document.mistakes.append(Mistake(line, found))
        elif found.value is None:
            table = found.path
            _add(document, line, table, {})
        else:
            _add(document, line, table + found.path, found.value)
    return document


class _Statement(NamedTuple):
    """A table header, with None as its value, or a setting."""

    path: Path
    value: Any


def _statements(text: str) -> Iterator[tuple[int, _Statement | str]]:
    """The line of each statement, with the statement or an error message."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        start = lines[at].strip()
        taken, found = 1, None
        if start and not start.startswith("#"):
            taken, found = _statement(lines[at : at + _LONGEST])
            yield at + 1, found
        at += taken


def _statement(lines: list[str]) -> tuple[int, _Statement | str]:
    """Parse the first statement of the lines; returns its number of lines, and the statement or an error message."""
    error = ""
    for taken in range(1, len(lines) + 1):
        try:
            value = tomllib.loads("\n".join(lines[:taken]))
        except tomllib.TOMLDecodeError as wrong:
            error = error or str(wrong).partition(" (at ")[0]
            continue
        if lines[0].lstrip().startswith("["):
            return taken, _Statement(_path(value), None)
        path = _path(_key(lines[0]))
        for name in path:
            value = value[name]
        return taken, _Statement(path, value)
    return 1, f"not TOML: {error[:1].lower()}{error[1:]}"


def _key(line: str) -> dict[str, Any]:
    """A document with only the key that the line sets."""
    equals = line.find("=")
    while True:
        try:
            return tomllib.loads(f"{line[:equals]}=0")
        except tomllib.TOMLDecodeError:
            equals = line.index("=", equals + 1)


def _path(value: Any) -> Path:
    """The path in a document of one key or header; an array of tables adds the name ``[]``."""
    path: Path = ()
    while value:
        if isinstance(value, list):
            return (*path, "[]")
        name, value = next(iter(value.items()))
        path = (*path, name)
    return path


def _add(document: Document, line: int, path: Path, value: Any) -> None:
    """Set a value or declare a table; note a mistake if it is already defined."""
    table = document.values
    for name in path[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            inner = {}
        table = inner
    if path in document.lines or not isinstance(table.get(path[-1], {}), dict):
        first = document.line(path)
        document.mistakes.append(Mistake(line, f"{'.'.join(path)} is defined twice, first in line {first}"))
        return
    if isinstance(value, dict):
        table.setdefault(path[-1], {})
        document.lines[path] = line
        for name, item in value.items():
            _add(document, line, (*path, name), item)
    elif path[-1] in table:
        document.mistakes.append(
            Mistake(line, f"{'.'.join(path)} is defined twice, first in line {document.line(path)}")
        )
    else:
        document.lines[path] = line
        table[path[-1]] = value
