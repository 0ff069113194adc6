"""The exception tree. Every error that a user can cause or mend derives from `ClickstreamError`."""


class ClickstreamError(Exception):
    """An error whose message is written for the user: one line, what is wrong and what would mend it."""


class OptionError(ClickstreamError):
    """An option has a value that cannot be used."""


class InputError(ClickstreamError):
    """The input cannot be read at all (no such file, not a known format)."""


class StoreError(ClickstreamError):
    """A store cannot be opened, read or written."""


class SchemaMismatchError(StoreError):
    """A table exists with columns that this program cannot write."""


class StoreBusyError(StoreError):
    """A store is held by another process."""


class BrokenStreamError(StoreError):
    """What an endless run is to commit does not follow on what its table has: waiting does not mend it."""


class ServiceError(ClickstreamError):
    """A service beside the pipeline (a broker, a cluster, a job server) cannot be started, or has gone."""


def first_line(error: Exception) -> str:
    r"""What a library says went wrong, without the trace that some append; the error's kind where it says nothing.

    >>> first_line(ValueError("no such bucket\nat line 7"))
    'no such bucket'
    """
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__
