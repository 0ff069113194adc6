"""Views over facts and dimensions, held against plain Python."""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake.transaction import Transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dimensions import DEVICE
from schemas.durations import DAY
from schemas.events import EVENT, FACT_EVENT
from schemas.records import Record
from schemas.sessions import FACT_SESSION, SESSION
from stores.lake import create_tables, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files
from stores.lake_sql import connect
from tests.session_panes import NOON, pane
from tests.transforms.sessions.session_scripts import at, batch, click
from transforms.events.pages import normalise
from transforms.identity.devices import device_rows
from transforms.identity.stitching import stitched_devices


def fill(lake: str, record: Record, rows: pa.Table) -> None:
    writes = [
        PartitionWrite(partition, tuple(write_files(Place(table_uri(lake, record.name), record, partition), [part])))
        for partition, part in split_by_partition(rows, record)
    ]
    commit(lake, record, writes, WriteMode.APPEND, Transaction("test", 1))


def session(name: str, device: str, day: float, user: str | None = None, **columns: Any) -> dict[str, Any]:
    fired = {"device_id": device, "device_type": device, "user_key": user, "pane_timing": "ON_TIME"}
    return pane(name, start=NOON + timedelta(days=day), **fired | columns)


def lake_of(lake: str, sessions: list[dict[str, Any]], logins: list[tuple[str, str]], lookback: int | None) -> None:
    """A lake of sessions, and of devices on which users log in at NOON, one after the other."""
    create_tables(lake, [FACT_EVENT, FACT_SESSION, DEVICE.record])
    fill(lake, FACT_SESSION, pa.Table.from_pylist(sessions, FACT_SESSION.schema))
    clicks = [click(at(2, seconds=n), device, user_key=user) for n, (device, user) in enumerate(logins)]
    fill(lake, DEVICE.record, stitched_devices(device_rows(batch(clicks)), lookback))


def ask(lake: str, sql: str) -> list[dict[str, Any]]:
    with connect(lake) as connection:
        return connection.sql(sql).to_arrow_table().to_pylist()


