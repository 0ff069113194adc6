"""What hypothesis draws for the session tests: events with ties and nulls, and policies on other grids."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from schemas.durations import HOUR, MINUTE, SECOND
from tests.transforms.sessions.session_scripts import BASE, click
from transforms.sessions.policy import SessionPolicy


def clicks(max_size: int = 30) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Events of three devices in 14 hours, across a midnight; times crowd on marks and on each other."""
    exact = st.integers(0, 14 * 12).map(lambda n: n * 5 * MINUTE)
    near = st.tuples(exact, st.sampled_from([-1, 1, SECOND, MINUTE])).map(sum)
    return st.lists(_click(exact | near), max_size=max_size, unique_by=lambda row: (row["device_id"], row["event_id"]))


def _click(
    times: st.SearchStrategy[int], devices: Sequence[str] = ("d1", "d2", "é3")
) -> st.SearchStrategy[dict[str, Any]]:
    def build(device: str, time: int, number: int, purchase: Decimal | None, **columns: Any) -> dict[str, Any]:
        kind = "page_view" if purchase is None else "purchase"
        event_id = f"{number:05d}"
        return click(BASE + 6 * HOUR + time, device, event_id, event_type=kind, revenue=purchase, **columns)

    return st.builds(
        build,
        device=st.sampled_from(devices),
        time=times,
        number=st.integers(0, 99_999),
        purchase=st.none() | st.decimals("0", "999.9999", places=4),
        page_url=st.sampled_from([None, "/a", "/b"]),
        user_key=st.sampled_from([None, None, "u1", "u2"]),
        country=st.sampled_from([None, "US", "DE"]),
        device_type=st.sampled_from([None, "mobile"]),
        os=st.sampled_from([None, "ios", "android"]),
        app_version=st.sampled_from([None, "1", "2"]),
    )


def policies() -> st.SearchStrategy[SessionPolicy]:
    """Rules with caps, cuts and early firings, on the five-minute grid."""
    return st.builds(
        SessionPolicy,
        gap=st.sampled_from([30 * MINUTE, 5 * MINUTE, 20 * MINUTE]),
        cap=st.sampled_from([None, HOUR, 4 * HOUR]),
        cut_at_midnight=st.booleans(),
        allowed_lateness=st.sampled_from([0, 10 * MINUTE, HOUR]),
        early_firing=st.sampled_from([None, 5 * MINUTE, 15 * MINUTE, HOUR]),
        cell=st.just(5 * MINUTE),
    )


def scripts() -> st.SearchStrategy[list[tuple[int, list[dict[str, Any]]]]]:
    """Batches of events, each behind the watermark at which it comes; the watermark never falls.

    A few devices are busy for some hours around midnight, with silences about as long as the gap; two events in five
    come late, some of them too late.
    """

    def arrange(moves: list[tuple[dict[str, Any], int, int]]) -> list[tuple[int, list[Any]]]:
        clock: dict[str, int] = {}
        arrivals: dict[int, list[dict[str, Any]]] = {}
        for number, (row, silence, delay) in enumerate(moves):
            device = row["device_id"]
            clock[device] = clock.get(device, BASE + 12 * HOUR + 30 * MINUTE) + silence
            moved = row | {"event_time": clock[device], "event_id": f"{row['event_id']}-{number}"}
            watermark = (clock[device] + delay) // (5 * MINUTE) * 5 * MINUTE
            arrivals.setdefault(watermark, []).append(moved)
        return sorted(arrivals.items())

    minutes = st.sampled_from([0, 1, 4, 5, 10, 15, 20, 25, 29, 30, 31, 35, 45]).map(lambda n: n * MINUTE)
    silences = st.tuples(minutes, st.sampled_from([0, 0, 1, SECOND])).map(sum)
    delays = st.sampled_from([-10, -10, -10, 5, 20, 45, 70, 100]).map(lambda n: n * MINUTE)
    moves = st.tuples(_click(st.just(0), ["d1", "d1", "d2"]), silences, delays)
    return st.lists(moves, min_size=8, max_size=20).map(arrange)
