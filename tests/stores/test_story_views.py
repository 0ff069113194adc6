"""The views of interactive stories, against the same rules followed choice by choice on random trees."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.user_stream import USER_STREAM

Row = dict[str, Any]
START = datetime(2026, 4, 1, 22, tzinfo=UTC)
STORY = {"choice_presented", "choice_selected", "outcome_viewed", "branch_completed", "episode_end"}


@pytest.fixture(scope="module")
def sql() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the views, in which user_stream is whatever a test registers."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        connection.register("user_stream", USER_STREAM.empty())
        connection.execute((resources.files("stores") / "story_views.sql").read_text(encoding="utf-8"))
        yield connection


def watched(pick: random.Random, tree: dict[str, list[str]], episode: str | None, index: int) -> list[Row]:
    """What one viewer does in one go: walks down the tree, now and then back up, and perhaps to an end."""
    device = f"d{pick.randrange(3)}"
    time = START + timedelta(minutes=pick.randrange(300))
    rows: list[Row] = []

    def happens(activity: str, *features: str | None) -> None:
        nonlocal time
        time += timedelta(minutes=pick.choice([0, 1, 5, 30, 31]))
        rows.append(
            {
                "activity_id": f"{index:02}-{len(rows):02}",
                "ts": time,
                "customer": pick.choice([None, "ann", "bob"]),
                "activity": activity,
                "anonymous_customer_id": device,
                **dict(zip(("feature_1", "feature_2", "feature_3"), features, strict=False)),
                "feature_json": None if episode is None else json.dumps({"episode_id": episode}),
                "customer_is_stitched": False,
                "date": time.date(),
            }
        )

    node, visited = "root", ["root"]
    for _ in range(pick.randrange(8)):
        if pick.random() < 0.3:
            happens("page_view")
        happens("choice_presented", node)
        if pick.random() < 0.9:
            option = pick.choice(["left", "right"])
            happens("choice_selected", node, option, "/".join(visited))
            happens("outcome_viewed", f"{node}:{option}", node)
            node = tree[node][option == "right"]
            visited.append(node)
        if pick.random() < 0.25:
            node = pick.choice(visited)
    if pick.random() < 0.5:
        happens("branch_completed", "b")
        happens("episode_end", episode, pick.choice(["happy", "sad", None]))
    return rows


def stream(viewings: int, pick: random.Random) -> list[Row]:
    nodes = ["root", "b'", 'c"', "d"]
    tree = {node: [pick.choice(nodes), pick.choice(nodes)] for node in nodes}
    rows = [row for n in range(viewings) for row in watched(pick, tree, pick.choice(["e1", "e2", None]), n)]
    pick.shuffle(rows)
    return rows


def viewings(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """The activities of stories by device, session and episode, each with its session's viewer."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for device in {row["anonymous_customer_id"] for row in rows}:
        sessions: list[list[Row]] = []
        own = [row for row in rows if row["anonymous_customer_id"] == device]
        for row in sorted(own, key=lambda r: (r["ts"], r["activity_id"])):
            if not sessions or row["ts"] - sessions[-1][-1]["ts"] > timedelta(minutes=30):
                sessions.append([])
            sessions[-1].append(row)
        for session in sessions:
            viewer = next((row["customer"] for row in reversed(session) if row["customer"]), device)
            for row in session:
                if row["activity"] in STORY:
                    episode = json.loads(row["feature_json"] or "{}").get("episode_id")
                    found.setdefault((viewer, device, session[0]["ts"], episode), []).append(row)
    return found


def standing(selected: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The path that is left when a choice at a node on the path goes back to that node."""
    path: list[tuple[str, str]] = []
    for node, option in selected:
        nodes = [there for there, _ in path]
        path = [*(path[: nodes.index(node)] if node in nodes else path), (node, option)]
    return path


@given(st.integers(0, 8), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_snapshot_is_what_following_each_viewing_gives(
    sql: duckdb.DuckDBPyConnection, size: int, pick: random.Random
) -> None:
    rows = stream(size, pick)
    sql.register("user_stream", pa.Table.from_pylist(rows, schema=USER_STREAM.schema))
    expected = {}
    for key, own in viewings(rows).items():
        selected = [(r["feature_1"], r["feature_2"]) for r in own if r["activity"] == "choice_selected"]
        ends = [row for row in own if row["activity"] == "episode_end"]
        path = standing(selected)
        expected[key] = {
            "started_at": own[0]["ts"],
            "last_activity_at": own[-1]["ts"],
            "ended_at": ends[-1]["ts"] if ends else None,
            "completed": bool(ends),
            "ending_id": ends[-1]["feature_2"] if ends else None,
            "branches_completed": sum(row["activity"] == "branch_completed" for row in own),
            "nodes_presented": len({row["feature_1"] for row in own if row["activity"] == "choice_presented"}),
            "nodes_decided": len(dict(selected)),
            "choices_changed": len(selected) - len(dict(selected)),
            "path": " > ".join(f"{node}={option}" for node, option in path),
            "standing": [{"node": node, "option": option} for node, option in path],
            "choices": dict(selected),
        }
    found = sql.sql("SELECT * FROM story_episodes").to_arrow_table().to_pylist(maps_as_pydicts="strict")
    keys = ("viewer", "device_id", "session_start", "episode_id")
    assert {tuple(row.pop(name) for name in keys): row for row in found} == expected
    assert len(found) == len(expected)


@given(st.integers(0, 8), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_each_decision_keeps_its_last_choice_and_how_many_there_were(
    sql: duckdb.DuckDBPyConnection, size: int, pick: random.Random
) -> None:
    rows = stream(size, pick)
    sql.register("user_stream", pa.Table.from_pylist(rows, schema=USER_STREAM.schema))
    expected = {}
    for key, own in viewings(rows).items():
        chosen = [row for row in own if row["activity"] == "choice_selected"]
        for node in {row["feature_1"] for row in chosen}:
            here = [row for row in chosen if row["feature_1"] == node]
            last = here[-1]
            expected[(*key, node)] = (last["feature_2"], last["feature_3"], len(here), here[0]["ts"], last["ts"])
    found = sql.sql("SELECT * FROM story_choices").fetchall()
    assert {row[:5]: row[5:] for row in found} == expected
    assert len(found) == len(expected)
