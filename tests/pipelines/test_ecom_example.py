import importlib.util
import json
from pathlib import Path

import duckdb
import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
ECOM = ROOT.parent / "shared" / "data" / "ecom.csv.gz"
SESSIONS = 3605  # as many as its own session_id column has


@pytest.fixture(scope="module")
def convert():
    spec = importlib.util.spec_from_file_location("ecom_example", ROOT / "examples" / "ecom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.convert


def test_rows_become_envelopes_with_ids_that_equal_rows_do_not_share(tmp_path, convert):
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    row = "u1,s1,home,2024-03-13 10:21:14,desktop,email,2024-01,returning\n"
    source.write_text(
        "user_id,session_id,event,timestamp,platform,acquisition_channel,user_cohort,user_lifecycle\n" + row * 2
    )
    assert convert(source, target) == 2
    first, second = (json.loads(line) for line in target.read_text().splitlines())
    assert first == {
        "event_id": "u1/2024-03-13T10:21:14Z/home/0",
        "event_type": "home",
        "timestamp": "2024-03-13T10:21:14Z",
        "device_id": "d_u1",
        "user_id": "u1",
        "properties": {
            "acquisition_channel": "email",
            "user_cohort": "2024-01",
            "user_lifecycle": "returning",
        },
        "context": {"device_type": "desktop"},
    }
    assert second == first | {"event_id": "u1/2024-03-13T10:21:14Z/home/1"}


@pytest.mark.skipif(not ECOM.exists(), reason=f"the real events are not at {ECOM}")
def test_real_shop_events_have_the_sessions_that_their_own_column_says(tmp_path, convert, oracle):
    target = tmp_path / "ecom.jsonl"
    assert convert(ECOM, target) == 31_106
    with duckdb.connect() as con:
        sessions = oracle.expected_sessions(con, str(target))
        assert oracle.expected_dead(con, str(target)).num_rows == 0
    theirs = (
        pl.read_csv(ECOM, try_parse_dates=True)
        .group_by("session_id")
        .agg(
            device_id="d_" + pl.col("user_id").first(),
            start=pl.col("timestamp").min(),
            end=pl.col("timestamp").max(),
            count=pl.len(),
        )
    )
    ours = pl.from_arrow(sessions).select(
        "device_id", pl.col("session_start", "session_end").dt.replace_time_zone(None), "event_count"
    )
    assert len(ours) == SESSIONS
    assert sorted(ours.rows()) == sorted(theirs.drop("session_id").rows())
