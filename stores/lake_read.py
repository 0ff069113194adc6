"""Reads Parquet files of the lake: all rows of some files, or a few row groups at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from schemas.errors import StoreError, first_line
from schemas.records import Record
from stores.lake_files import Place
from stores.locations import open_location
from stores.parquet_files import ROW_GROUP_ROWS


def read_files(
    place: Place, paths: Iterable[str], columns: Sequence[str] | None = None, rows: pc.Expression | None = None
) -> pa.Table:
    """Read files of one partition into a table; a column that a file lacks is null.

    Args:
        place: The partition.
        paths: Paths of the files, relative to the table's folder.
        columns: Names of the columns to read; all by default.
        rows: Filter on columns that are stored in the files and read; all rows by default.

    Raises:
        StoreError: A file cannot be read.
    """
    table_uri, record, partition = place
    names = list(columns or record.names)
    schema = pa.schema([record.schema.field(name) for name in names])
    stored = pa.schema([(field.name, field.type) for field in schema if field.name not in record.partition_by])
    filesystem, root = open_location(table_uri)
    with _readable(record, table_uri):
        tables = [
            pq.read_table(f"{root}/{path}", schema=stored, filesystem=filesystem, partitioning=None, filters=rows)
            for path in paths
        ]
    if not tables:
        return schema.empty_table()
    table = pa.concat_tables(tables)
    for name, value in zip(record.partition_by, partition, strict=True):
        if name in names:
            constant = pc.cast(pa.scalar(value, pa.string()), schema.field(name).type)
            table = table.append_column(name, pa.repeat(constant, table.num_rows))
    return table.select(names).cast(schema)


def file_pieces(
    table_uri: str, record: Record, paths: Sequence[str], most_rows: int = ROW_GROUP_ROWS
) -> Iterator[Callable[[Sequence[str]], pa.Table]]:
    """Read files a few row groups at a time, so that memory is bounded whatever the files' size.

    Args:
        table_uri: The table's folder.
        record: The table's record.
        paths: Paths of the files, of any partitions, relative to the table's folder.
        most_rows: Limit on the rows of a piece, unless a single row group has more.

    Yields:
        A function that reads one piece: it takes names of columns stored in the files, and returns the piece's rows. A
        column that a file lacks is null.

    Raises:
        StoreError: A file cannot be read; the yielded functions raise it too.
    """
    schema = pa.schema([(field.name, field.type) for field in record if field.name not in record.partition_by])
    filesystem, root = open_location(table_uri)
    held: list[ds.Fragment] = []

    def piece() -> Callable[[Sequence[str]], pa.Table]:
        nonlocal held
        rows = ds.FileSystemDataset(held, schema, ds.ParquetFileFormat(), filesystem)
        held = []

        def read(columns: Sequence[str]) -> pa.Table:
            with _readable(record, table_uri):
                return rows.to_table(list(columns), use_threads=False)

        return read

    with _readable(record, table_uri):
        files = ds.dataset([f"{root}/{path}" for path in paths], schema, "parquet", filesystem).get_fragments()
    gathered = 0
    for file in files:
        with _readable(record, table_uri):
            groups = file.split_by_row_group()
        for group in groups:
            rows = group.row_groups[0].num_rows
            if held and gathered + rows > most_rows:
                yield piece()
                gathered = 0
            held.append(group)
            gathered += rows
    if held:
        yield piece()


@contextmanager
def _readable(record: Record, table_uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{record.name}: cannot read from {table_uri}: {first_line(error)}") from error
