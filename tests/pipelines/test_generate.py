import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import fastavro
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.generate
from pipelines.generate import GenerateOptions, generate
from schemas.dead_letters import Reason
from schemas.errors import OptionError
from schemas.events import RAW

GAP = timedelta(minutes=30)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read_lines(summary) -> list[bytes]:
    return [line for path in summary.files for line in path.read_bytes().split(b"\n")[:-1]]


def test_generated_events_as_the_oracle_reads_them_equal_the_truth(traffic_files, oracle):
    with duckdb.connect() as con:
        found = oracle.expected_events(con, f"{traffic_files.files[0].parent}/*.jsonl")
    truth = pq.read_table(traffic_files.truth / "events.parquet")
    shared = [name for name in truth.column_names if name != "copies"]
    ordered = truth.select(shared).sort_by([(name, "ascending") for name in ("device_id", "event_time", "event_id")])
    assert found.num_rows == 20_000
    assert found.select(shared).to_pylist() == ordered.to_pylist()


def test_generated_sessions_as_the_oracle_finds_them_equal_the_layout(traffic_files, oracle):
    with duckdb.connect() as con:
        found = oracle.expected_sessions(con, f"{traffic_files.files[0].parent}/*.jsonl")
    truth = pq.read_table(traffic_files.truth / "sessions.parquet")
    ordered = truth.sort_by([("device_id", "ascending"), ("session_start", "ascending")])
    assert found.select(truth.column_names).to_pylist() == ordered.to_pylist()
    assert found.num_rows == traffic_files.sessions


def test_broken_lines_as_the_oracle_judges_them_equal_the_truth(traffic_files, oracle):
    with duckdb.connect() as con:
        found = oracle.expected_dead(con, f"{traffic_files.files[0].parent}/*.jsonl")
    truth = pl.read_parquet(traffic_files.truth / "dead_letters.parquet")
    counts = truth.group_by("reason").len("dead_letters").sort("reason")
    assert found.to_pylist() == counts.to_dicts()


def test_broken_lines_stand_in_the_files_byte_for_byte(traffic_files):
    lines = set(read_lines(traffic_files))
    payloads = pq.read_table(traffic_files.truth / "dead_letters.parquet").column("payload").to_pylist()
    assert len(set(payloads)) == 200
    assert set(payloads) <= lines


def test_every_reason_that_a_line_can_have_is_generated(traffic_files):
    not_in_one_line = {
        Reason.NULL_PAYLOAD,
        Reason.EMPTY_PAYLOAD,
        Reason.OVERSIZED_EVENT,
        Reason.TRUNCATED_INPUT,
        # of a line that is sound, whose properties are not what the catalogue declares
        Reason.PROPERTY_MISSING,
        Reason.PROPERTY_WRONG_TYPE,
    }
    reasons = pl.read_parquet(traffic_files.truth / "dead_letters.parquet")["reason"]
    assert set(reasons) == {reason.value for reason in Reason} - not_in_one_line


def test_files_of_a_run_hold_what_the_summary_says(traffic_files):
    lines = read_lines(traffic_files)
    truth = pl.read_parquet(traffic_files.truth / "events.parquet")
    assert len(lines) == traffic_files.lines == 20_000 + traffic_files.repeats + traffic_files.broken
    assert truth["copies"].sum() == 20_000 + traffic_files.repeats
    assert truth["device_id"].n_unique() == traffic_files.devices
    assert [path.read_bytes().count(b"\n") for path in traffic_files.files[:-1]] == [6_000] * 3
    assert sum(path.stat().st_size for path in traffic_files.files) == traffic_files.size
    # 5% repeated and a tenth of those twice: the share is of a thousand or so, give or take its chance
    assert 900 < traffic_files.repeats < 1_300


def test_layout_has_gaps_to_the_brink_on_both_sides(tmp_path):
    summary = generate(GenerateOptions(events=60_000, out=tmp_path / "out"))
    events = pl.read_parquet(summary.truth / "events.parquet").sort("device_id", "event_time")
    steps = events.select(pl.col("event_time").diff().over("device_id")).to_series().drop_nulls()
    sessions = pl.read_parquet(summary.truth / "sessions.parquet").sort("device_id", "session_start")
    silence = (
        sessions.select((pl.col("session_start") - pl.col("session_end").shift()).over("device_id"))
        .to_series()
        .drop_nulls()
    )
    assert (steps == GAP).any()
    assert silence.min() == GAP + timedelta(milliseconds=1)
    assert (sessions["session_end"] - sessions["session_start"]).max() < timedelta(hours=4)
    assert (sessions["session_start"].dt.date() != sessions["session_end"].dt.date()).any()


