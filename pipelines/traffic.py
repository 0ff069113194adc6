"""A model of a web shop's visitors: who uses which device when, and what they do there.

The model consists of integer arrays only, without texts or files. Every random number is a hash of the seed, a purpose
and the row's number (`Dice`), so the result does not depend on how generation is split into pieces.

Sessions are planned rather than detected: inside a session no step is longer than 30 minutes, two sessions of a device
are more than 30 minutes apart, and no session reaches 4 hours. So under the default session rules the planned sessions
are the expected result.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from schemas.durations import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from schemas.errors import OptionError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

GAP = 30 * MINUTE
SILENCE = GAP + MILLISECOND
"""Least time between two sessions of a device: a whole millisecond over the gap, as Beam encodes windows in those."""
LONGEST_SESSION = 230 * MINUTE
LARGEST_SESSION = 250
EVENTS_PER_DEVICE_DAY = 150
"""With more events than this on average, the sessions of a device might not fit into the period."""

EVENT_TYPES = ("page_view", "click", "product_view", "search", "add_to_cart", "purchase", "login")
PAGE_VIEW, CLICK, PRODUCT_VIEW, SEARCH, ADD_TO_CART, PURCHASE, LOGIN = range(7)
_TYPE_SHARES = (0.42, 0.22, 0.22, 0.08, 0.06)

_HOURLY = np.array([4, 3, 2, 1.5, 1, 1, 2, 3, 4, 5, 6, 6, 6.5, 6, 5.5, 5.5, 6, 7, 8, 9, 10, 9.5, 8, 6])
"""Relative traffic of each UTC hour; the evening peak extends past midnight."""

ANONYMOUS = -1


class Dice:
    """Random numbers that are hashes of the seed, a purpose and a row number.

    >>> dice, rows = Dice(seed=1), np.arange(4)
    >>> bool((dice.uniform("delay", rows)[2:] == dice.uniform("delay", rows[2:])).all())
    True
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def bits(self, purpose: str, rows: Ints) -> NDArray[np.uint64]:
        """64 random bits per row (SplitMix64)."""
        salt = hashlib.blake2b(f"{self._seed}/{purpose}".encode(), digest_size=8).digest()
        mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed += np.uint64(int.from_bytes(salt, "big"))
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return mixed

    def uniform(self, purpose: str, rows: Ints) -> Floats:
        """A number in [0, 1) per row."""
        return (self.bits(purpose, rows) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, purpose: str, rows: Ints, limit: int | Ints) -> Ints:
        """An integer in [0, limit) per row."""
        return (self.uniform(purpose, rows) * limit).astype(np.int64)

    def chance(self, purpose: str, rows: Ints, share: float) -> Bools:
        """True for about this share of the rows."""
        return self.uniform(purpose, rows) < share

    def choice(self, purpose: str, rows: Ints, shares: tuple[float, ...]) -> Ints:
        """An index into `shares` per row, drawn with these probabilities, which add up to 1."""
        return np.searchsorted(np.cumsum(shares)[:-1], self.uniform(purpose, rows), side="right")

    def skewed(self, purpose: str, rows: Ints, median: float, spread: float) -> Floats:
        """Log-logistic values: many small ones and a long tail of large ones."""
        u = self.uniform(purpose, rows) + 2.0**-54
        return median * (u / (1 - u)) ** spread


