"""The command `catalogue`, and a catalogue of one's own from `run` to a query."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.catalogue import CATALOGUE_VARIABLE

OWN = """\
[event."Song Played"]
description = "a song was played"
table = "song_played"
feature_1 = "song"
[event."Song Played".properties]
song = { type = "string", required = true, description = "the song" }
"""
EVENTS: list[tuple[str, dict[str, object]]] = [
    ("Song Played", {"song": "a", "mood": "good", "a/b": 1}),
    ("Song Played", {"song": "b", "mood": 3}),
    ("Song Played", {"song": "c", "a/b": 1.5}),
    ("Song Played", {"song": None}),
    ("click", {"x": "left"}),
    ("ping", {"on": True}),
]


class Shop:
    """A folder with a catalogue, events and a lake, and the command line."""

    def __init__(self, folder: Path, command_line: Any) -> None:
        self.catalogue = folder / "own.toml"
        self.catalogue.write_text(OWN, encoding="utf-8")
        self.events, self.lake = folder / "events.jsonl", folder / "lake"
        self._devices, self._command_line = folder / "devices", command_line
        lines = [
            {
                "event_id": f"e{number}",
                "event_type": event_type,
                "timestamp": "2026-04-12T00:00:00Z",
                "device_id": "d",
                "properties": properties,
            }
            for number, (event_type, properties) in enumerate(EVENTS)
        ]
        self.events.write_text("\n".join(map(json.dumps, lines)))

    def run(self, *options: object) -> Any:
        stores = ("--lake", self.lake, "--devices", f"rocksdb:{self._devices}")
        return self._command_line("run", "--input", self.events, *stores, *options)

    def ask(self, sql: str) -> list[dict[str, Any]]:
        ended = self._command_line("sql", sql, "--lake", self.lake, "--json")
        assert ended.code == 0, ended.err
        return list(json.loads(ended.out))


@pytest.fixture
def shop(tmp_path: Path, command_line: Any) -> Shop:
    return Shop(tmp_path, command_line)


def test_own_types_go_from_a_file_to_typed_tables_without_code(
    shop: Shop, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = shop.run("--catalogue", shop.catalogue, "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["dead_letters"] == {"property_missing": 1, "property_wrong_type": 1}
    assert (report["lake_rows"]["fact_events"], report["lake_rows"]["silver/song_played"]) == (6, 3)
    songs = shop.ask("SELECT song, extra_properties FROM silver.song_played ORDER BY song")
    assert songs == [
        {"song": "a", "extra_properties": '{"mood":"good","a/b":1}'},
        {"song": "b", "extra_properties": '{"mood":3}'},
        {"song": "c", "extra_properties": '{"a/b":1.5}'},
    ]
    assert shop.ask("SELECT activity, feature_1 FROM user_stream ORDER BY ALL") == [
        {"activity": "Song Played", "feature_1": "a"},
        {"activity": "Song Played", "feature_1": "b"},
        {"activity": "Song Played", "feature_1": "c"},
        {"activity": "ping", "feature_1": None},
    ]
    letters = shop.ask("SELECT reason, field FROM dead_letters WHERE step = 'type' ORDER BY ALL")
    assert letters == [
        {"reason": "property_missing", "field": "song"},
        {"reason": "property_wrong_type", "field": "x"},
    ]
    # the same again, the file named by the environment, changes nothing
    monkeypatch.setenv(CATALOGUE_VARIABLE, str(shop.catalogue))
    again = json.loads(shop.run("--json").out)
    assert again["lake_rows"] == {}

    ended = command_line("catalogue", "report", "--lake", shop.lake, "--json")
    found = json.loads(ended.out)
    assert [(row["event_type"], row["property"], row["percent"], row["would_be"]) for row in found] == [
        ("ping", "on", 100.0, "boolean"),
        ("Song Played", "a/b", 66.7, "number"),
        ("Song Played", "mood", 66.7, "json"),
    ]
    assert [row["type_is_declared"] for row in found] == [False, True, True]

    ended = command_line("compact", "--lake", shop.lake, "--json")
    assert ended.code == 0, ended.err


def test_change_that_does_not_fit_is_refused_before_anything_starts(shop: Shop) -> None:
    assert shop.run("--catalogue", shop.catalogue, "--json").code == 0
    shop.catalogue.write_text(OWN.replace('"string"', '"boolean"'), encoding="utf-8")
    ended = shop.run("--catalogue", shop.catalogue, "--json")
    assert ended.code != 0
    assert "silver/song_played: column song is string in the table and boolean in this program" in ended.err
    shop.catalogue.write_text(OWN.replace("song = {", "title = {").replace('"song"', '"title"'), encoding="utf-8")
    assert (
        "column song (string) of the table is unknown to this program"
        in shop.run("--catalogue", shop.catalogue, "--json").err
    )


def test_raw_layers_alone_make_no_other_table(shop: Shop) -> None:
    report = json.loads(shop.run("--layers", "raw", "--json").out)
    assert set(report["lake_rows"]) >= {"fact_events"}
    assert not (shop.lake / "silver").exists()
    assert not (shop.lake / "user_stream").exists()
    assert report["dead_letters"] == {}


def test_mistakes_are_told_with_their_lines_by_check_and_by_run(shop: Shop, command_line: Any) -> None:
    ended = command_line("catalogue", "check", shop.catalogue)
    assert (ended.code, ended.out.strip()) == (0, "15 event types, 59 properties: no mistakes")
    shop.catalogue.write_text(
        '[event.x]\ncolour = "red"\n[event.x.properties]\na = { type = "int" }\n', encoding="utf-8"
    )
    for ended in (command_line("catalogue", "check", shop.catalogue), shop.run("--catalogue", shop.catalogue)):
        assert ended.code == 2
        lines = [line for line in ended.err.splitlines() if "own.toml" in line]
        assert [line.partition("own.toml:")[2][0] for line in lines] == ["1", "2", "4", "4"]
    assert not shop.lake.exists()


def test_config_file_names_the_catalogue(
    shop: Shop, command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "clickstream.toml"
    config.write_text(f'catalogue = "{shop.catalogue}"\n', encoding="utf-8")
    ended = command_line("catalogue", "show", "Song Played", "--config", config)
    assert ended.out.startswith("### silver/song_played\n\n`Song Played`: a song was played. Used as feature_1: song.")
    monkeypatch.setenv(CATALOGUE_VARIABLE, str(tmp_path / "none.toml"))
    ended = command_line("catalogue", "show", "--config", config)
    assert ended.code == 2
    assert "cannot read the catalogue" in ended.err
