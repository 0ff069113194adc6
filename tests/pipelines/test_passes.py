"""A command's work done once, or again and again."""

import pytest

from pipelines.passes import repeat
from schemas.errors import StoreBusyError


def test_pass_kept_from_committing_is_made_up_for_by_the_next() -> None:
    outcomes = iter([StoreBusyError("another run"), None, StoreBusyError("another run"), KeyboardInterrupt()])
    passes = []

    def work() -> None:
        outcome = next(outcomes)
        passes.append(outcome)
        if outcome is not None:
            raise outcome

    repeat(work, every=1)
    assert len(passes) == 4


def test_only_pass_kept_from_committing_is_an_error() -> None:
    def work() -> None:
        raise StoreBusyError("another run")

    with pytest.raises(StoreBusyError, match="another run"):
        repeat(work, every=None)
