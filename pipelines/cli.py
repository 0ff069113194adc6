"""The command line: registers the commands, and turns errors into messages and exit statuses."""

import gc
import os
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from pipelines.commands.ask import ask
from pipelines.commands.catalogue import catalogue
from pipelines.commands.cohort import cohort
from pipelines.commands.compact import compact
from pipelines.commands.funnel import funnel
from pipelines.commands.generate import generate
from pipelines.commands.metrics import metrics
from pipelines.commands.produce import produce
from pipelines.commands.rebuild import rebuild
from pipelines.commands.recent import recent
from pipelines.commands.run import run
from pipelines.commands.services import services
from pipelines.commands.sessions_dim import sessions_dim
from pipelines.commands.sql import sql
from pipelines.commands.stitch import stitch
from pipelines.commands.story import story
from pipelines.terminal import OUT, print_error
from schemas.errors import ClickstreamError, OptionError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turns clicks into sessions: one Beam graph maintains a Parquet lake for analysts and a device-keyed store.",
)


def _show_version(asked: bool) -> None:
    if asked:
        OUT.print(f"clickstream {version('clickstream')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None: ...


app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Any other option is passed to Beam, such as --temp_location.",
    rich_help_panel="Load events",
)(run)
app.add_typer(catalogue, name="catalogue", rich_help_panel="Load events")
for question in (sql, recent, ask, cohort, funnel, story):
    app.command(rich_help_panel="Query")(question)
for upkeep in (rebuild, stitch, sessions_dim, metrics, compact):
    app.command(rich_help_panel="Maintain the stores")(upkeep)
for trial in (generate, produce):
    app.command(rich_help_panel="Try it out")(trial)
app.add_typer(services, name="services", rich_help_panel="Try it out")


def main() -> NoReturn:
    """Run a command and exit with its status."""
    status: str | int | None = None
    try:
        run_command()
    except SystemExit as ended:
        status = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    # Exits at once, because freeing all objects at interpreter shutdown takes 0.4 s
    os._exit(status if isinstance(status, int) else bool(status))


def run_command() -> None:
    """Run the command given by the arguments.

    Exit status: 0 success, 1 failure, 2 invalid options. An error is printed in one line, or one per invalid option.
    """
    # Imports create many objects and no garbage; collecting after every 700 of them would take a fifth of a second
    gc.set_threshold(50_000)
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        # without a command there is no message, as the help has been printed already
        if message := " ".join(error.format_message().split()):
            print_error(f"{message.removesuffix('.')} (see --help)")
        sys.exit(2)
    except OptionError as error:
        print_error(error)
        sys.exit(2)
    except ClickstreamError as error:
        print_error(error)
        sys.exit(1)
    except Exception as error:
        if "--verbose" in sys.argv:
            raise
        hint = " (--verbose shows where)" if sys.argv[1:2] == ["run"] else ""
        print_error(f"{type(error).__name__}: {' '.join(str(error).split())}{hint}")
        sys.exit(1)


if __name__ == "__main__":
    main()
