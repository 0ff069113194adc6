"""Standard output and standard error of the command line."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

OUT = Console()
ERR = Console(stderr=True)

_LONGEST_LINE = 1 << 30


def verbatim(value: object) -> Text:
    r"""A value as literal text: nothing in it acts as markup or, as it may be untrusted, as a terminal control code.

    >>> verbatim("[red]\x1b[2J").plain
    '[red]\\x1b[2J'
    """
    text = "" if value is None else str(value)
    shown = text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return Text(shown, overflow="fold")


def print_table(table: Table, console: Console) -> None:
    """Print a table within the terminal's width; if the output is not a terminal, print one row per line."""
    into = console if console.is_terminal else Console(file=console.file, width=_LONGEST_LINE)
    into.print(table)


def print_error(error: object) -> None:
    """Print an error on standard error, with a prefix on each of its lines."""
    for line in str(error).split("\n"):
        ERR.print(f"[bold red]error:[/] {escape(line)}", soft_wrap=True, highlight=False)


def print_warning(text: str) -> None:
    """Print a warning on standard error, in one line."""
    ERR.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True, highlight=False)


def configure_logging(verbose: bool) -> None:
    """Send logs to standard error; without `verbose`, only errors that a user can act on.

    Call it before Beam is imported, because the import logs.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    if not verbose:
        # main() prints an error that ends the run, once and in one line
        for library in ("apache_beam", "cassandra"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")


@contextmanager
def renewed(show: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Call `show` every `seconds` seconds in a thread of the given name, until the block ends."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(seconds):
            show()

    thread = threading.Thread(target=go_on, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
