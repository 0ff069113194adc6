"""A DuckDB query over Arrow tables, planned once: planning a large query takes as long as running it on a batch."""

import threading
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

_CONFIG: dict[str, Any] = {
    # callers run in several threads already
    "threads": 1,
    # The allocator's background threads return memory that it would keep for the next query
    "allocator_background_threads": True,
}
_connecting = threading.Lock()


class TableQuery(threading.local):
    """A query that runs over one table after another. Each thread has its own connection and plan.

    The query is planned for the schema of the first table, and again only when a table has another schema.

    Args:
        query: The SQL; it reads from ``given`` and may have parameters, ``$1`` …
        macros: SQL that creates the macros that the query calls, as temporary ones.

    >>> double = TableQuery("SELECT 2 * n + $1 AS n FROM given")
    >>> double.run(pa.table({"n": [1, 2]}), 5)["n"].to_pylist()
    [7, 9]
    """

    def __init__(self, query: str, macros: str = "") -> None:
        # threading.local calls this in each thread that uses the object
        self._query = query
        self._macros = macros
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._given: _Given | None = None

    def run(self, table: pa.Table, *parameters: int) -> pa.Table:
        """Run the query over a table; returns its rows."""
        if self._connection is None:
            self._connection = _connect()
            self._connection.execute(f"SET TimeZone = 'UTC'; {self._macros}")
        if self._given is None or not self._given.takes(table):
            self._given = _Given(table.schema)
            self._connection.register("given", self._given)
            self._connection.execute(f"PREPARE query AS {self._query}")
        self._given.table = table
        arguments = f"({', '.join(map(str, parameters))})" if parameters else ""
        try:
            return self._connection.sql(f"EXECUTE query{arguments}").to_arrow_table()
        finally:
            self._given.table = None


def _connect() -> duckdb.DuckDBPyConnection:
    """A connection to the process's database: to start a database of its own would take 15 ms."""
    with _connecting:
        return _database().cursor()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config=_CONFIG)


class _Given:
    """The source that the plan reads from: the current table."""

    def __init__(self, schema: pa.Schema) -> None:
        self.table: pa.Table | None = None
        self._schema = schema

    def takes(self, table: pa.Table) -> bool:
        return bool(self._schema.equals(table.schema))

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        assert self.table is not None
        return self.table.__arrow_c_stream__(requested_schema)
