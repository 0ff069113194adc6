"""Retries of store operations that fail for a while: a full disk, an unavailable service, concurrent writers."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from schemas.errors import BrokenStreamError, SchemaMismatchError, StoreError

T = TypeVar("T")
LOGGER = logging.getLogger("clickstream.stores")

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


@dataclass(frozen=True)
class Patience:
    """How long to retry an operation, at growing intervals.

    Attributes:
        seconds: Total time to wait before giving up.
        sleep: Waits the given number of seconds.
    """

    seconds: float = 120.0
    sleep: Callable[[float], object] = time.sleep

    def attempt(self, operation: Callable[[], T]) -> tuple[T, int]:
        """Run an operation until it succeeds; returns its result and the number of failures. It must be idempotent.

        Raises:
            StoreError: The operation failed with an error that a retry cannot fix, or kept failing.
        """
        waited, wait, failures = 0.0, _FIRST_WAIT, 0
        while True:
            try:
                return operation(), failures
            except (BrokenStreamError, SchemaMismatchError):
                raise
            except StoreError as error:
                if waited >= self.seconds:
                    raise
                if not failures:
                    LOGGER.warning("%s; trying again for up to %.0f s", error, self.seconds)
                failures += 1
            self.sleep(wait)
            waited, wait = waited + wait, min(2 * wait, _LONGEST_WAIT)