def test_traffic_is_a_shops(tmp_path):
    summary = generate(GenerateOptions(events=60_000, out=tmp_path / "out"))
    events = pl.read_parquet(summary.truth / "events.parquet")
    per_device = events.group_by("device_id").len()["len"].sort(descending=True)
    assert per_device[: len(per_device) // 10].sum() > 0.3 * 60_000  # few busy devices
    assert per_device.median() < 0.8 * per_device.mean()  # many quiet ones
    devices_of_user = events.drop_nulls("user_id").group_by("user_id").agg(pl.col("device_id").n_unique())
    assert (devices_of_user["device_id"] > 1).any()
    assert 0.2 < events["user_id"].is_not_null().mean() < 0.8
    assert set(events["event_type"]) == {
        "page_view",
        "click",
        "product_view",
        "search",
        "add_to_cart",
        "purchase",
        "login",
    }
    purchases = events.filter(event_type="purchase")
    assert purchases["revenue"].is_not_null().mean() > 0.9
    assert events.filter(pl.col("event_type") != "purchase")["revenue"].null_count() == 60_000 - len(purchases)
    # an id of a tracker that counts is used on several devices
    assert events["event_id"].n_unique() < 60_000
    assert events.select("device_id", "event_id").n_unique() == 60_000


def test_late_events_are_written_after_hours(tmp_path):
    summary = generate(
        GenerateOptions(
            events=20_000,
            out=tmp_path / "out",
            format="avro",
            late_share=0.1,
            broken_share=0.0,
            duplicate_share=0.0,
        )
    )
    with summary.files[0].open("rb") as file:
        records = list(fastavro.reader(file))
    arrivals = [record["arrival_time"] for record in records]
    assert arrivals == sorted(arrivals)
    truth = pl.read_parquet(summary.truth / "events.parquet").select("event_id", "device_id", "event_time")
    sent = pl.DataFrame(
        {
            "event_id": [json.loads(record["payload"])["event_id"] for record in records],
            "arrival": arrivals,
        }
    ).join(truth.unique("event_id", keep="none"), on="event_id")
    delay = sent["arrival"] - sent["event_time"]
    assert delay.min() >= timedelta(0)
    assert 0.08 < (delay > timedelta(minutes=1)).mean() < 0.12
    assert 0.01 < (delay > timedelta(hours=1)).mean() < 0.06
    assert delay.max() <= timedelta(hours=6)


def test_same_seed_in_other_slices_gives_the_same_bytes(tmp_path, monkeypatch):
    def run(name: str) -> dict[str, str]:
        generate(GenerateOptions(events=5_000, out=tmp_path / name, duplicate_share=0.2, broken_share=0.05))
        lines = digests(tmp_path / name)
        # the row groups of the truth follow the slices, its rows do not
        del lines["_truth/events.parquet"]
        return lines | {"truth": pl.read_parquet(tmp_path / name / "_truth/events.parquet").write_csv()}

    whole = run("whole")
    monkeypatch.setattr(pipelines.generate, "_SLICE", 700)
    assert run("sliced") == whole


@pytest.mark.parametrize("extension", ["jsonl", "jsonl.gz", "avro"])
def test_same_seed_gives_the_same_bytes_in_every_format(tmp_path, extension):
    for name in ("first", "second"):
        generate(GenerateOptions(events=500, out=tmp_path / name, format=extension, broken_share=0.2))
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_another_seed_gives_other_events(tmp_path):
    one, two = (generate(GenerateOptions(events=500, out=tmp_path / str(n), seed=n)) for n in (1, 2))
    assert not set(read_lines(one)) & set(read_lines(two))


def test_formats_carry_the_same_payloads(tmp_path, oracle):
    line, zipped, avro = (
        generate(GenerateOptions(events=2_000, out=tmp_path / f, format=f, broken_share=0.0))
        for f in ("jsonl", "jsonl.gz", "avro")
    )
    with avro.files[0].open("rb") as file:
        reader = fastavro.reader(file)
        payloads = [record["payload"] for record in reader]
        assert [field["name"] for field in reader.writer_schema["fields"]] == RAW.names
    assert payloads == read_lines(line)
    with duckdb.connect() as con:
        assert oracle.expected_sessions(con, str(zipped.files[0])).equals(
            oracle.expected_sessions(con, str(line.files[0]))
        )


def test_avro_offsets_count_on_in_each_partition(tmp_path):
    summary = generate(
        GenerateOptions(
            events=2_000,
            out=tmp_path / "out",
            format="avro",
            events_per_file=600,
            broken_share=0.05,
        )
    )
    offsets: dict[int, list[int]] = {}
    for path in summary.files:
        with path.open("rb") as file:
            for record in fastavro.reader(file):
                offsets.setdefault(record["partition"], []).append(record["offset"])
    assert len(summary.files) == 4
    assert sorted(offsets) == [0, 1, 2, 3]
    assert all(found == list(range(len(found))) for found in offsets.values())


def test_bus_also_delivers_messages_without_a_payload(tmp_path):
    summary = generate(GenerateOptions(events=500, out=tmp_path / "out", format="avro", broken_share=0.1))
    truth = pl.read_parquet(summary.truth / "dead_letters.parquet")
    assert truth.filter(reason="null_payload")["payload"].null_count() == 1
    assert truth.filter(reason="empty_payload")["payload"].to_list() == [b""]


@pytest.mark.parametrize(("events", "devices", "days"), [(1, 1, 1), (2, 1, 1), (150, 1, 1), (3_000, 10, 2)])
def test_few_events_or_crowded_devices_are_laid_out_exactly(tmp_path, events, devices, days):
    options = GenerateOptions(events=events, out=tmp_path / "out", devices=devices, days=days, broken_share=0.0)
    summary = generate(options)
    truth = pl.read_parquet(summary.truth / "events.parquet")
    sessions = pl.read_parquet(summary.truth / "sessions.parquet")
    assert len(truth) == sessions["event_count"].sum() == events
    assert options.start <= truth["event_time"].min()
    assert truth["event_time"].max() < options.start + timedelta(days=days)


def test_default_start_has_no_event_in_the_future():
    assert GenerateOptions(events=1, out=Path("unused")).start + timedelta(days=7) < datetime.now(UTC)


def test_wrong_options_are_all_reported_at_once():
    with pytest.raises(OptionError) as caught:
        GenerateOptions(events=0, out=Path("unused"), days=-1, late_share=2.0, format="csv")
    for part in ("events must be", "days must be", "late share must be", "format must be"):
        assert part in str(caught.value)


def test_more_events_than_the_devices_can_make_are_refused():
    with pytest.raises(OptionError, match="151 events are too many: 1 devices make at most 150 in 1 days"):
        GenerateOptions(events=151, out=Path("unused"), devices=1, days=1)


def test_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "part-00000.jsonl").write_text("mine")
    with pytest.raises(OptionError, match="is not empty"):
        generate(GenerateOptions(events=10, out=tmp_path))
    assert digests(tmp_path).keys() == {"part-00000.jsonl"}


