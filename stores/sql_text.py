"""DuckDB SQL for identifiers, strings, types and JSON pointers."""

import pyarrow as pa

from schemas.errors import StoreError

_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.timestamp("us"): "TIMESTAMP",
}


def sql_type(kind: pa.DataType) -> str:
    """The SQL type of an Arrow type.

    Raises:
        StoreError: The type is not supported.

    >>> sql_type(pa.decimal128(18, 4))
    'DECIMAL(18, 4)'
    """
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if kind not in _TYPES:
        raise StoreError(f"a column of type {kind} has no SQL type here")
    return _TYPES[kind]


def quoted(name: str) -> str:
    """A quoted identifier.

    >>> print(quoted("a column"))
    "a column"
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal.

    >>> print(literal("it's"))
    'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


def json_pointer(key: str) -> str:
    """The string literal of a JSON pointer (RFC 6901) to a key of an object. Unlike a JSON path, it allows any key.

    >>> print(json_pointer("a/b"))
    '/a~1b'
    """
    return literal("/" + key.replace("~", "~0").replace("/", "~1"))
