"""Beam's import, which is most of what a short run waits for."""

import sys

_NEEDED_BY_GOOGLE_CLOUD = "google.auth"


def load_beam(google_cloud: bool) -> None:
    """Import Beam, which then is there for whoever imports it.

    Args:
        google_cloud: Whether with its parts for Google Cloud. Beam loads them where their packages are installed, for
            0.2 s, and does without where they are not: what all of them need is kept from it here.
    """
    if google_cloud or _NEEDED_BY_GOOGLE_CLOUD in sys.modules:
        return
    sys.modules[_NEEDED_BY_GOOGLE_CLOUD] = None  # type: ignore[assignment]
    try:
        import apache_beam  # noqa: F401
    finally:
        del sys.modules[_NEEDED_BY_GOOGLE_CLOUD]
