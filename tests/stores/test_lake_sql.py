"""SQL over the lake: names, types, pruning, and that it only reads."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake.transaction import Transaction

from schemas.errors import InputError, StoreError
from schemas.events import FACT_EVENT
from schemas.records import MONEY, TIMESTAMP, Field, Record
from schemas.sessions import FACT_SESSION
from stores.lake import create_tables, read_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files
from stores.lake_sql import connect, query

START = datetime(2026, 4, 12, tzinfo=UTC)
VISIT = Record(
    name="silver/visits",
    grain="one visit",
    fields=(
        Field("visit_id", pa.string(), "id", nullable=False),
        Field("day", pa.date32(), "date; null where unknown"),
        Field("seen_at", TIMESTAMP, "when"),
        Field("spent", MONEY, "how much"),
        Field("odd \"name'", pa.bool_(), "a name to quote"),
    ),
    partition_by=("day",),
    sort_by=("visit_id",),
)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """Ten days of one visit each, one visit without a day, an empty table and an orphan file."""
    root = tmp_path / 'o\'clock "lake"'
    create_tables(str(root), [VISIT, FACT_SESSION])
    times = [START + timedelta(days=n) for n in range(10)]
    rows = [{"visit_id": f"v{t.day}", "day": t.date(), "seen_at": t, "spent": t.day} for t in times]
    table = pa.Table.from_pylist([*rows, {"visit_id": "lost"}], schema=VISIT.schema)
    uri = table_uri(str(root), VISIT.name)
    writes = [
        PartitionWrite(p, tuple(write_files(Place(uri, VISIT, p), [part])))
        for p, part in split_by_partition(table, VISIT)
    ]
    commit(str(root), VISIT, writes, WriteMode.APPEND, Transaction("run", 1))
    write_files(Place(uri, VISIT, ("2026-04-12",)), [table.slice(0, 1)])
    return str(root)


@pytest.mark.parametrize("left", [None, b"PAR1"])
def test_lake_whose_files_are_gone_or_damaged_is_refused_in_one_line(lake: str, left: bytes | None) -> None:
    for file in Path(lake).glob("silver/visits/*/*.parquet"):
        if left is None:
            file.unlink()
        else:
            file.write_bytes(left)
    with pytest.raises(StoreError, match=r"^silver/visits: cannot read: [^\n]+$"):
        connect(lake)


def test_a_view_has_the_tables_columns_types_and_live_rows(lake: str) -> None:
    with connect(lake) as sql:
        found = sql.sql("SELECT * FROM silver.visits ORDER BY visit_id").to_arrow_table()
    assert found.schema.names == VISIT.names
    assert [found.schema.field(n).type for n in ("day", "seen_at", "spent")] == [pa.date32(), TIMESTAMP, MONEY]
    assert found.num_rows == 11
    assert found.to_pylist()[0] == dict.fromkeys(VISIT.names) | {"visit_id": "lost"}
    assert found.to_pylist()[1]["seen_at"] == START


def test_a_date_in_the_where_clause_reads_only_its_files(lake: str) -> None:
    with connect(lake) as sql:
        rows = sql.sql("EXPLAIN ANALYZE SELECT * FROM silver.visits WHERE day = DATE '2026-04-15'").fetchall()
    assert re.search(r"Scanning Files: 1/11\b", rows[0][1])
    assert "day=2026-04-15" in rows[0][1]


def test_rows_without_a_partition_are_found_by_null(lake: str) -> None:
    with query(lake, "SELECT visit_id FROM silver.visits WHERE day IS NULL") as reader:
        assert reader.read_all().to_pylist() == [{"visit_id": "lost"}]


def test_an_empty_table_is_an_empty_view_of_its_types(lake: str) -> None:
    with query(lake, "SELECT * FROM fact_sessions") as reader:
        found = reader.read_all()
    assert (found.num_rows, found.schema.names) == (0, FACT_SESSION.names)
    assert found.schema.types == FACT_SESSION.schema.types


def test_every_column_of_an_event_has_a_sql_type(tmp_path: Path) -> None:
    create_tables(str(tmp_path), [FACT_EVENT])
    with connect(str(tmp_path)) as sql:
        found = sql.sql("SELECT * FROM fact_events").to_arrow_table()
    assert dict(zip(found.schema.names, found.schema.types, strict=True)) == {f.name: f.type for f in FACT_EVENT}


def test_times_are_shown_in_utc(lake: str) -> None:
    with connect(lake) as sql:
        text = sql.sql("SELECT CAST(min(seen_at) AS VARCHAR) FROM silver.visits").fetchall()
    assert text == [("2026-04-12 00:00:00+00",)]


def test_a_connection_keeps_the_version_it_was_opened_at(lake: str) -> None:
    with connect(lake) as sql:
        place = Place(table_uri(lake, VISIT.name), VISIT, ("2026-04-12",))
        row = {"visit_id": "new", "day": date(2026, 4, 12)}
        files = write_files(place, [pa.Table.from_pylist([row], schema=VISIT.schema)])
        write = PartitionWrite(place.partition, tuple(files))
        commit(lake, VISIT, [write], WriteMode.OVERWRITE, Transaction("other", 1))
        assert sql.sql("SELECT count(*) FROM silver.visits WHERE visit_id = 'v12'").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
        "/* */ EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
        "SELECT 1; COPY (SELECT 1) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
        "CREATE TABLE t AS SELECT 1",
        "SET enable_external_access = true",
        "ATTACH '{folder}/other.duckdb'",
        "INSTALL httpfs",
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM '{outside}'",
        "SELECT * FROM glob('{folder}/**')",
        "SELEC 1",
        "",
    ],
)
def test_anything_but_a_select_of_the_lake_is_refused(lake: str, tmp_path: Path, statement: str) -> None:
    outside = tmp_path / "secret.csv"
    outside.write_text("a,b\n1,2\n")
    (live,) = Path(lake).glob("silver/visits/day=2026-04-13/*.parquet")
    file = str(live).replace("'", "''")
    text = statement.format(file=file, folder=lake.replace("'", "''"), outside=outside)
    before = read_table(lake, VISIT.name).num_rows
    with connect(lake) as sql, pytest.raises(InputError) as caught:
        sql.sql(text).fetchall()
    assert "\n" not in str(caught.value)
    assert read_table(lake, VISIT.name).num_rows == before


def test_a_large_result_comes_in_pieces(lake: str) -> None:
    with query(lake, "SELECT * FROM silver.visits, range(300000)") as reader:
        sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == 11 * 300_000
    assert max(sizes) <= 1_000_000
