"""The command line. A command checks all of its options, then calls one function; heavy imports wait until then."""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.options import (
    RUNNERS,
    SESSION_ENGINES,
    WRITE_MODES,
    Problems,
    RunOptions,
    Stores,
    parse_choice,
    parse_count,
    parse_share,
)
from schemas.durations import parse_duration, parse_optional_duration, parse_time
from schemas.errors import ClickstreamError, OptionError
from schemas.secrets import USER_KEY_VARIABLE, UserKeySecret
from transforms.policy import SessionPolicy

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Clicks into sessions: one Beam graph keeps a Parquet lake for analysts and a store keyed by device.",
)
_out = Console()
_err = Console(stderr=True)

Lake = Annotated[
    str | None,
    typer.Option(
        metavar="URI", help="The lake's folder. Else CLICKSTREAM_LAKE, else the config file.", show_default=False
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="The device store: rocksdb:PATH. Else CLICKSTREAM_DEVICES, else the config file.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file with lake and devices. Else CLICKSTREAM_CONFIG, else ./clickstream.toml.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


@app.command()
def generate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to; it must be empty or new.")],
    events: Annotated[str, typer.Option(metavar="N", help="Good events; 100k and 5M are understood.")] = "100k",
    devices: Annotated[
        str | None, typer.Option(metavar="N", help="Devices. By default one in sixty events.", show_default=False)
    ] = None,
    days: Annotated[str, typer.Option(metavar="N", help="Days that the events spread over.")] = "7",
    start: Annotated[str, typer.Option(metavar="DATE", help="First day, UTC.")] = "2026-04-12",
    late_share: Annotated[
        str, typer.Option(metavar="SHARE", help="Events that arrive minutes to hours late.")
    ] = "0.02",
    duplicate_share: Annotated[str, typer.Option(metavar="SHARE", help="Events that arrive more than once.")] = "0.01",
    broken_share: Annotated[
        str, typer.Option(metavar="SHARE", help="Broken lines, as a share of the events.")
    ] = "0.001",
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same bytes.")] = 1,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="jsonl, jsonl.gz or avro.")] = "jsonl",
    as_json: AsJson = False,
) -> None:
    """Write realistic shop traffic, and the truth about it in DIR/_truth."""
    from pipelines.generate import GenerateOptions
    from pipelines.generate import generate as write

    problems = Problems()
    count = problems.attempt("--events", lambda: parse_count(events))
    device_count = problems.attempt("--devices", lambda: parse_count(devices) if devices else None)
    day_count = problems.attempt("--days", lambda: parse_count(days))
    first = problems.attempt("--start", lambda: parse_time(start))
    shares = [
        problems.attempt(name, lambda text=text: parse_share(text))  # type: ignore[misc]
        for name, text in (
            ("--late-share", late_share), ("--duplicate-share", duplicate_share), ("--broken-share", broken_share)
        )
    ]  # fmt: skip
    options = None
    if not problems.found:
        options = problems.attempt(
            "",
            lambda: GenerateOptions(
                events=_known(count), out=out, devices=device_count, days=_known(day_count), start=_known(first),
                late_share=_known(shares[0]), duplicate_share=_known(shares[1]), broken_share=_known(shares[2]),
                seed=seed, format=format,
            ),
        )  # fmt: skip
    problems.raise_any()
    summary = write(_known(options))
    figures = {
        "events": summary.events, "lines": summary.lines, "repeats": summary.repeats, "broken": summary.broken,
        "devices": summary.devices, "sessions": summary.sessions, "files": len(summary.files),
        "bytes": summary.size, "seconds": round(summary.seconds, 3), "truth": str(summary.truth),
    }  # fmt: skip
    if as_json:
        _out.print_json(json.dumps(figures))
        return
    rate = summary.events / summary.seconds
    _out.print(
        f"{summary.lines:,} lines ({summary.events:,} events, {summary.repeats:,} of them again, {summary.broken:,} broken) "
        f"of {summary.devices:,} devices in {summary.sessions:,} sessions: {len(summary.files)} files in {out}, "
        f"{summary.seconds:.1f} s, {rate:,.0f} events/s",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Any other option is passed to Beam, such as --temp_location.",
)
def run(
    context: typer.Context,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Files of events: JSON lines (plain, gzip, zstd) or Avro raw logs; a folder means all files below it. "
            "May be given more than once.",
            show_default=False,
        ),
    ] = None,
    lake: Lake = None,
    devices: Devices = None,
    config: Config = None,
    session_gap: Annotated[
        str, typer.Option(metavar="DURATION", help="Silence that ends a session; exactly this much does not.")
    ] = "30m",
    max_session: Annotated[
        str, typer.Option(metavar="DURATION", help="Age at which a session is cut in two; or off.")
    ] = "4h",
    allowed_lateness: Annotated[
        str,
        typer.Option(metavar="DURATION", help="How late an event may still change its session; 'off' for not at all."),
    ] = "1h",
    early_firing: Annotated[
        str, typer.Option(metavar="DURATION", help="Event-time interval of early panes of open sessions; or off.")
    ] = "5m",
    shards: Annotated[
        str, typer.Option(metavar="N", help="Keys that devices are spread over; bounds the parallelism.")
    ] = "16",
    session_engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="columnar, or beam: Beam's own session windows, slow, for reference.")
    ] = "columnar",
    write_mode: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="merge: rows that are there already stay single; overwrite: replaces the dates touched; append: blindly.",
        ),
    ] = "merge",
    user_key_secret_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"Holds the secret of user_key's hash. Else {USER_KEY_VARIABLE}.", show_default=False
        ),
    ] = None,
    runner: Annotated[str, typer.Option(metavar="RUNNER", help="Where it runs: direct.")] = "direct",
    as_json: AsJson = False,
    verbose: Annotated[bool, typer.Option(help="Show the runner's log, and tracebacks.")] = False,
) -> None:
    """Replay raw events into the lake and the device store. The same input again ends in the same stores."""
    _configure_logging(verbose)
    began = datetime.now(UTC)
    problems = Problems()
    gap = problems.attempt("--session-gap", lambda: parse_duration(session_gap))
    cap = problems.attempt("--max-session", lambda: parse_optional_duration(max_session))
    lateness = problems.attempt("--allowed-lateness", lambda: parse_optional_duration(allowed_lateness))
    early = problems.attempt("--early-firing", lambda: parse_optional_duration(early_firing))
    policy = None
    if not problems.found:
        policy = problems.attempt(
            "",
            lambda: SessionPolicy(gap=_known(gap), cap=cap, allowed_lateness=lateness or 0, early_firing=early),
        )
    shard_count = problems.attempt("--shards", lambda: parse_count(shards))
    problems.attempt("--session-engine", lambda: parse_choice(session_engine, SESSION_ENGINES))
    problems.attempt("--write-mode", lambda: parse_choice(write_mode, WRITE_MODES))
    problems.attempt("--runner", lambda: parse_choice(runner, RUNNERS))
    stores = problems.attempt("", lambda: Stores.find(lake, devices, config)) or Stores(lake, devices)
    lake_uri = problems.attempt("--lake", stores.need_lake)
    devices_uri = problems.attempt("--devices", stores.need_devices)
    secret = UserKeySecret(user_key_secret_file)
    problems.attempt("--user-key-secret-file", secret.read)
    problems.require(bool(input), "--input: name at least one file, folder or glob")
    if problems.found:
        # What is wrong with the options themselves is said without waiting for Beam to load
        problems.raise_any()

    from pipelines.progress import watch
    from pipelines.run import check_stores
    from pipelines.run import run as start
    from runners.beam_options import parse_beam_options
    from transforms.read_files import list_files

    beam_options = problems.attempt("", lambda: parse_beam_options(context.args))
    files = problems.attempt("--input", lambda: list_files(_known(input)))
    options = RunOptions(
        files=files or {}, lake=_known(lake_uri), devices=_known(devices_uri), policy=_known(policy),
        shards=_known(shard_count), session_engine=session_engine, write_mode=write_mode, secret=secret,
        started_at=began,
    )  # fmt: skip
    for check in check_stores(options):
        problems.attempt("", check)
    problems.raise_any()
    if secret.is_default:
        _err.print(
            f"[yellow]warning:[/] user_key uses the development secret, which anyone knows; set {USER_KEY_VARIABLE} "
            "or --user-key-secret-file",
            soft_wrap=True,
        )
    with watch(sum(options.files.values()), _err, enabled=not as_json):
        report = start(options, _known(beam_options))
    if as_json:
        _out.print_json(json.dumps(report.as_json()))
    else:
        report.show(_out)


