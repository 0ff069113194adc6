"""Polars frames as Arrow tables."""

import polars as pl
import pyarrow as pa


def to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """Convert a frame to an Arrow table of exactly this schema."""
    names = schema.names
    return frame.select(names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
