"""Generated events in order of arrival, with late, duplicate and broken ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa

from pipelines.broken_lines import BrokenLine, broken_line
from pipelines.envelopes import Envelopes
from pipelines.traffic import Events, Ints, Traffic
from schemas.durations import DAY, SECOND
from schemas.records import TIMESTAMP


@dataclass
class Deliveries:
    """Deliveries of events; an event that is delivered twice occurs twice."""

    events: Events
    nth: Ints

    @classmethod
    def none(cls) -> Self:
        """No deliveries."""
        nothing = np.zeros(0, np.int64)
        return cls(Events(*(nothing,) * 10), nothing)

    @classmethod
    def of(cls, traffic: Traffic, events: Events) -> Self:
        """The first deliveries of events, and their repeated deliveries."""
        repeats, nth = traffic.repeats(events)
        return cls(Events.concat([events, repeats]), np.concatenate([np.zeros(len(events), np.int64), nth]))

    def plus(self, other: Self) -> Self:
        """These deliveries and others."""
        return type(self)(Events.concat([self.events, other.events]), np.concatenate([self.nth, other.nth]))

    def until(self, horizon: int) -> tuple[Self, Self]:
        """Split into deliveries that arrive before the horizon, in order of arrival, and the rest."""
        arrives = self.events.arrival < horizon
        rest = np.flatnonzero(~arrives)
        due = np.flatnonzero(arrives)
        due = due[np.lexsort((self.nth[due], self.events.number[due], self.events.arrival[due]))]
        return (
            type(self)(self.events.take(due), self.nth[due]),
            type(self)(self.events.take(rest), self.nth[rest]),
        )


def deliveries(traffic: Traffic, rows: int) -> Iterator[tuple[Events, Deliveries, int]]:
    """Slices of the traffic's events in order of time, of about `rows` events each.

    Returns:
        For each slice: its events; all deliveries not yet returned that arrive before its horizon, in order of arrival;
        and the horizon.
    """
    waiting = Deliveries.none()
    for sessions, horizon in traffic.slices(rows):
        events = traffic.lay_out(sessions)
        due, waiting = waiting.plus(Deliveries.of(traffic, events)).until(horizon)
        yield events, due, horizon


@dataclass
class Broken:
    """The broken lines, in order of arrival."""

    lines: list[BrokenLine]
    arrivals: Ints
    devices: Ints
    written: int = 0

    @classmethod
    def make(cls, traffic: Traffic, envelopes: Envelopes, share: float, from_bus: bool) -> Self:
        """Make as many broken lines as a share of the events; from a bus also null and empty payloads."""
        numbers = np.arange(round(traffic.events * share))
        arrivals = traffic.start + np.sort(traffic.dice.below("broken arrival", numbers, traffic.days * DAY))
        devices = traffic.dice.below("broken device", numbers, traffic.devices)
        lines = [
            broken_line(n, envelope_to_break(n, device_id, arrival), from_bus=from_bus)
            for n, device_id, arrival in zip(
                numbers.tolist(), envelopes.device_ids.gather(devices), arrivals.tolist(), strict=True
            )
        ]
        return cls(lines, arrivals, devices)

    def between(self, envelopes: Envelopes, due: Deliveries, horizon: int) -> tuple[pl.Series, Ints, Ints]:
        """The due events and the broken lines that arrive between them: lines, arrival times and devices."""
        good = envelopes.lines(due.events, due.nth)
        end = int(np.searchsorted(self.arrivals, horizon))
        mine = slice(self.written, end)
        self.written = end
        bad = pl.Series([_with_end(line.payload) for line in self.lines[mine]], dtype=pl.Binary)
        where = np.searchsorted(due.events.arrival, self.arrivals[mine], side="right")
        order = np.insert(np.arange(len(good)), where, len(good) + np.arange(len(bad)))
        return (
            pl.concat([good, bad], rechunk=True).gather(order),
            np.concatenate([due.events.arrival, self.arrivals[mine]])[order],
            np.concatenate([due.events.device, self.devices[mine]])[order],
        )

    def truth(self) -> pa.Table:
        """The expected dead letters: payload, reason, field, arrival_time."""
        return pa.table({
            "payload": pa.array([line.payload for line in self.lines], pa.large_binary()),
            "reason": pa.array([line.reason.value for line in self.lines], pa.string()),
            "field": pa.array([line.field for line in self.lines], pa.string()),
            "arrival_time": pa.array(self.arrivals).cast(TIMESTAMP),
        })  # fmt: skip


def envelope_to_break(number: int, device_id: str, micros: int) -> dict[str, object]:
    """A valid event to be broken; its number is in its id and page URL."""
    stamp = datetime.fromtimestamp(micros // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "event_id": f"broken-{number}", "event_type": "page_view", "timestamp": stamp, "device_id": device_id,
        "user_id": "user-000000", "session_id": None, "properties": {"page_url": f"https://shop.example/{number}"},
        "context": {"device_type": "mobile", "country": "US"},
    }  # fmt: skip


def _with_end(payload: bytes | None) -> bytes | None:
    return None if payload is None else payload + b"\n"
