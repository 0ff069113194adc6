"""The command `run`: the main job."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson, Config, Devices, Lake
from pipelines.options import (
    RUNNERS,
    SESSION_ENGINES,
    WRITE_MODES,
    Problems,
    RunOptions,
    Stores,
    known,
    parse_choice,
    parse_count,
)
from pipelines.terminal import ERR, OUT, configure_logging, print_warning
from schemas.durations import parse_duration, parse_optional_duration
from schemas.secrets import USER_KEY_VARIABLE, UserKeySecret
from transforms.policy import SessionPolicy


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
        typer.Option(metavar="DURATION", help="How late an event may still change its session; off for not at all."),
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
            help="merge: rows that are there already stay single; overwrite: replaces the dates touched; "
            "append: blindly.",
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
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the runner's log, and tracebacks.")] = False,
) -> None:
    """Replay raw events into the lake and the device store. The same input again ends in the same stores."""
    configure_logging(verbose)
    began = datetime.now(UTC)
    problems = Problems()
    gap = problems.attempt("--session-gap", lambda: parse_duration(session_gap))
    cap = problems.attempt("--max-session", lambda: parse_optional_duration(max_session))
    lateness = problems.attempt("--allowed-lateness", lambda: parse_optional_duration(allowed_lateness))
    early = problems.attempt("--early-firing", lambda: parse_optional_duration(early_firing))
    policy = None
    if not problems.found:
        policy = problems.attempt(
            "", lambda: SessionPolicy(gap=known(gap), cap=cap, allowed_lateness=lateness or 0, early_firing=early)
        )
    shard_count = problems.attempt("--shards", lambda: parse_count(shards))
    problems.attempt("--session-engine", lambda: parse_choice(session_engine, SESSION_ENGINES))
    problems.attempt("--write-mode", lambda: parse_choice(write_mode, WRITE_MODES))
    problems.attempt("--runner", lambda: parse_choice(runner, RUNNERS))
    stores = problems.attempt("", lambda: Stores.find(lake, devices, config))
    lake_uri = problems.attempt("--lake", stores.need_lake) if stores else None
    devices_uri = problems.attempt("--devices", stores.need_devices) if stores else None
    secret = UserKeySecret(user_key_secret_file)
    problems.attempt("--user-key-secret-file", secret.read)
    problems.require(bool(input), "--input: name at least one file, folder or glob")
    # What is wrong with the options themselves is said without waiting for Beam to load
    problems.raise_any()

    from pipelines.progress import watch
    from pipelines.run import check_stores
    from pipelines.run import run as start
    from runners.beam_options import parse_beam_options
    from transforms.read_files import list_files

    beam_options = problems.attempt("", lambda: parse_beam_options(context.args))
    files = problems.attempt("--input", lambda: list_files(known(input)))
    options = RunOptions(
        files=files or {},
        lake=known(lake_uri),
        devices=known(devices_uri),
        policy=known(policy),
        shards=known(shard_count),
        session_engine=session_engine,
        write_mode=write_mode,
        secret=secret,
        started_at=began,
    )
    for check in check_stores(options):
        problems.attempt("", check)
    problems.raise_any()
    if secret.is_default:
        print_warning(
            "user_key uses the development secret, which anyone knows; "
            f"set {USER_KEY_VARIABLE} or --user-key-secret-file"
        )
    with watch(sum(options.files.values()), ERR, enabled=not as_json):
        report = start(options, known(beam_options))
    if as_json:
        OUT.print_json(json.dumps(report.as_json()))
    else:
        report.show(OUT)
