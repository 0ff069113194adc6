"""SQL over the lake with DuckDB: one view per table, over its live files only."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import resources
from string import Template

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from pyarrow.fs import LocalFileSystem

from schemas.dimensions import DEVICE
from schemas.errors import InputError, StoreError, first_line
from schemas.events import FACT_EVENT
from schemas.sessions import FACT_SESSION
from schemas.silver import stored_record
from schemas.user_stream import USER_STREAM
from stores.events_wide import events_wide_sql
from stores.lake import file_path, find_table, live_files, table_names
from stores.lake_schema import has_added_columns
from stores.locations import open_location
from stores.sql_text import literal, quoted, sql_type

_MACROS = resources.files(__package__) / "page_key.sql"
_VIEWS = resources.files(__package__) / "lake_views.sql"
_STREAM = resources.files(__package__) / "user_stream.sql"
_STORIES = resources.files(__package__) / "story_views.sql"
_STORED = "stored"
"""The DuckDB schema of a stored table whose name is taken by a view with more columns."""
_VIEWED = {record.name: record for record in (FACT_EVENT, FACT_SESSION, DEVICE.record)}
"""The tables that lake_views.sql needs; a lake without all of them does not get these views."""

_NO_TABLE = re.compile(r'Table with name "?([^"\n]+?)"? does not exist')
_NAMES = f"""
SELECT if(schema_name = 'main', view_name, schema_name || '.' || view_name) AS name
FROM duckdb_views() WHERE NOT internal AND schema_name <> '{_STORED}' ORDER BY name
"""
_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?(\s*\([^)]*\))?\s", re.IGNORECASE)


class LakeConnection:
    """A read-only connection to a lake as it was when the connection was opened.

    Each table is a view of its name, such as ``fact_events``, or ``silver.page_view`` for a nested one. There are also
    the views of lake_views.sql and story_views.sql, and events_wide; user_stream has two columns more than are stored.
    Times are in UTC. Only SELECT and EXPLAIN of a SELECT are allowed. In a local lake, a query can read no other files.
    """

    def __init__(self, lake_uri: str) -> None:
        """Open the tables of the lake.

        Raises:
            StoreError: There is no table, or one cannot be read.
        """
        names = table_names(lake_uri)
        self._spill = tempfile.TemporaryDirectory(prefix="clickstream-sql-")
        self._duckdb = duckdb.connect()
        self._silver: dict[str, pa.Schema] = {}
        try:
            self._duckdb.execute("SET TimeZone = 'UTC'")
            self._duckdb.execute(f"SET temp_directory = {literal(self._spill.name)}")
            # otherwise DuckDB holds a large result in memory until it is in order
            self._duckdb.execute("SET preserve_insertion_order = false")
            self._duckdb.execute(_MACROS.read_text(encoding="utf-8"))
            self._duckdb.create_function("distinct_estimate", _distinct_estimate, ["BLOB[]"], "BIGINT")
            files: list[str] = []
            for name in names:
                table = find_table(lake_uri, name)
                if table is not None:
                    files += self._add_view(lake_uri, name, table)
            if set(names) >= set(_VIEWED):
                self._duckdb.execute(_VIEWS.read_text(encoding="utf-8"))
            if USER_STREAM.name in names:
                text = Template(_STREAM.read_text(encoding="utf-8"))
                stream = text.substitute(stored=f"{_STORED}.{USER_STREAM.name}")
                self._duckdb.execute(f"CREATE VIEW {USER_STREAM.name} AS {stream}")
                self._duckdb.execute(_STORIES.read_text(encoding="utf-8"))
            if self._silver:
                self._duckdb.execute(f"CREATE VIEW events_wide AS {events_wide_sql(self._silver)}")
            if isinstance(open_location(lake_uri)[0], LocalFileSystem):
                self._duckdb.execute(f"SET allowed_paths = [{', '.join(map(literal, files))}]")
                self._duckdb.execute("SET enable_external_access = false")
            self._duckdb.execute("SET lock_configuration = true")
        except BaseException:
            self.close()
            raise

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Prepare one SELECT, or EXPLAIN of one. It runs when the relation is read.

        Raises:
            InputError: The query is not valid SQL, is another kind of statement, or is more than one.
        """
        explained = _EXPLAIN.match(query)
        try:
            found = self._duckdb.extract_statements(query[explained.end() :] if explained else query)
            if [statement.type for statement in found] != [duckdb.StatementType.SELECT]:
                raise InputError("only one SELECT statement can be run on the lake")
            relation: duckdb.DuckDBPyRelation | None = self._duckdb.sql(query)
        except duckdb.Error as error:
            missing = _NO_TABLE.search(str(error))
            why = self._without(missing[1]) if missing else _message(error)
            raise InputError(f"the query cannot be run: {why}") from error
        if relation is None:
            raise InputError("the query gives no rows")
        return relation

    def _without(self, name: str) -> str:
        """The message for an unknown table: DuckDB's own would suggest one of its internal tables."""
        views = [view for (view,) in self._duckdb.execute(_NAMES).fetchall()]
        return f"the lake has no table {name}, but " + ", ".join(get_close_matches(name, views) or views)

    @contextmanager
    def rows(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """Run one SELECT and stream its rows.

        Raises:
            InputError: As `sql`, or a value causes an error while the rows are computed.
        """
        relation = self.sql(query)
        try:
            yield relation.to_arrow_reader()
        except duckdb.Error as error:  # shows only as the rows are computed
            raise InputError(f"the query cannot be run: {_message(error)}") from error

    def close(self) -> None:
        """Close the connection and delete its spill files."""
        self._duckdb.close()
        self._spill.cleanup()

    def __enter__(self) -> "LakeConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_view(self, lake_uri: str, name: str, table: DeltaTable) -> list[str]:
        try:
            files = [file_path(lake_uri, name, file) for found in live_files(table).values() for file in found]
            schema = pa.schema(table.schema().to_arrow())
        except DeltaError as error:
            raise StoreError(f"{name}: cannot read: {first_line(error)}") from error
        folder, _, leaf = name.rpartition("/")
        if stored_record(name, schema) is not None:
            self._silver[leaf] = schema
        if name == USER_STREAM.name:
            folder = _STORED
        view = f"{quoted(folder)}.{quoted(leaf)}" if folder else quoted(leaf)
        if folder:
            self._duckdb.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(folder)}")
        # columns that the views need and a lake of an earlier version lacks, as no run has migrated it yet
        lacking = [field for field in _VIEWED[name].schema if field.name not in schema.names] if name in _VIEWED else []
        nulls = "".join(f", CAST(NULL AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in lacking)
        if not files:
            columns = ", ".join(f"CAST(NULL AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in schema)
            self._duckdb.execute(f"CREATE VIEW {view} AS SELECT {columns}{nulls} WHERE false")
            return []
        partitions = table.metadata().partition_columns
        hive = ", ".join(f"{literal(n)}: {sql_type(schema.field(n).type)}" for n in partitions)
        options = f"hive_partitioning = true, hive_types = {{{hive}}}" if partitions else "hive_partitioning = false"
        if has_added_columns(table):
            options += ", union_by_name = true"  # reads each file's columns first
        columns = ", ".join(quoted(field.name) for field in schema)
        paths = ", ".join(map(literal, files))
        try:
            self._duckdb.execute(
                f"CREATE VIEW {view} AS SELECT {columns}{nulls} FROM read_parquet([{paths}], {options})"
            )
        except duckdb.Error as error:  # a file is missing or is not Parquet
            raise StoreError(f"{name}: cannot read: {first_line(error)}") from error
        return files


def _distinct_estimate(sketches: list[bytes]) -> int:
    """Distinct values in a union of sketches, estimated: ``distinct_estimate(list(users_sketch))`` of daily_metrics."""
    from schemas.sketches import estimate

    return estimate(sketches)


def connect(lake_uri: str) -> LakeConnection:
    """Open a lake for SQL.

    Raises:
        StoreError: There is no table, or one cannot be read.
    """
    return LakeConnection(lake_uri)


@contextmanager
def query(lake_uri: str, sql: str) -> Iterator[pa.RecordBatchReader]:
    """Run one SELECT and stream its rows; the lake is open until the block ends.

    Raises:
        InputError: The query is not one valid SELECT, or a value causes an error while its rows are computed.
        StoreError: There is no table, or one cannot be read.
    """
    with connect(lake_uri) as lake, lake.rows(sql) as reader:
        yield reader


def _message(error: Exception) -> str:
    return " ".join(str(error).split())
