"""Checkpoints on disk, as Flink lays them out."""

from pathlib import Path

from schemas.errors import OptionError

_SHARDS = "shards"


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest completed checkpoint or savepoint anywhere below a folder, to be resumed from; None if there is none.

    A checkpoint is complete once its ``_metadata`` is there: Flink writes it last.
    """
    found = [(metadata.stat().st_mtime_ns, metadata.parent) for metadata in folder.glob("**/_metadata")]
    return max(found)[1] if found else None


def note_shards(folder: Path, shards: int) -> None:
    """Note beside the checkpoints of a run how many shards it began with: its state is kept by shard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SHARDS).write_text(f"{shards}\n", encoding="utf-8")


def noted_shards(folder: Path) -> int | None:
    """The number that was noted; None where there is no note."""
    note = folder / _SHARDS
    return int(note.read_text(encoding="utf-8")) if note.is_file() else None


def check_shards(folder: Path, shards: int) -> None:
    """Refuse to go on with another number of shards than was noted; nothing is known of a folder without a note.

    Raises:
        OptionError: The number is another: devices would meet the state of others.
    """
    begun = noted_shards(folder) or shards
    if begun != shards:
        raise OptionError(f"--shards: the run began with {begun} and goes on with as many, not with {shards}")