@app.command()
def recent(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    devices: Devices = None,
    config: Config = None,
    minutes: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Only the N minutes before --until (before now, if that is not given).",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Events at or after this time; UTC unless it says otherwise.", show_default=False
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Events before this time.", show_default=False)
    ] = None,
    limit: Annotated[str, typer.Option(metavar="N", help="At most so many events.")] = "100",
    as_json: AsJson = False,
) -> None:
    """Show a device's latest events, newest first, and its sessions."""
    problems = Problems()
    problems.require(not (minutes and since), "give --minutes or --since, not both")
    length = problems.attempt("--minutes", lambda: parse_count(minutes) if minutes else None)
    first = problems.attempt("--since", lambda: parse_time(since) if since else None)
    last = problems.attempt("--until", lambda: parse_time(until) if until else None)
    most = problems.attempt("--limit", lambda: parse_count(limit))
    stores = problems.attempt("", lambda: Stores.find(None, devices, config)) or Stores(None, devices)
    uri = problems.attempt("--devices", stores.need_devices)
    problems.raise_any()

    from pipelines.recent import show_recent

    if length is not None:
        last = last or datetime.now(UTC)
        first = last - timedelta(minutes=length)
    show_recent(_known(uri), device, first, last, _known(most), as_json, _out)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A SELECT over the lake's tables; - reads it from standard input.")],
    lake: Lake = None,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask the lake in DuckDB's SQL: each table is a view by its name, of its current rows."""
    problems = Problems()
    problems.require(not (as_json and as_csv), "give --json or --csv, not both")
    stores = problems.attempt("", lambda: Stores.find(lake, None, config)) or Stores(lake, None)
    uri = problems.attempt("--lake", stores.need_lake)
    problems.raise_any()

    from pipelines.ask import show_query

    show_query(
        _known(uri),
        sys.stdin.read() if query == "-" else query,
        "json" if as_json else "csv" if as_csv else "table",
        _out,
    )


def _known(value: Any) -> Any:
    """A value that `Problems` has vouched for."""
    return value


def _configure_logging(verbose: bool) -> None:
    """Send logs to standard error; without --verbose only what a user can act on."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    if not verbose:
        # An error that ends the run is printed once, as one line, by main()
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")


def main() -> None:
    """Run a command. Exit status: 0 done, 1 failed, 2 wrong options; an error is one line (or one a wrong option)."""
    try:
        app()
    except OptionError as error:
        sys.exit(_fail(error, 2))
    except ClickstreamError as error:
        sys.exit(_fail(error, 1))
    except Exception as error:
        if "--verbose" in sys.argv:
            raise
        sys.exit(_fail(f"{type(error).__name__}: {error} (--verbose shows where)", 1))


def _fail(error: object, code: int) -> int:
    for line in str(error).split("\n"):
        _err.print(f"[bold red]error:[/] {escape(line)}", soft_wrap=True, highlight=False)
    return code


if __name__ == "__main__":
    main()
