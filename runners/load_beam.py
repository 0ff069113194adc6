"""Imports Beam quickly: the import is most of a short run's start-up time."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_FOR_GOOGLE_CLOUD = ("apache_beam.io.gcp", "google.auth", "apitools", "requests")
_FOR_MONGODB = ("bson",)


def load_beam(google_cloud: bool) -> None:
    """Import Beam without its parts for other systems, so that later imports find it loaded.

    Beam imports its part for another system if that system's packages are installed, which takes half of the time of
    the import, and works without it. This hides what these parts consist of or need, while Beam is imported.

    Beam also asks each step several times which state and timers it has, by inspecting all its methods: a tenth of a
    short run. The answer is remembered for each class of steps.

    Args:
        google_cloud: Whether to load the parts for Google Cloud.
    """
    if "apache_beam" in sys.modules:
        return
    with _without(*_FOR_MONGODB, *(() if google_cloud else _FOR_GOOGLE_CLOUD)):
        import apache_beam  # noqa: F401
    _remember_state_and_timers()


def _remember_state_and_timers() -> None:
    from apache_beam.transforms import userstate

    inspect, known = userstate.get_dofn_specs, WeakKeyDictionary[Any, Any]()

    def get_dofn_specs(dofn: Any) -> Any:
        # The methods are those of the class, except where Beam made a step of a function
        about = dofn if any(map(callable, vars(dofn).values())) else type(dofn)
        if about not in known:
            known[about] = inspect(dofn)
        return known[about]

    userstate.get_dofn_specs = get_dofn_specs


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide modules as if they were not installed, unless they are already loaded, and mute Beam's warnings about it."""
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
