"""The dimensions that both facts share: devices, users, pages. A row summarises events; rows merge by key in any order.

A value that a single event decides (the first country, the user of the last login) is stored with that event's time and
id, so that merging rows is commutative and idempotent. If events of several devices have the same time and id, the
value itself decides.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa

from schemas.records import TIMESTAMP, Field, Record

KEYS_KEPT = 100
"""Most users of a device, and devices of a user, that are counted; a count of this number means this many or more."""

PUBLIC_DEVICE_USERS = 10
"""A device with logins of more users than this belongs to nobody: a kiosk, a till, a test rig."""


class ResolutionReason(StrEnum):
    """Why a device's anonymous sessions are attributed to a user, or to nobody although users have logged in."""

    ONE_USER = "one_user"
    LAST_LOGIN = "last_login"
    PUBLIC_DEVICE = "public_device"


class IdentityReason(StrEnum):
    """Whether users who are linked by logins on the same devices were joined to one person, and why not."""

    SHARED_DEVICES = "shared_devices"
    TOO_MANY_USERS = "too_many_users"
    TOO_MANY_DEVICES = "too_many_devices"


class Observed(NamedTuple):
    """A column whose value a single event decides.

    Attributes:
        name: The column.
        source: The event's column.
        keep: ``first`` or ``last``: which non-null value to keep, in order of (event_time, event_id, value).
        at: The column with the deciding event's time.
        event: The column with the deciding event's id.
        brief: Whether `at` and `event` are null if the row's own first (last) event decides, as it nearly always does.
    """

    name: str
    source: str
    keep: str
    at: str
    event: str
    brief: bool = True


class Keys(NamedTuple):
    """A set of keys in a row.

    Attributes:
        name: The column with the `KEYS_KEPT` smallest keys in order, separated by commas.
        number: The column with the number of keys.
    """

    name: str
    number: str


class Dimension(NamedTuple):
    """A record, and how rows of the same key merge.

    The columns `first_seen_at`, `first_event_id`, `last_seen_at` and `last_event_id` hold the row's own first and last
    event.

    Attributes:
        record: The record.
        observed: Columns whose value a single event decides.
        least: Columns of which the minimum is kept: the time of the first event that adds a key to `keys`.
        keys: A set of keys, merged by union.
        given: Columns of which at most one row has a value, or all rows the same.
    """

    record: Record
    observed: tuple[Observed, ...]
    least: tuple[str, ...]
    keys: Keys
    given: tuple[str, ...]


def _observed(keep: str, *sources: str) -> tuple[Observed, ...]:
    names = {source: f"{'latest' if keep == 'last' else 'first'}_{source}" for source in sources}
    return tuple(Observed(name, source, keep, f"{name}_at", f"{name}_event_id") for source, name in names.items())


def _values(observed: tuple[Observed, ...]) -> Iterator[Field]:
    for column in observed:
        doc = f"{'first non-null, never overwritten' if column.keep == 'first' else 'last non-null (SCD type 1)'}"
        yield Field(column.name, pa.string(), f"{column.source}: the {doc}")


def _seen(observed: tuple[Observed, ...]) -> Iterator[Field]:
    for column in observed:
        own = f"null if that is the {column.keep} event, or there is none"
        yield Field(column.at, TIMESTAMP, f"bookkeeping: event_time of the event with {column.name}; {own}")
        yield Field(column.event, pa.string(), f"bookkeeping: event_id of the event with {column.name}; {own}")


_ATTRIBUTES = ("country", "device_type", "os", "app_version")
_FIRST, _LATEST = _observed("first", *_ATTRIBUTES), _observed("last", *_ATTRIBUTES)
_OF_USER = _observed("last", "country", "device_type", "os")
_LOGIN = Observed("last_login_user_key", "user_key", "last", "last_login_at", "last_login_event_id", brief=False)
_OWN_EVENTS = (
    Field("first_event_id", pa.string(), "bookkeeping: event_id of the first event", nullable=False),
    Field("last_event_id", pa.string(), "bookkeeping: event_id of the last event", nullable=False),
)