def test_oracle_cuts_a_session_at_the_first_mark_after_four_hours(tmp_path, oracle):
    # every 20 minutes from 00:01 to 08:41; 04:01 is four hours after the start, so 04:05 is the mark
    path = tmp_path / "long.jsonl"
    moments = [datetime(2026, 4, 12, 0, 1, tzinfo=UTC) + timedelta(minutes=20 * n) for n in range(27)]
    path.write_text(
        "".join(
            json.dumps({"event_id": str(n), "event_type": "click", "timestamp": at.isoformat(), "device_id": "d"})
            + "\n"
            for n, at in enumerate(moments)
        )
    )
    with duckdb.connect() as con:
        sessions = oracle.expected_sessions(con, str(path))
    found = [
        (
            row["session_start"].strftime("%H:%M"),
            row["session_end"].strftime("%H:%M"),
            row["event_count"],
            row["cut_reason"],
        )
        for row in sessions.to_pylist()
    ]
    assert found == [
        ("00:01", "04:01", 13, "cap"),
        ("04:21", "08:21", 13, "cap"),
        ("08:41", "08:41", 1, None),
    ]


def test_oracle_takes_the_key_of_a_user_for_a_device_that_is_not_named(tmp_path, oracle):
    path = tmp_path / "one.jsonl"
    path.write_text(
        '{"event_id": "1", "event_type": "page_view", "entity_id": "user-12345", "entity_type": "user", '
        '"timestamp": "2026-04-12T00:00:00Z", "session_id": "sess-abc"}\n'
    )
    with duckdb.connect() as con:
        events = oracle.expected_events(con, str(path), secret="k")
    # echo -n user-12345 | openssl dgst -sha256 -hmac k
    key = "85037a10316f144294cf64988d0933d9"
    assert events.select(["device_id", "user_key"]).to_pylist() == [{"device_id": f"user:{key}", "user_key": key}]


def test_truth_columns_have_the_types_of_the_lake(traffic_files):
    events = pq.read_schema(traffic_files.truth / "events.parquet")
    assert events.field("event_time").type == pa.timestamp("us", tz="UTC")
    assert events.field("revenue").type == pa.decimal128(18, 4)
