"""Trying again what a store refuses for a while: a full disk, a service that is away, writers that come first."""

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
    """How long an operation is tried again, in growing intervals.

    Attributes:
        seconds: Time waited in all before the error is given up to.
        sleep: Waits so many seconds.
    """

    seconds: float = 120.0
    sleep: Callable[[float], object] = time.sleep

    def attempt(self, operation: Callable[[], T]) -> tuple[T, int]:
        """What the operation returns in the end, and how often it failed before. It must bear being repeated.

        Raises:
            StoreError: It fails with one that waiting does not mend, or has failed all along.
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