DEVICE = Dimension(
    Record(
        name="dim_devices",
        grain="one device",
        fields=(
            Field("device_id", pa.string(), "the device", nullable=False),
            Field("first_seen_at", TIMESTAMP, "event_time of its first event", nullable=False),
            Field("last_seen_at", TIMESTAMP, "event_time of its last event", nullable=False),
            Field("first_login_at", TIMESTAMP, "event_time of the first event that carries a user"),
            Field("last_login_at", TIMESTAMP, "event_time of the last event that carries a user"),
            Field("last_login_user_key", pa.string(), "user_key of that event"),
            Field("resolved_user_key", pa.string(), "user of its anonymous sessions: the user of the last login"),
            Field("resolution_reason", pa.string(), "one_user, last_login; public_device: too many users, so nobody"),
            Field(
                "users_seen",
                pa.int32(),
                f"number of users that have logged in; {KEYS_KEPT} means {KEYS_KEPT} or more",
                nullable=False,
            ),
            *_values(_FIRST),
            *_values(_LATEST),
            Field("identity_key", pa.string(), "person, if shared devices link several users: their smallest user_key"),
            Field("identity_reason", pa.string(), "shared_devices; too_many_users, too_many_devices: users stay apart"),
            Field("stitched_user_key", pa.string(), "user whom stitching last gave its anonymous sessions to"),
            Field("stitched_from", TIMESTAMP, "earliest session_start given to that user; null: no limit"),
            Field("user_keys", pa.string(), f"users seen, separated by commas; the {KEYS_KEPT} smallest in order"),
            *_OWN_EVENTS,
            Field("last_login_event_id", pa.string(), "bookkeeping: event_id of the last login"),
            *_seen(_FIRST),
            *_seen(_LATEST),
        ),
        sort_by=("device_id",),
        key=("device_id",),
    ),
    observed=(_LOGIN, *_FIRST, *_LATEST),
    least=("first_login_at",),
    keys=Keys("user_keys", "users_seen"),
    given=("identity_key", "identity_reason", "stitched_user_key", "stitched_from"),
)

USER = Dimension(
    Record(
        name="dim_users",
        grain="one user, as last seen",
        fields=(
            Field("user_key", pa.string(), "keyed hash of user_id, 32 hexadecimal digits", nullable=False),
            Field("user_id", pa.string(), "the user's id as the envelope has it"),
            Field("first_seen_at", TIMESTAMP, "event_time of the first event that carries the user", nullable=False),
            Field("last_seen_at", TIMESTAMP, "event_time of the last event that carries the user", nullable=False),
            Field(
                "devices_seen",
                pa.int32(),
                f"number of devices used; {KEYS_KEPT} means {KEYS_KEPT} or more",
                nullable=False,
            ),
            *_values(_OF_USER),
            Field("device_keys", pa.string(), f"bookkeeping: hashes of devices; the {KEYS_KEPT} smallest in order"),
            *_OWN_EVENTS,
            *_seen(_OF_USER),
        ),
        sort_by=("user_key",),
        key=("user_key",),
    ),
    observed=_OF_USER,
    least=(),
    keys=Keys("device_keys", "devices_seen"),
    given=("user_id",),
)

PAGE = Record(
    name="dim_pages",
    grain="one page: a URL as docs/identity.md normalises it",
    fields=(
        Field("page_key", pa.string(), "hash of url, 32 hexadecimal digits", nullable=False),
        Field("url", pa.string(), "host and path", nullable=False),
        Field("host", pa.string(), "lower case; null if the tracker gave only a path"),
        Field("path", pa.string(), "from the first slash, without a trailing slash", nullable=False),
        Field("category", pa.string(), "category of the first configured rule that matches the path", nullable=False),
        Field("first_seen_at", TIMESTAMP, "event_time of the first event on it", nullable=False),
    ),
    sort_by=("page_key",),
    key=("page_key",),
)

EVENT_COLUMNS = ("event_id", "event_time", "device_id", "user_id", "user_key", "page_url", *_ATTRIBUTES)
"""The columns of an event batch that the dimensions are computed from."""
