"""The exception tree. Every error that a user can cause or fix derives from `ClickstreamError`."""


class ClickstreamError(Exception):
    """An error whose message is for the user: one line with what is wrong and how to fix it."""


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
    """An endless run's commit does not continue from the table's state. Retrying does not help."""


class ServiceError(ClickstreamError):
    """A service of the pipeline (a broker, a cluster, a job server) cannot be started, or has stopped."""


def first_line(error: Exception) -> str:
    r"""The first line of a library's error message, without the trace that some append; the error's type if empty.

    >>> first_line(ValueError("no such bucket\nat line 7"))
    'no such bucket'
    """
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__
