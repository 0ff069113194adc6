"""The commands and questions about activities, on a lake, each against a computation one activity after the other."""

import csv
import io
import json
import random
import statistics
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from pipelines import funnel_picture
from pipelines.questions.catalogue import questions
from schemas.records import Record
from schemas.sessions import FACT_SESSION
from schemas.user_stream import USER_STREAM
from stores.lake import create_tables, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files
from transforms.relationships import aggregate_before, cohort, first_after, sum_of

CommandLine = Callable[..., Any]
Row = dict[str, Any]
FIRST, DAYS = datetime(2026, 3, 1, tzinfo=UTC), 4


def some_activities() -> list[Row]:
    """E-mails, clicks and purchases of 40 customers, half of them anonymous, and viewings of a story."""
    pick = random.Random(7)
    rows: list[Row] = []

    def happens(who: int, ts: datetime, activity: str, *features: str, episode: str | None = None) -> None:
        rows.append(
            {
                "activity_id": f"a{len(rows):05}",
                "ts": ts,
                "customer": f"user-{who}" if who % 2 else None,
                "activity": activity,
                "anonymous_customer_id": f"d{who}",
                **dict(zip(("feature_1", "feature_2", "feature_3"), features, strict=False)),
                "feature_json": json.dumps({"episode_id": episode}),
                "revenue_impact": Decimal(pick.randrange(1, 99)) if activity == "purchase" else None,
                "customer_is_stitched": False,
                "date": ts.date(),
            }
        )

    for _ in range(600):
        ts = FIRST + timedelta(seconds=pick.randrange(DAYS * 86_400))
        who, activity = pick.randrange(40), pick.choice(["email_open", "email_open", "click", "page_view", "purchase"])
        happens(who, ts, activity)
        if activity == "email_open" and pick.random() < 0.5:
            happens(who, ts + timedelta(minutes=pick.choice([0, 3, 59, 60, 61, 90])), "click")
    for viewing in range(60):
        ts = FIRST + timedelta(days=viewing % DAYS, hours=6, minutes=viewing)
        made = pick.choice([["n1", "n2"], ["n1", "n2", "n1", "n3"], ["n1"], ["n1", "n3"]])
        for node in made:
            ts += timedelta(seconds=20)
            happens(100 + viewing, ts, "choice_selected", node, pick.choice("AB"), "", episode="pilot")
        if pick.random() < 0.6:
            happens(100 + viewing, ts + timedelta(seconds=9), "episode_end", "pilot", "good", "", episode="pilot")
    return rows


ACTIVITIES = some_activities()


def add(lake: Path, record: Record, rows: list[Row]) -> None:
    schema = pa.schema([field.with_nullable(True) for field in record.schema])
    table = pa.Table.from_pylist(rows, schema=schema)
    writes = [
        PartitionWrite(key, tuple(write_files(Place(table_uri(str(lake), record.name), record, key), [part])))
        for key, part in split_by_partition(table, record)
    ]
    commit(str(lake), record, writes, WriteMode.APPEND, Transaction(uuid.uuid4().hex, 1))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days of activities, each device's day one session."""
    lake = tmp_path_factory.mktemp("activities") / "lake"
    add(lake, USER_STREAM, ACTIVITIES)
    days: dict[tuple[str, date], list[Row]] = defaultdict(list)
    for row in ACTIVITIES:
        days[row["anonymous_customer_id"], row["date"]].append(row)
    sessions = []
    for (device, day), own in days.items():
        values: Row = {"session_id": f"{device}-{day}", "device_id": device, "start_date": day, "end_date": day}
        values |= {"session_start": min(row["ts"] for row in own), "session_end": max(row["ts"] for row in own)}
        values |= {"country": "KR" if int(device[1:]) % 3 else "DE", "revenue": Decimal(0), "pane_timing": "ON_TIME"}
        values |= {"duration_secs": 0.0, "event_count": 1, "page_view_count": 0, "had_purchase": False, "pane_index": 0}
        sessions.append(values)
    add(lake, FACT_SESSION, sessions)
    return lake


