"""The command `run`: the main job."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from transforms.kafka_positions import parse_start, parse_until
from transforms.policy import SessionPolicy

if TYPE_CHECKING:
    from pipelines.run import OpenRunner

_FILES, _BUS, _STORES, _SESSIONS, _RUNNER = "Files", "Event bus", "Stores", "Sessions", "Runner"


def run(  # noqa: PLR0915
    context: typer.Context,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Files of events: JSON lines (plain, gzip, zstd) or Avro raw logs; a folder means all files below it. "
            "May be given more than once.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Brokers, with commas between; else --input is read.",
            show_default=False,
            rich_help_panel=_BUS,
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="The topic to follow; only with --kafka.", show_default=False, rich_help_panel=_BUS
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="Where a fresh run starts: earliest, latest, or the time of arrival to start at.",
            rich_help_panel=_BUS,
        ),
    ] = "earliest",
    until: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Replay the topic up to here and end: now, a time of arrival, or offsets as 0:1200,1:1150. "
            "Else follow it for ever.",
            show_default=False,
            rich_help_panel=_BUS,
        ),
    ] = None,
    max_disorder: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How much older than its partition's newest event an event may be and not be late.",
            rich_help_panel=_BUS,
        ),
    ] = "1m",
    idle_timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Silence after which a partition no longer holds the watermark back.",
            rich_help_panel=_BUS,
        ),
    ] = "30s",
    kafka_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Client properties (TLS, SASL), key=value a line; read on the workers. Else plain text.",
            show_default=False,
            rich_help_panel=_BUS,
        ),
    ] = None,
    kafka_group: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="Consumer group whose offsets show the lag; the run does not depend on it. Else none.",
            show_default=False,
            rich_help_panel=_BUS,
        ),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Keep the raw payloads here, as Avro files by hour of arrival that --input replays. Else nowhere.",
            show_default=False,
            rich_help_panel=_BUS,
        ),
    ] = None,
    lake: Lake = None,
    devices: Devices = None,
    config: Config = None,
    write_mode: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="merge: rows that are there already stay single; overwrite: replaces the dates touched; "
            "append: blindly. An endless input is merged.",
            rich_help_panel=_STORES,
        ),
    ] = "merge",
    onto_existing: Annotated[
        bool,
        typer.Option(
            "--onto-existing",
            help="Let a fresh start on an endless input add to a lake that has rows of another run. "
            "Events that both have read are then there twice.",
            rich_help_panel=_STORES,
        ),
    ] = False,
    user_key_secret_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Holds the secret of user_key's hash. Else {USER_KEY_VARIABLE}.",
            show_default=False,
            rich_help_panel=_STORES,
        ),
    ] = None,
    session_gap: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Silence that ends a session; exactly this much does not.",
            rich_help_panel=_SESSIONS,
        ),
    ] = "30m",
    max_session: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Age at which a session is cut in two; or off.", rich_help_panel=_SESSIONS
        ),
    ] = "4h",
    allowed_lateness: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How late an event may still change its session; off for not at all.",
            rich_help_panel=_SESSIONS,
        ),
    ] = "1h",
    early_firing: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Event-time interval of early panes of open sessions; or off.",
            rich_help_panel=_SESSIONS,
        ),
    ] = "5m",
    session_engine: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            help="columnar, or beam: Beam's own session windows, slow, for reference.",
            rich_help_panel=_SESSIONS,
        ),
    ] = "columnar",
    runner: Annotated[
        str,
        typer.Option(
            metavar="RUNNER",
            help="Where it runs: direct, in this process, for an input that ends; or flink.",
            rich_help_panel=_RUNNER,
        ),
    ] = "direct",
    shards: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="Keys that devices are spread over; bounds the parallelism.",
            rich_help_panel=_RUNNER,
        ),
    ] = "16",
    flink_master: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A Flink cluster's REST address; else a cluster is started within the run.",
            show_default=False,
            rich_help_panel=_RUNNER,
        ),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where Flink's checkpoints stay, so that another run can resume from them. Else they go with the run.",
            show_default=False,
            rich_help_panel=_RUNNER,
        ),
    ] = None,
    checkpoint_interval: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Time between Flink's checkpoints; the lake shows what they hold.",
            rich_help_panel=_RUNNER,
        ),
    ] = "2s",
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Checkpoint or savepoint of Flink to go on from; latest: the newest below --checkpoints. Else fresh.",
            show_default=False,
            rich_help_panel=_RUNNER,
        ),
    ] = None,
    parallelism: Annotated[
        str, typer.Option(metavar="N", help="Subtasks of each step on Flink.", rich_help_panel=_RUNNER)
    ] = "2",
    worker: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Where the Python steps run on Flink: thread, of this process; or process, beside it, started again "
            "when it dies.",
            rich_help_panel=_RUNNER,
        ),
    ] = "thread",
    as_json: AsJson = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the runner's log, and tracebacks.")] = False,
) -> None:
    """Take raw events into the lake and the device store: replay files, or follow a topic.

    The same input again ends in the same stores.
    """
    configure_logging(verbose)
    began = datetime.now(UTC)
    problems = Problems()
    policy = _policy(problems, session_gap, max_session, allowed_lateness, early_firing)
    shard_count = problems.attempt("--shards", lambda: parse_count(shards))
    problems.attempt("--session-engine", lambda: parse_choice(session_engine, SESSION_ENGINES))
    problems.attempt("--write-mode", lambda: parse_choice(write_mode, WRITE_MODES))
    problems.attempt("--runner", lambda: parse_choice(runner, RUNNERS))
    stores = problems.attempt("", lambda: Stores.find(lake, devices, config))
    lake_uri = problems.attempt("--lake", stores.need_lake) if stores else None
    devices_uri = problems.attempt("--devices", stores.need_devices) if stores else None
    secret = UserKeySecret(user_key_secret_file)
    problems.attempt("--user-key-secret-file", secret.read)
    endless = bool(kafka) and until is None
    _require_one_input(problems, input, kafka, topic, archive)
    if endless:
        problems.require(runner != "direct", "--runner: direct ends; follow a topic with flink, or say --until now")
        problems.require(write_mode == "merge", "--write-mode: a topic that is followed is merged")
    first = problems.attempt("--from", lambda: parse_start(start))
    last = problems.attempt("--until", lambda: parse_until(until) if until else None)
    disorder = problems.attempt("--max-disorder", lambda: parse_duration(max_disorder))
    idle = problems.attempt("--idle-timeout", lambda: parse_duration(idle_timeout))
    interval = problems.attempt("--checkpoint-interval", lambda: parse_duration(checkpoint_interval))
    subtasks = problems.attempt("--parallelism", lambda: parse_count(parallelism))
    problems.require(resume != "latest" or bool(checkpoints), "--resume: latest needs --checkpoints")
    # What is wrong with the options themselves is said without waiting for Beam to load
    problems.raise_any()

    from pipelines.run import check_stores
    from pipelines.run import run as start_job
    from pipelines.watch import watch
    from runners.beam_options import parse_beam_options
    from transforms.read_files import ReadFiles, list_files

    beam_options = problems.attempt("", lambda: parse_beam_options(context.args))
    options = RunOptions(
        lake=known(lake_uri),
        devices=known(devices_uri),
        policy=known(policy),
        shards=known(shard_count),
        session_engine=session_engine,
        write_mode=write_mode,
        secret=secret,
        started_at=began,
        archive=archive,
        onto_existing=onto_existing or resume is not None,
        stable_input=endless and runner == "flink",
    )
    source: Any = None
    input_bytes = None
    if kafka:
        from transforms.read_kafka import ReadKafka

        source = ReadKafka(
            kafka, known(topic), known(first), last, max_disorder=known(disorder), idle_timeout=known(idle),
            config=kafka_config, group=kafka_group,
        )  # fmt: skip
        problems.attempt("--kafka", source.check)
    else:
        files = problems.attempt("--input", lambda: list_files(known(input))) or {}
        source, input_bytes = ReadFiles(files, began), sum(files.values())
    open_runner = problems.attempt(
        "",
        lambda: (
            _flink(flink_master, known(subtasks), checkpoints, known(interval), resume, worker, endless)
            if runner == "flink"
            else _direct()
        ),
    )
    for check in check_stores(options):
        problems.attempt("", check)
    problems.raise_any()
    if secret.is_default:
        print_warning(
            "user_key uses the development secret, which anyone knows; "
            f"set {USER_KEY_VARIABLE} or --user-key-secret-file"
        )
    with watch(input_bytes, ERR, enabled=not as_json):
        report = start_job(options, source, known(beam_options), known(open_runner))
    if as_json:
        OUT.print_json(json.dumps(report.as_json()))
    else:
        report.show(OUT)


def _policy(problems: Problems, gap: str, cap: str, lateness: str, early: str) -> SessionPolicy | None:
    parsed = (
        problems.attempt("--session-gap", lambda: parse_duration(gap)),
        problems.attempt("--max-session", lambda: parse_optional_duration(cap)),
        problems.attempt("--allowed-lateness", lambda: parse_optional_duration(lateness)),
        problems.attempt("--early-firing", lambda: parse_optional_duration(early)),
    )
    if problems.found:
        return None
    return problems.attempt(
        "",
        lambda: SessionPolicy(
            gap=known(parsed[0]), cap=parsed[1], allowed_lateness=parsed[2] or 0, early_firing=parsed[3]
        ),
    )


def _require_one_input(
    problems: Problems, input: list[str] | None, kafka: str | None, topic: str | None, archive: str | None
) -> None:
    problems.require(bool(input) or bool(kafka), "--input: name at least one file, folder or glob; or follow --kafka")
    problems.require(not (input and kafka), "give --input or --kafka, not both")
    problems.require(bool(kafka) == bool(topic), "--kafka and --topic go together")
    problems.require(bool(kafka) or not archive, "--archive is for a bus; files are their own archive")


def _direct() -> "OpenRunner":
    from runners.direct import direct_runner

    return direct_runner


def _flink(
    master: str | None,
    parallelism: int,
    checkpoints: str | None,
    interval: int,
    resume: str | None,
    worker: str,
    endless: bool,
) -> "OpenRunner":
    from runners.flink import FlinkOptions, flink_runner, newest_checkpoint
    from schemas.durations import SECOND
    from schemas.errors import OptionError

    found: str | Path | None = resume
    if resume == "latest" and checkpoints:
        found = newest_checkpoint(Path(checkpoints))
        if found is None:
            raise OptionError(f"--resume: there is no completed checkpoint below {checkpoints}")
    flink = FlinkOptions(
        master=master,
        parallelism=parallelism,
        checkpoints=checkpoints,
        resume_from=found,
        checkpoint_interval=interval,
        worker=worker,
        idle_shutdown=None if endless else 5 * SECOND,
    )
    opened: Callable[..., Any] = partial(flink_runner, flink=flink)
    return opened
