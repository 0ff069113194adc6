"""The raw log: payloads as they arrived, in Avro files, so that everything can be derived again."""

from typing import Any

import pyarrow as pa

from schemas.events import RAW
from schemas.records import TIMESTAMP, Record

RAW_LOG_CODEC = "deflate"
"""Read by every Avro library without an extra package."""

_AVRO_TYPES: dict[pa.DataType, Any] = {
    pa.binary(): "bytes",
    pa.large_binary(): "bytes",
    pa.string(): "string",
    pa.int32(): "int",
    pa.int64(): "long",
    TIMESTAMP: {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(record: Record) -> dict[str, Any]:
    """The Avro schema of a record: field by field, each with its meaning.

    Raises:
        KeyError: A field's type is not one that raw records use.

    >>> avro_schema(RAW)["fields"][2]
    {'name': 'partition', 'type': 'int', 'doc': 'partition of a bus; 0 for a file'}
    """
    return {"type": "record", "name": record.name, "doc": record.grain, "fields": [
        {"name": f.name, "type": ["null", _AVRO_TYPES[f.type]] if f.nullable else _AVRO_TYPES[f.type], "doc": f.doc}
        for f in record
    ]}  # fmt: skip


RAW_LOG_AVRO = avro_schema(RAW)