def test_purchase_on_the_desktop_is_attributed_to_the_session_that_began_on_the_phone(tmp_path: Path) -> None:
    sessions = [
        session("too old", "phone", -40),
        session("ad", "phone", -3),
        session("compares", "tablet", -2),
        session("others", "strangers", -1, "zoe"),
        session("buys", "desktop", 1, "ann", had_purchase=True, revenue=90),
        session("returns", "phone", 2, "ann"),
    ]
    logins = [("phone", "ann"), ("tablet", "ann2"), ("tablet", "ann"), ("desktop", "ann"), ("strangers", "zoe")]
    lake_of(str(tmp_path), sessions, logins, 30 * DAY)
    columns = "touch_session_id, touch_device_id, first_touch, last_touch, linear"
    rows = ask(str(tmp_path), f"SELECT {columns} FROM attribution() WHERE purchase_device_id = 'desktop' ORDER BY ALL")
    third = pytest.approx(1 / 3)
    assert [tuple(row.values()) for row in rows] == [
        ("ad", "phone", 1, 0, third),
        ("buys", "desktop", 0, 1, third),
        ("compares", "tablet", 0, 0, third),
    ]
    rows = ask(str(tmp_path), f"SELECT {columns} FROM attribution(window_days := 1) ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [("buys", "desktop", 1, 1, 1)]


def test_journey_is_a_persons_sessions_over_all_devices_in_order(tmp_path: Path) -> None:
    sessions = [
        session("c", "desktop", 1, "ann"),
        session("a", "phone", -3),
        session("b", "phone", -2, "bob"),
        session("nobody's", "kiosk", 0),
    ]
    lake_of(str(tmp_path), sessions, [("phone", "bob"), ("phone", "ann"), ("desktop", "ann")], 30 * DAY)
    rows = ask(str(tmp_path), "SELECT * FROM journeys ORDER BY step")
    shown = ("person_key", "step", "session_id", "owner_user_key", "is_first_touch", "is_last_touch", "device_changed")
    # ann and bob share the phone: one person, and yet each session has its own user
    assert [tuple(row[name] for name in shown) for row in rows] == [
        ("ann", 1, "a", "ann", True, False, False),
        ("ann", 2, "b", "bob", False, False, False),
        ("ann", 3, "c", "ann", False, True, True),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_credits_of_random_journeys_are_those_of_plain_python(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    devices = [f"d{n}" for n in range(6)]
    sessions = [
        session(f"s{n:03d}", dice.choice(devices), dice.uniform(-20, 20), had_purchase=dice.random() < 0.2)
        for n in range(80)
    ]
    logins = [(device, f"u{n // 2}") for n, device in enumerate(devices[:5])]
    lake_of(str(tmp_path), sessions, logins, None)
    owner = dict(logins)

    def expected() -> Iterator[tuple[str, str, float, float, float]]:
        for purchase in sessions:
            if not purchase["had_purchase"] or purchase["device_id"] not in owner:
                continue
            since = purchase["session_start"] - timedelta(days=7)
            touches = sorted(
                (s["session_start"], s["session_id"])
                for s in sessions
                if owner.get(s["device_id"]) == owner[purchase["device_id"]]
                and since <= s["session_start"] <= purchase["session_start"]
            )
            for start, name in touches:
                last = name == purchase["session_id"]
                yield purchase["session_id"], name, float((start, name) == touches[0]), float(last), 1 / len(touches)

    columns = "purchase_session_id, touch_session_id, first_touch::DOUBLE AS f, last_touch::DOUBLE AS l, linear"
    rows = ask(str(tmp_path), f"SELECT {columns} FROM attribution(window_days := 7) ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == sorted(expected())


@pytest.mark.parametrize(("lookback", "found"), [(30 * DAY, [None, "ann"]), (None, ["ann", "ann"])])
def test_login_shows_in_the_view_before_a_stitch_has_written_it(
    tmp_path: Path, lookback: int | None, found: list[str | None]
) -> None:
    lake_of(str(tmp_path), [session("old", "phone", -31), session("new", "phone", -29)], [("phone", "ann")], lookback)
    rows = ask(str(tmp_path), "SELECT owner_user_key, resolved_user_key FROM sessions_resolved ORDER BY session_start")
    assert [row["owner_user_key"] for row in rows] == found
    assert [row["resolved_user_key"] for row in rows] == [None, None]


def test_lake_of_before_the_page_keys_is_asked_as_it_is(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [EVENT, SESSION, DEVICE.record])
    row = session("s", "phone", 0, entry_page="/cart?x=1")
    fill(str(tmp_path), SESSION, pa.Table.from_pylist([row], SESSION.schema))
    key = normalise(pl.Series(["/cart"]))["page_key"][0]
    assert ask(str(tmp_path), "SELECT entry_page_key, exit_page_key FROM fact_sessions") == [
        {"entry_page_key": None, "exit_page_key": None}
    ]
    assert ask(str(tmp_path), "SELECT entry_page_key, exit_page_key FROM sessions_resolved") == [
        {"entry_page_key": key, "exit_page_key": None}
    ]
    assert ask(str(tmp_path), "SELECT page_key, session_id FROM events_keyed") == []


def test_lake_without_dimensions_has_its_tables_all_the_same(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [FACT_SESSION])
    assert ask(str(tmp_path), "SELECT count(*) AS n FROM fact_sessions") == [{"n": 0}]


URL_PIECES = [
    "https:",
    "APP:",
    "/",
    "//",
    "Shop.Example",
    "ann:x@",
    ":443",
    ":8080",
    "?a=b",
    "#x",
    " ",
    "\n",
    "é",
    "İΣ",  # lower case by the rules of one library is not that of another
    "a/b/",
]


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from(URL_PIECES), max_size=7).map("".join), min_size=1, max_size=20))
def test_key_of_a_url_is_the_same_in_a_query_as_in_dim_pages(urls: list[str]) -> None:
    wanted = normalise(pl.Series(urls, dtype=pl.String))["page_key"].to_list()
    with duckdb.connect() as connection:
        connection.execute((Path(__file__).parents[2] / "stores" / "page_key.sql").read_text())
        connection.register("given", pa.table({"n": range(len(urls)), "url": pa.array(urls, pa.string())}))
        found = connection.execute("SELECT page_key(url) FROM given ORDER BY n").fetchall()
    assert [key for (key,) in found] == wanted
