"""The raw log's schema: payloads as they arrived, in Avro files from which everything can be derived again."""

from typing import Any

import pyarrow as pa

from schemas.events import RAW
from schemas.records import TIMESTAMP, Record

RAW_LOG_CODEC = "deflate"
"""The codec that every Avro library reads without an extra package."""

_AVRO_TYPES: dict[pa.DataType, Any] = {
    pa.binary(): "bytes",
    pa.string(): "string",
    pa.int32(): "int",
    pa.int64(): "long",
    TIMESTAMP: {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(record: Record) -> dict[str, Any]:
    """The Avro schema of a record, with each field's description.

    Raises:
        KeyError: A field's type is not one that raw records use.

    >>> avro_schema(RAW)["fields"][2]
    {'name': 'partition', 'type': 'int', 'doc': 'partition of a bus; 0 for a file'}
    """
    fields = []
    for field in record:
        avro_type = _AVRO_TYPES[field.type]
        fields.append(
            {
                "name": field.name,
                "type": ["null", avro_type] if field.nullable else avro_type,
                "doc": field.doc,
            }
        )
    return {"type": "record", "name": record.name, "doc": record.grain, "fields": fields}


RAW_LOG_AVRO = avro_schema(RAW)