@dataclass
class Sessions:
    """The planned sessions, one array per column; times in microseconds since 1970 UTC.

    Attributes:
        device: Number of the device.
        start: Time of the first event.
        end: Time of the last event.
        size: Number of events.
        first: Number of the first event, which identifies the session; the numbers of the others follow.
        earlier: Number of the device's events before this session.
        pace: Factor on the steps between events; below 1 if the session would be too long otherwise.
        user: Number of the user who is, or becomes, known.
        known_from: Position of the first event with the user; `size` if nobody logs in.
        logs_in: Whether the event at `known_from` is a login; if not, the user is known from the start.
        guest: Number of the user who takes over at `guest_from`.
        guest_from: Position from which another user of the household is logged in; mostly `size`.
        buys: Whether the session ends with a purchase.
    """

    device: Ints
    start: Ints
    end: Ints
    size: Ints
    first: Ints
    earlier: Ints
    pace: Floats
    user: Ints
    known_from: Ints
    logs_in: Bools
    guest: Ints
    guest_from: Ints
    buys: Bools

    def __len__(self) -> int:
        return len(self.device)

    def take(self, rows: Ints | slice | Bools) -> Self:
        """The sessions at these rows."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass
class Events:
    """Events, session by session; times in microseconds since 1970 UTC.

    Attributes:
        number: Number of the event, from 0 to below the total.
        session: Number of the session's first event, which identifies the session.
        device: Number of the device.
        nth: Number of the device's events before this one.
        time: Event time.
        arrival: Arrival time.
        type: Index into `EVENT_TYPES`.
        detail: Variant of the type, from 0 to below `Traffic.details`; small numbers are popular.
        user: Number of the user, or `ANONYMOUS`.
        copies: How often the event arrives, 1 to 3.
    """

    number: Ints
    session: Ints
    device: Ints
    nth: Ints
    time: Ints
    arrival: Ints
    type: Ints
    detail: Ints
    user: Ints
    copies: Ints

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: Ints | Bools) -> Self:
        """The events at these rows."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """The events of all parts, in order."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


