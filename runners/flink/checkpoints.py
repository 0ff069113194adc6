"""Flink's checkpoints on disk, and the number of shards noted beside them."""

from pathlib import Path

from schemas.errors import OptionError

_SHARDS = "shards"


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest completed checkpoint or savepoint anywhere below a folder, to resume from; None if there is none.

    A checkpoint is complete once it has a ``_metadata`` file, which Flink writes last.
    """
    found = [(metadata.stat().st_mtime_ns, metadata.parent) for metadata in folder.glob("**/_metadata")]
    return max(found)[1] if found else None


def note_shards(folder: Path, shards: int) -> None:
    """Note beside a run's checkpoints how many shards it started with, because its state is keyed by shard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SHARDS).write_text(f"{shards}\n", encoding="utf-8")


def noted_shards(folder: Path) -> int | None:
    """The noted number of shards; None without a note."""
    note = folder / _SHARDS
    return int(note.read_text(encoding="utf-8")) if note.is_file() else None


def check_shards(folder: Path, shards: int) -> None:
    """Refuse to resume with a number of shards other than the noted one. Without a note, any number is accepted.

    Raises:
        OptionError: The number differs: devices would be assigned the state of other shards.
    """
    begun = noted_shards(folder) or shards
    if begun != shards:
        raise OptionError(f"--shards: the run began with {begun} and goes on with as many, not with {shards}")
