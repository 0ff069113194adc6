"""Checkpoints on disk, as Flink lays them out."""

from pathlib import Path


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest completed checkpoint or savepoint anywhere below a folder, to be resumed from; None if there is none.

    A checkpoint is complete once its ``_metadata`` is there: Flink writes it last.
    """
    found = [(metadata.stat().st_mtime_ns, metadata.parent) for metadata in folder.glob("**/_metadata")]
    return max(found)[1] if found else None
