"""Temporary files of buffered tables, kept for seconds: Arrow streams, each written and read whole."""

import uuid
from collections.abc import Iterable, Sequence

import pyarrow as pa

from schemas.errors import StoreError, first_line
from stores.locations import open_location


def write_held(folder: str, tables: Sequence[pa.Table]) -> str:
    """Write tables of one schema into a new file in a folder; returns the file's name.

    Raises:
        StoreError: The file cannot be written.
    """
    name = f"{uuid.uuid4()}.arrow"
    filesystem, root = open_location(folder)
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    try:
        filesystem.create_dir(root, recursive=True)
        with (
            filesystem.open_output_stream(f"{root}/{name}") as out,
            pa.ipc.new_stream(out, tables[0].schema, options=options) as writer,
        ):
            for table in tables:
                writer.write_table(table)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {first_line(error)}") from error
    return name


def read_held(folder: str, name: str) -> pa.Table:
    """Read the rows of a file that `write_held` wrote.

    Raises:
        StoreError: The file cannot be read.
    """
    filesystem, root = open_location(folder)
    try:
        with filesystem.open_input_stream(f"{root}/{name}") as source, pa.ipc.open_stream(source) as reader:
            return reader.read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"cannot read from {folder}: {first_line(error)}") from error


def delete_held(folder: str, names: Iterable[str]) -> None:
    """Delete files. A missing file is not an error.

    Raises:
        StoreError: A file cannot be deleted.
    """
    filesystem, root = open_location(folder)
    for name in names:
        try:
            filesystem.delete_file(f"{root}/{name}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"cannot delete {name} of {folder}: {first_line(error)}") from error
