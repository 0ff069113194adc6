"""Parsing of command-line options, which are checked together before anything starts."""

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from schemas.catalogue import CATALOGUE_VARIABLE
from schemas.durations import parse_duration, parse_optional_duration
from schemas.errors import ClickstreamError, OptionError
from schemas.event_types import Catalogue
from schemas.secrets import UserKeySecret
from transforms.sessions.policy import SessionPolicy

T = TypeVar("T")

SESSION_ENGINES = ("columnar", "beam")
WRITE_MODES = ("merge", "overwrite", "append")
RUNNERS = ("direct", "flink", "dataflow")
LAYERS = ("all", "raw")
CONFIG_FILE = "clickstream.toml"


class Problems:
    """Collects all problems of a set of options, to report them at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, option: str, parse: Callable[[], T]) -> T | None:
        """The result of `parse`, or None if it fails; its error is noted under the option's name."""
        try:
            return parse()
        except (ClickstreamError, ValueError) as error:
            self.found += [f"{option}: {line}" if option else line for line in str(error).split("\n")]
            return None

    def require(self, holds: bool, message: str) -> None:
        """Note the message unless the condition holds."""
        if not holds:
            self.found.append(message)

    def raise_any(self) -> None:
        """Raise an OptionError with one line per problem, if there are any."""
        if self.found:
            raise OptionError("\n".join(self.found))


def known(value: T | None) -> T:
    """Cast away None from a result of `Problems.attempt`, after `raise_any` has passed."""
    return cast(T, value)


@dataclass(frozen=True)
class RunOptions:
    """The validated options of the main job's graph.

    Attributes:
        lake: URI of the lake.
        devices: URI of the device store.
        policy: The session rules.
        shards: Number of keys over which devices are spread.
        session_engine: ``columnar`` or ``beam``.
        write_mode: ``merge``, ``overwrite`` or ``append``.
        secret: Source of the secret for user_key.
        started_at: Arrival time of events for which the input has none.
        archive: URI of the raw log to archive a bus in; None for no archive.
        onto_existing: Whether a fresh run on an endless input may add to the rows of another run.
        stable_input: Whether to request stable input from the runner for commits.
        two_workers: Whether reading and writing the stores get a worker each; see `transforms.workers`.
        catalogue: The event types of the silver tables and the activity stream; None to write neither.
    """

    lake: str
    devices: str
    policy: SessionPolicy
    shards: int
    session_engine: str
    write_mode: str
    secret: UserKeySecret
    started_at: datetime
    archive: str | None = None
    onto_existing: bool = False
    stable_input: bool = False
    two_workers: bool = False
    catalogue: Catalogue | None = None


@dataclass(frozen=True)
class Stores:
    """Locations of both stores and the event catalogue, from options, then the environment, then the config file."""

    lake: str | None
    devices: str | None
    catalogue: str | None = None

    @classmethod
    def find(
        cls, lake: str | None, devices: str | None, config: Path | None, catalogue: Path | None = None
    ) -> "Stores":
        """Look the stores up in order of precedence.

        Raises:
            OptionError: The config file cannot be read or has an unknown key.
        """
        settings = read_config(config)
        return cls(
            lake or os.environ.get("CLICKSTREAM_LAKE") or settings.get("lake"),
            devices or os.environ.get("CLICKSTREAM_DEVICES") or settings.get("devices"),
            str(catalogue) if catalogue else os.environ.get(CATALOGUE_VARIABLE) or settings.get("catalogue"),
        )

    def need_lake(self) -> str:
        """The lake's URI.

        Raises:
            OptionError: No source names the lake.
        """
        return _named(self.lake, "lake")

    def need_devices(self) -> str:
        """The device store's URI.

        Raises:
            OptionError: No source names the device store.
        """
        return _named(self.devices, "devices")


def _named(value: str | None, name: str) -> str:
    if not value:
        raise OptionError(f"name it with --{name}, CLICKSTREAM_{name.upper()} or {name} = in {CONFIG_FILE}")
    return value


def read_config(path: Path | None) -> dict[str, Any]:
    """Settings of a config file: the given one, or else CLICKSTREAM_CONFIG, or else ./clickstream.toml if it exists.

    Raises:
        OptionError: The file cannot be read, is not TOML, or holds an unknown key.
    """
    given = path or (Path(os.environ["CLICKSTREAM_CONFIG"]) if "CLICKSTREAM_CONFIG" in os.environ else None)
    found = given or Path(CONFIG_FILE)
    if given is None and not found.exists():
        return {}
    try:
        settings = tomllib.loads(found.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"cannot read the config file {found}: {error}") from error
    unknown = sorted(set(settings) - {"lake", "devices", "catalogue"})
    if unknown:
        raise OptionError(f"{found}: unknown setting {', '.join(unknown)}; it may hold lake, devices and catalogue")
    wrong = sorted(name for name, value in settings.items() if not isinstance(value, str))
    if wrong:
        raise OptionError(f"{found}: {', '.join(wrong)} must be text")
    return settings


def parse_count(text: str) -> int:
    """Parse an integer of at least one; ``_`` between digits and a suffix k, M or G are allowed.

    Raises:
        OptionError: The text is not such a number.

    >>> parse_count("5M")
    5000000
    """
    scale = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:], 1)
    digits = (text[:-1] if scale > 1 else text).replace("_", "")
    if not digits.isdecimal() or int(digits) == 0:
        raise OptionError(f"{text!r} is not a whole number of at least 1")
    return int(digits) * scale


def parse_share(text: str) -> float:
    """Parse a share from 0 to 1, or a percentage.

    Raises:
        OptionError: The text is not a share.

    >>> parse_share("2%")
    0.02
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise OptionError(f"{text!r} is not a share: write it like 0.02 or 2%") from error
    if not 0 <= share <= 1:
        raise OptionError(f"{text!r} is not from 0 to 1")
    return share


def parse_date(text: str) -> date:
    """Parse a date in RFC 3339 form.

    Raises:
        OptionError: The text is not a date.

    >>> parse_date("2026-04-12")
    datetime.date(2026, 4, 12)
    """
    try:
        return date.fromisoformat(text.strip())
    except ValueError as error:
        raise OptionError(f"{text!r} is not a date: write it like 2026-04-12") from error


def parse_policy(problems: Problems, gap: str, cap: str, lateness: str, early: str) -> SessionPolicy | None:
    """Parse the session rules and note their problems; None if there are problems, these or earlier ones."""
    parsed = (
        problems.attempt("--session-gap", lambda: parse_duration(gap)),
        problems.attempt("--max-session", lambda: parse_optional_duration(cap)),
        problems.attempt("--allowed-lateness", lambda: parse_optional_duration(lateness)),
        problems.attempt("--early-firing", lambda: parse_optional_duration(early)),
    )
    if problems.found:
        return None
    return problems.attempt(
        "",
        lambda: SessionPolicy(
            gap=known(parsed[0]), cap=parsed[1], allowed_lateness=parsed[2] or 0, early_firing=parsed[3]
        ),
    )


def parse_choice(text: str, choices: tuple[str, ...]) -> str:
    """Check that a word is one of the choices, and return it.

    Raises:
        OptionError: The word is not one of them.
    """
    if text not in choices:
        raise OptionError(f"{text!r} is none of {', '.join(choices)}")
    return text
