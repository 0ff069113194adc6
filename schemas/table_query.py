"""A DuckDB query over an Arrow table that is planned once: to plan a large one takes as long as it runs for a batch."""

import threading
from typing import Any

import duckdb
import pyarrow as pa

_CONFIG = {
    # each caller is one of several threads already
    "threads": 1,
    # In the background the allocator gives back what it would else keep for the next query: 100 MB a connection
    "allocator_background_threads": True,
}


class TableQuery(threading.local):
    """A query, run over one table after the other. Each thread has a connection and a plan of its own.

    The plan is made for the types of the first table, and anew only where a table has others.

    Args:
        query: The SQL; it reads from ``given`` and may have parameters, ``$1`` …
        config: Further settings of DuckDB for the connections.
        macros: SQL that creates the macros which the query calls.

    >>> double = TableQuery("SELECT 2 * n + $1 AS n FROM given")
    >>> double.run(pa.table({"n": [1, 2]}), 5)["n"].to_pylist()
    [7, 9]
    """

    def __init__(self, query: str, config: dict[str, Any] | None = None, macros: str = "") -> None:
        # A thread that meets this object comes by here
        self._query = query
        self._macros = macros
        self._config = _CONFIG | (config or {})
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._given: _Given | None = None

    def run(self, table: pa.Table, *parameters: int) -> pa.Table:
        """The query's rows."""
        if self._connection is None:
            self._connection = duckdb.connect(config=self._config)
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


class _Given:
    """What the plan reads, whichever table that is at the time."""

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