def customer(row: Row) -> str:
    return str(row["customer"] or row["anonymous_customer_id"])


def in_order(*names: str) -> dict[str, list[Row]]:
    """The activities of these names by customer, in order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(ACTIVITIES, key=lambda r: (r["ts"], r["activity_id"])):
        if row["activity"] in names:
            found[customer(row)].append(row)
    return found


def email_clicks() -> list[Row]:
    by_day: dict[date, list[tuple[str, float | None]]] = defaultdict(list)
    for who, own in in_order("email_open", "click").items():
        for place, row in enumerate(own):
            if row["activity"] == "email_open":
                clicks = [later["ts"] - row["ts"] for later in own[place + 1 :] if later["activity"] == "click"]
                soon = clicks[0] / timedelta(minutes=1) if clicks and clicks[0] <= timedelta(hours=1) else None
                by_day[row["date"]].append((who, soon))
    answer = []
    for day, opened in sorted(by_day.items()):
        clicked = [(who, soon) for who, soon in opened if soon is not None]
        answer.append(
            {
                "day": day.isoformat(),
                "opened": len(opened),
                "clicked_within_1h": len(clicked),
                "share": pytest.approx(len(clicked) / len(opened), abs=1e-4),
                "customers": len({who for who, _ in opened}),
                "customers_clicked": len({who for who, _ in clicked}),
                "median_minutes_to_click": pytest.approx(statistics.median(s for _, s in clicked), abs=1e-3),
            }
        )
    return answer


def standing_paths() -> dict[str, list[tuple[str, str]]]:
    """The choices that stand, of each viewer of the story; a viewer has one viewing."""
    paths = {}
    for who, own in in_order("choice_selected").items():
        path: list[tuple[str, str]] = []
        for row in own:
            nodes = [node for node, _ in path]
            if row["feature_1"] in nodes:
                path = path[: nodes.index(row["feature_1"])]
            path.append((row["feature_1"], row["feature_2"]))
        paths[who] = path
    return paths


def story_paths() -> list[Row]:
    paths = {who: " > ".join(f"{n}={o}" for n, o in path) for who, path in standing_paths().items()}
    ended, counts = set(in_order("episode_end")), Counter(paths.values())
    return [
        {
            "episode_id": "pilot",
            "path": path,
            "viewings": count,
            "share": pytest.approx(count / len(paths), abs=1e-4),
            "completed": sum(paths[who] == path for who in ended),
            "viewers": count,
        }
        for path, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def story_choices() -> list[Row]:
    paths = list(standing_paths().values())
    answer = []
    choices = sorted({choice for path in paths for choice in path})
    for first in choices:
        chose = [path for path in paths if first in path]
        for later in choices:
            after = [dict(path[path.index(first) + 1 :]) for path in chose]
            both = sum(path.get(later[0]) == later[1] for path in after)
            if both:
                decided = sum(later[0] in path for path in after)
                answer.append(
                    {
                        **{"episode_id": "pilot", "node": first[0], "option": first[1], "chose": len(chose)},
                        **{"later_node": later[0], "later_option": later[1], "then_chose": both},
                        "share": pytest.approx(both / decided, abs=1e-4),
                        "share_of_all": pytest.approx(both / len(chose), abs=1e-4),
                    }
                )
    return answer


ANSWERS = {"email-clicks": email_clicks, "story-choices": story_choices, "story-paths": story_paths}


def test_every_question_about_activities_is_tested() -> None:
    assert [name for name, question in questions().items() if question.table == USER_STREAM.name] == [*ANSWERS]


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_is_that_of_a_computation_one_activity_after_the_other(
    command_line: CommandLine, lake: Path, name: str
) -> None:
    code, out, err = command_line("ask", name, f"--lake={lake}", "--json")
    assert (code, err) == (0, "")
    expected = ANSWERS[name]()
    assert len(expected) > 3
    assert json.loads(out) == expected


def test_email_question_is_what_the_relationship_answers(lake: Path) -> None:
    question = cohort("email_open", columns=["date"]).append(first_after("click", within="1h", columns=["done"]))
    found = question.run(str(lake)).to_pylist()
    clicked = Counter(row["date"].isoformat() for row in found if row["first_after_click_done"])
    assert clicked == {row["day"]: row["clicked_within_1h"] for row in email_clicks()}


def test_question_about_activities_of_an_empty_lake_says_so(command_line: CommandLine, tmp_path: Path) -> None:
    code, out, err = command_line("ask", "email-clicks", f"--lake={tmp_path}")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "there are no activities" in err


def test_cohort_answers_as_the_python_api(command_line: CommandLine, lake: Path) -> None:
    items = ("first_after click within 1h columns ts,done", "aggregate_before purchase sum revenue_impact as bought")
    appended = [f"--append={item}" for item in items]
    code, out, err = command_line("cohort", "email_open", *appended, "--occurrence=first", f"--lake={lake}", "--csv")
    assert (code, err) == (0, "")
    question = cohort("email_open", occurrence="first").append(
        first_after("click", within="1h", columns=["ts", "done"]),
        aggregate_before("purchase", sum_of("revenue_impact"), name="bought"),
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == question.labels
    assert rows == sorted(rows, key=lambda row: row["ts"])
    assert sorted(row["activity_id"] for row in rows) == sorted(question.run(str(lake))["activity_id"].to_pylist())
    assert len(rows) == len([own for own in in_order("email_open").values() if own])


def test_cohort_shows_the_sql_of_a_dialect_without_a_lake(command_line: CommandLine) -> None:
    code, out, err = command_line("cohort", "email_open", "--append=first_after click", "--sql", "--dialect=bigquery")
    assert (code, err) == (0, "")
    assert out == cohort("email_open").append(first_after("click")).sql("bigquery", ordered=True) + "\n"


def test_cohort_names_every_bad_option(command_line: CommandLine) -> None:
    code, out, err = command_line(
        "cohort", "email_open", "--append=first_aftr click", "--append=first_after click within soon", "--where=link",
        "--columns=tz", "--occurrence=none", "--json", "--csv", "--dialect=spark", "--config=missing.toml",
    )  # fmt: skip
    assert (code, out) == (2, "")
    starts = [
        "give --json", "--dialect is for --sql", "--append: 'first_aftr click'", "--where: 'link'",
        "cannot read the config", "occurrence 'none'", "'tz' is no column", "first_after click: within: 'soon'",
    ]  # fmt: skip
    assert [start for line, start in zip(err.splitlines(), starts, strict=True) if f"error: {start}" not in line] == []


@pytest.mark.parametrize("per", ["user", "session"])
def test_funnel_counts_users_or_sessions_by_country(command_line: CommandLine, lake: Path, per: str) -> None:
    code, out, err = command_line(
        "funnel", "email_open", "click", "--within=1d", f"--per={per}", "--by=country", f"--lake={lake}", "--json"
    )
    assert (code, err) == (0, "")
    reached: dict[tuple[str, int], set[tuple[str, Any]]] = defaultdict(set)
    for who, own in in_order("email_open", "click").items():
        country = "KR" if int(own[0]["anonymous_customer_id"][1:]) % 3 else "DE"
        for place, row in enumerate(own):
            if row["activity"] == "email_open":
                unit = (who, row["date"] if per == "session" else None)
                reached[country, 1].add(unit)
                later = [r for r in own[place + 1 :] if r["ts"] - row["ts"] <= timedelta(days=1)]
                if any(r["activity"] == "click" and (per == "user" or r["date"] == row["date"]) for r in later):
                    reached[country, 2].add(unit)
    found = {(row["country"], row["step"]): row["reached"] for row in json.loads(out)}
    assert found == {key: len(units) for key, units in reached.items()}


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_funnel_is_drawn_in_the_format_of_the_file(
    command_line: CommandLine, lake: Path, tmp_path: Path, suffix: str, begins: bytes
) -> None:
    picture = tmp_path / f"funnel.{suffix}"
    by = ["--by=country"] if suffix == "svg" else []
    code, out, err = command_line("funnel", "email_open", "no $such$ step", f"--plot={picture}", f"--lake={lake}", *by)
    assert (code, err) == (0, "warning: the lake has no activity 'no $such$ step'\n")
    assert "no $such$ step" in out
    assert picture.read_bytes().startswith(begins)


def test_funnel_names_every_bad_option(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnel_picture, "find_spec", lambda name: None)
    code, out, err = command_line(
        "funnel", "view", "--within=soon", "--per=visit", "--by=weather", "--since=now", "--until=then",
        "--json", "--sql", f"--plot={tmp_path}/x.png", "--config=missing.toml",
    )  # fmt: skip
    assert (code, out) == (2, "")
    starts = [
        "give --json", "--within: 'soon'", "--since: 'now'", "--until: 'then'", "a funnel has from 2", "per 'visit'",
        "by 'weather'", "--plot: a picture needs matplotlib", "cannot read the config",
    ]  # fmt: skip
    assert [start for line, start in zip(err.splitlines(), starts, strict=True) if f"error: {start}" not in line] == []


def test_picture_of_another_format_is_refused(command_line: CommandLine, lake: Path) -> None:
    code, out, err = command_line("funnel", "a", "b", "--plot=funnel.bmp", f"--lake={lake}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert ".png, .svg, .pdf" in err


def test_story_has_a_column_for_each_decision(command_line: CommandLine, lake: Path) -> None:
    code, out, err = command_line("story", "pilot", f"--lake={lake}", "--csv")
    assert (code, err) == (0, "")
    rows = {row["viewer"]: row for row in csv.DictReader(io.StringIO(out))}
    expected = {who: {r["feature_1"]: r["feature_2"] for r in own} for who, own in in_order("choice_selected").items()}
    nodes = ("n1", "n2", "n3")
    assert {who: {node: row[node] for node in nodes if row[node]} for who, row in rows.items()} == expected
    code, out, err = command_line("story", "pilto", f"--lake={lake}", "--json")
    assert (code, out, err) == (0, "[]\n", "warning: the lake has no episode 'pilto', but 'pilot'\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["funnel", "page_view", "purchse", "zzz", "--by=country"],
        ["cohort", "purchse", "--append=ever_done zzz"],
        ["cohort", "page_view", "--append=ever_done purchse", "--append=first_ever zzz"],
    ],
)
def test_activity_that_the_lake_has_not_is_named_in_one_line_beside_those_near_it(
    command_line: CommandLine, lake: Path, arguments: list[str]
) -> None:
    code, _, err = command_line(*arguments, f"--lake={lake}", "--json")
    assert code == 0
    assert err.splitlines() == [
        "warning: the lake has no activity 'purchse', but 'purchase'",
        "warning: the lake has no activity 'zzz'",
    ]


def test_story_of_a_node_with_an_odd_name_is_shown(command_line: CommandLine, tmp_path: Path) -> None:
    odd = "n\"1'; DROP VIEW story_choices"
    add(tmp_path, USER_STREAM, [ACTIVITIES[-2] | {"activity": "choice_selected", "feature_1": odd, "feature_2": "A"}])
    (row,) = json.loads(command_line("story", f"--lake={tmp_path}", "--json").out)
    assert row[odd] == "A"


def test_commands_of_a_lake_without_activities_say_so(command_line: CommandLine, tmp_path: Path) -> None:
    create_tables(str(tmp_path), [FACT_SESSION])
    for arguments in (["funnel", "a", "b"], ["cohort", "a"], ["story"]):
        code, out, err = command_line(*arguments, f"--lake={tmp_path}")
        assert (code, out, err.count("\n")) == (1, "", 1), arguments
        assert "the lake has no table " in err