@dataclass
class Traffic:
    """The shop's traffic over some days.

    Attributes:
        events: Valid events, each counted once.
        devices: Devices that may visit; some visit often, and many never do.
        days: Length of the period.
        start: Start of the period, microseconds since 1970 UTC.
        late_share: Share of events that arrive minutes to hours after they happened.
        duplicate_share: Share of events that arrive more than once.
        seed: The same seed gives the same events.
        details: Number of variants of each event type.
    """

    events: int
    devices: int
    days: int
    start: int
    late_share: float
    duplicate_share: float
    seed: int
    details: int = 1000

    def __post_init__(self) -> None:
        self.dice = Dice(self.seed)
        self.users = max(1, self.devices * 3 // 5)
        numbers = np.arange(self.devices)
        # a fifth of the trackers have microsecond timestamps, the others milliseconds
        self.fine_clock = self.dice.chance("fine clock", numbers, 0.2)
        self._clock_unit = np.where(self.fine_clock, 1, MILLISECOND)
        self.sessions = self._plan()
        """The planned sessions, ordered by start."""

    def slices(self, events: int) -> Iterator[tuple[Sessions, int]]:
        """Cut the sessions, in order of start, into slices of about `events` events.

        Yields:
            The sessions of a slice, and a time before which no event of a later slice arrives.
        """
        ends = np.cumsum(self.sessions.size)
        marks = np.arange(events, int(ends[-1]) + events, events)
        cuts = np.unique(np.searchsorted(ends, marks, side="left") + 1)
        begin = 0
        for end in np.minimum(cuts, len(ends)).tolist():
            if end > begin:
                horizon = self.sessions.start[end] if end < len(ends) else np.iinfo(np.int64).max
                yield self.sessions.take(slice(begin, end)), int(horizon)
            begin = end

    def lay_out(self, sessions: Sessions) -> Events:
        """The events of these sessions."""
        number, position, owner, steps = self._steps(sessions)
        walked = np.cumsum(steps)
        time = sessions.start[owner] + walked - walked[np.cumsum(sessions.size) - sessions.size][owner]
        user = np.where(position >= sessions.known_from[owner], sessions.user[owner], ANONYMOUS)
        user = np.where(position >= sessions.guest_from[owner], sessions.guest[owner], user)
        device = sessions.device[owner]
        popularity = self.dice.uniform("detail", number) ** 2.5
        twice, thrice = (self.dice.chance("copies", number, self.duplicate_share * s) for s in (1, 0.1))
        return Events(
            number=number,
            session=sessions.first[owner],
            device=device,
            nth=sessions.earlier[owner] + position,
            time=time,
            arrival=time + self._delay(number),
            type=self._types(sessions, number, position, owner),
            detail=(popularity * self.details).astype(np.int64),
            user=user,
            copies=1 + twice.astype(np.int64) + thrice,
        )

    def repeats(self, events: Events) -> tuple[Events, Ints]:
        """The repeated deliveries of events that arrive more than once.

        Returns:
            The events with their later arrival, and the number of the delivery: 1 for the second, 2 for the third.
        """
        again = np.repeat(np.arange(len(events)), events.copies - 1)
        delivery = np.where(np.diff(again, prepend=-1) == 0, 2, 1)
        delay = self.dice.skewed("repeat", events.number[again] * 2 + delivery, 20 * SECOND, 1.2)
        repeats = events.take(again)
        repeats.arrival += delay.clip(MILLISECOND, 3 * HOUR).astype(np.int64)
        return repeats, delivery

    def _delay(self, number: Ints) -> Ints:
        """Delays in microseconds: about a second, and minutes to hours for the late share."""
        usual = self.dice.skewed("delay", number, 400 * MILLISECOND, 0.6).clip(max=30 * SECOND)
        late = self.dice.chance("is late", number, self.late_share)
        longest, shortest = np.log(6 * HOUR), np.log(MINUTE)
        lateness = np.exp(shortest + (longest - shortest) * self.dice.uniform("lateness", number))
        return np.where(late, lateness, usual).astype(np.int64)

    def _types(self, sessions: Sessions, number: Ints, position: Ints, owner: Ints) -> Ints:
        drawn = self.dice.choice("type", number, _TYPE_SHARES)
        landing = np.where(self.dice.chance("landing", number, 0.15), PRODUCT_VIEW, PAGE_VIEW)
        types = np.where(position == 0, landing, drawn)
        left = np.where(sessions.buys, sessions.size, -1)[owner] - position
        types = np.where(left == 2, ADD_TO_CART, types)
        types = np.where(left == 1, PURCHASE, types)
        login = np.where(sessions.logs_in, sessions.known_from, -1)[owner] == position
        return np.where(login, LOGIN, types)

    def _steps(self, sessions: Sessions) -> tuple[Ints, Ints, Ints, Ints]:
        """For each event: its number, position in its session, the session's row, and time since the previous event."""
        owner = np.repeat(np.arange(len(sessions)), sessions.size)
        begin = np.cumsum(sessions.size) - sessions.size
        position = np.arange(len(owner)) - begin[owner]
        number = sessions.first[owner] + position
        think = self.dice.skewed("think", number, 18 * SECOND, 0.8).clip(max=29 * MINUTE)
        think[self.dice.chance("tie", number, 0.01)] = 0
        unit = self._clock_unit[sessions.device][owner]
        steps = (think * sessions.pace[owner]).astype(np.int64)
        steps -= steps % unit
        # a step of exactly the gap still continues a session
        steps[self.dice.chance("brink", number, 0.0003) & (sessions.pace[owner] == 1)] = GAP
        steps[position == 0] = 0
        return number, position, owner, steps

    def _durations(self, sessions: Sessions) -> Ints:
        """Time from first to last event, computed in pieces to bound memory."""
        totals = np.zeros(len(sessions), np.int64)
        for begin in range(0, len(sessions), 50_000):
            piece = sessions.take(slice(begin, begin + 50_000))
            starts = np.cumsum(piece.size) - piece.size
            totals[begin : begin + 50_000] = np.add.reduceat(self._steps(piece)[3], starts)
        return totals

    def _plan(self) -> Sessions:
        size = self._sizes()
        zeros = np.zeros_like(size)
        sessions = Sessions(
            device=zeros, start=zeros, end=zeros, size=size, first=np.cumsum(size) - size, earlier=zeros,
            pace=np.ones(len(size)), user=zeros, known_from=zeros, logs_in=zeros > 0, guest=zeros,
            guest_from=zeros, buys=zeros > 0,
        )  # fmt: skip
        # not rounded to the device's clock yet, which changes each step by less than a millisecond
        roughly = self._durations(sessions)
        sessions.pace = np.minimum(1, LONGEST_SESSION / np.maximum(roughly, 1))
        loads = np.minimum(roughly, LONGEST_SESSION) + SILENCE
        sessions.device = self._devices_with_room(sessions.first, loads)
        sessions = self._place(sessions, self._durations(sessions))
        self._assign_users(sessions)
        sessions.buys = self.dice.chance("buys", sessions.first, 0.08) & (sessions.size >= 4)
        return sessions.take(np.lexsort((sessions.first, sessions.start)))

    def _sizes(self) -> Ints:
        """Number of events of each session: one for an eighth of them, a median of five, and a long tail."""
        rows = np.arange(self.events // 4 + 10)
        sizes = self.dice.skewed("size", rows, 5.5, 0.55).astype(np.int64).clip(2, LARGEST_SESSION)
        sizes[self.dice.chance("bounce", rows, 0.12)] = 1
        ends = np.cumsum(sizes)
        sessions = int(np.searchsorted(ends, self.events)) + 1
        sizes = sizes[:sessions]
        sizes[-1] -= ends[sessions - 1] - self.events
        return sizes

    def _devices_with_room(self, names: Ints, loads: Ints) -> Ints:
        """A device for each session: a few devices get many, none more than fit into the period."""
        appetite = np.minimum((1 - self.dice.uniform("appetite", np.arange(self.devices))) ** -0.9, 300)
        bounds = np.cumsum(appetite)
        device = np.searchsorted(bounds, self.dice.uniform("device", names) * bounds[-1], side="right")
        device = device.clip(max=self.devices - 1)
        room = self.days * DAY * 19 // 20
        for attempt in range(100):
            order = np.argsort(device, kind="stable")
            crowded = np.zeros(len(device), np.bool_)
            crowded[order] = _running_sums(device[order], loads[order]) + loads[order] > room
            if not crowded.any():
                return device
            device[crowded] = self.dice.below(f"device {attempt}", names[crowded], self.devices)
        raise OptionError("the sessions do not fit: give more devices or more days")

    def _place(self, sessions: Sessions, durations: Ints) -> Sessions:
        """Assign times to the sessions; returns them by device and time."""
        period = self.days * DAY
        loads = durations + SILENCE
        used = np.bincount(sessions.device, weights=loads, minlength=self.devices).astype(np.int64)
        # preferred starts are scaled to the device's free time; adding the sessions before them keeps their order
        slack = (self._preferred_starts(sessions.first) * ((period - used)[sessions.device] / period)).astype(np.int64)
        order = np.lexsort((sessions.first, slack, sessions.device))
        sessions, slack, loads, durations = sessions.take(order), slack[order], loads[order], durations[order]
        slack -= slack % self._clock_unit[sessions.device]
        same = np.diff(sessions.device, prepend=-1) == 0
        # some sessions start as early as possible: exactly 30:00.001 after the previous one
        at_once = self.dice.chance("at once", sessions.first, 0.0025) & same
        slack = slack[np.maximum.accumulate(np.where(at_once, 0, np.arange(len(slack))))]
        sessions.start = self.start + slack + _running_sums(sessions.device, loads)
        sessions.end = sessions.start + durations
        sessions.earlier = _running_sums(sessions.device, sessions.size)
        return sessions

    def _preferred_starts(self, names: Ints) -> Floats:
        """Preferred starts of sessions within the period, microseconds; evenings are popular."""
        hours = np.concatenate([[0], np.cumsum(_HOURLY / _HOURLY.sum())])
        hour = np.interp(self.dice.uniform("hour", names), hours, np.arange(25))
        return self.dice.below("day", names, self.days) * float(DAY) + hour * HOUR

    def _assign_users(self, sessions: Sessions) -> None:
        names, size = sessions.first, sessions.size
        owner = self.dice.below("owner", sessions.device, self.users)
        sessions.guest = self.dice.below("guest", sessions.device, self.users)
        sessions.user = np.where(self.dice.chance("guest visits", names, 0.05), sessions.guest, owner)
        habit = self.dice.uniform("habit", names)
        sessions.logs_in = (habit >= 0.5) & (habit < 0.75) & (size > 1)
        position = 1 + self.dice.below("login", names, size - 1)
        sessions.known_from = np.where(habit >= 0.75, 0, np.where(sessions.logs_in, position, size))
        shared = self.dice.chance("hand over", names, 0.02) & (sessions.known_from < size)
        sessions.guest_from = np.where(shared, (sessions.known_from + size + 1) // 2, size)


def _running_sums(groups: Ints, values: Ints) -> Ints:
    """Sum of the values before each row within its group; the rows of a group are adjacent."""
    before: Ints = np.cumsum(values) - values
    begins = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    sizes = np.diff(begins, append=len(groups))
    return before - np.repeat(before[begins], sizes)
