"""The command `run`: the main job."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.arguments import AsJson, Config, Devices, Lake
from pipelines.commands.run_arguments import (
    AllowedLateness,
    ArchiveTo,
    CheckpointInterval,
    Checkpoints,
    EarlyFiring,
    FlinkMaster,
    From,
    IdleTimeout,
    Input,
    Kafka,
    KafkaConfig,
    KafkaGroup,
    MaxDisorder,
    MaxSession,
    Mode,
    OntoExisting,
    Parallelism,
    PubSub,
    PubSubId,
    PubSubTimestamp,
    Resume,
    Runner,
    SecretFile,
    SessionEngine,
    SessionGap,
    Shards,
    Topic,
    Until,
)
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
    from pipelines.run import Follow, OpenRunner


def run(  # noqa: PLR0915
    context: typer.Context,
    input: Input = None,
    kafka: Kafka = None,
    topic: Topic = None,
    start: From = "earliest",
    until: Until = None,
    max_disorder: MaxDisorder = "1m",
    idle_timeout: IdleTimeout = "30s",
    kafka_config: KafkaConfig = None,
    kafka_group: KafkaGroup = None,
    pubsub: PubSub = None,
    pubsub_id_attribute: PubSubId = None,
    pubsub_timestamp_attribute: PubSubTimestamp = None,
    archive: ArchiveTo = None,
    lake: Lake = None,
    devices: Devices = None,
    config: Config = None,
    write_mode: Mode = "merge",
    onto_existing: OntoExisting = False,
    user_key_secret_file: SecretFile = None,
    session_gap: SessionGap = "30m",
    max_session: MaxSession = "4h",
    allowed_lateness: AllowedLateness = "1h",
    early_firing: EarlyFiring = "5m",
    session_engine: SessionEngine = "columnar",
    runner: Runner = "direct",
    shards: Shards = "16",
    flink_master: FlinkMaster = None,
    checkpoints: Checkpoints = None,
    checkpoint_interval: CheckpointInterval = "2s",
    resume: Resume = None,
    parallelism: Parallelism = "2",
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
    endless = bool(pubsub) or (bool(kafka) and until is None)
    _require_one_input(problems, input, kafka, topic, pubsub, archive)
    if endless:
        problems.require(runner != "direct", "--runner: direct ends; follow a topic with flink, or say --until now")
        problems.require(write_mode == "merge", "--write-mode: a topic that is followed is merged")
    problems.require(not pubsub or runner == "dataflow", "--pubsub is read on Dataflow: --runner dataflow")
    first = problems.attempt("--from", lambda: parse_start(start))
    last = problems.attempt("--until", lambda: parse_until(until) if until else None)
    disorder = problems.attempt("--max-disorder", lambda: parse_duration(max_disorder))
    idle = problems.attempt("--idle-timeout", lambda: parse_duration(idle_timeout))
    interval = problems.attempt("--checkpoint-interval", lambda: parse_duration(checkpoint_interval))
    subtasks = problems.attempt("--parallelism", lambda: parse_count(parallelism))
    problems.require(resume != "latest" or bool(checkpoints), "--resume: latest needs --checkpoints")
    # What is wrong with the options themselves is said without waiting for Beam to load
    problems.raise_any()

    from pipelines.run import check_stores, submit
    from pipelines.run import run as start_job
    from pipelines.watch import watch
    from runners.beam_options import parse_beam_options

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
    elif pubsub:
        from transforms.read_pubsub import ReadPubSub

        source = problems.attempt(
            "--pubsub",
            lambda: ReadPubSub(
                pubsub, id_attribute=pubsub_id_attribute, timestamp_attribute=pubsub_timestamp_attribute
            ),
        )
    else:
        from transforms.read_files import ReadFiles, list_files

        files = problems.attempt("--input", lambda: list_files(known(input))) or {}
        source, input_bytes = ReadFiles(files, began), sum(files.values())
    open_runner = _direct
    if runner == "flink":
        open_runner = partial(_flink, flink_master, known(subtasks), checkpoints, known(interval), resume, endless)
    elif runner == "dataflow":
        from runners.dataflow.check import store_problems

        problems.found += store_problems(options.lake, options.devices, archive)
        open_runner = _dataflow
    opened = problems.attempt("", open_runner)
    for check in check_stores(options, endless):
        problems.attempt("", check)
    problems.raise_any()
    if secret.is_default:
        print_warning(
            "user_key uses the development secret, which anyone knows; "
            f"set {USER_KEY_VARIABLE} or --user-key-secret-file"
        )
    if runner == "dataflow":
        job = submit(options, source, known(beam_options), known(opened))
        OUT.print_json(json.dumps({"job": job})) if as_json else OUT.print(f"submitted as job {job}")
        return
    with watch(input_bytes, ERR, enabled=not as_json):
        report = start_job(options, source, known(beam_options), known(opened), follow=_view(endless and not as_json))
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
    problems: Problems,
    input: list[str] | None,
    kafka: str | None,
    topic: str | None,
    pubsub: str | None,
    archive: str | None,
) -> None:
    given = [name for name, value in (("--input", input), ("--kafka", kafka), ("--pubsub", pubsub)) if value]
    problems.require(bool(given), "--input: name at least one file, folder or glob; or follow --kafka or --pubsub")
    problems.require(len(given) < 2, f"give one input, not {' and '.join(given)}")
    problems.require(bool(kafka) == bool(topic), "--kafka and --topic go together")
    problems.require(not (input and archive), "--archive is for a bus; files are their own archive")


def _view(enabled: bool) -> "Follow":
    if not enabled:
        from pipelines.run import unseen

        return unseen
    from pipelines.live_view import follow

    return partial(follow, console=ERR)


def _direct() -> "OpenRunner":
    from runners.direct import direct_runner

    return direct_runner


def _dataflow() -> "OpenRunner":
    from runners.dataflow import dataflow_runner

    return dataflow_runner


def _flink(
    master: str | None,
    parallelism: int,
    checkpoints: str | None,
    interval: int,
    resume: str | None,
    endless: bool,
) -> "OpenRunner":
    from runners.flink import FlinkOptions, flink_runner, newest_checkpoint
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
        bounded=not endless,
    )
    opened: Callable[..., Any] = partial(flink_runner, flink=flink)
    return opened
