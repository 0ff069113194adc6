"""Beam's import, which is most of what a short run waits for."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NEEDED_BY_GOOGLE_CLOUD = "google.auth"
_NEEDED_BY_MONGODB = "bson"


def load_beam(google_cloud: bool) -> None:
    """Import Beam, which then is there for whoever imports it.

    Beam loads its parts for other systems where their packages are installed, for 0.2 s each, and does without where
    they are not: what all of such a part need is kept from it here.

    Args:
        google_cloud: Whether with its parts for Google Cloud.
    """
    if "apache_beam" in sys.modules:
        return
    with _without(_NEEDED_BY_MONGODB, *(() if google_cloud else (_NEEDED_BY_GOOGLE_CLOUD,))):
        import apache_beam  # noqa: F401


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Modules as if they were not installed, unless they are loaded; what Beam says of it is not for the user."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    beam_log = logging.getLogger("apache_beam")
    level = beam_log.level
    beam_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        beam_log.setLevel(level)
        for name in hidden:
            del sys.modules[name]
