"""The command `run`: the main job."""

import json
from datetime import UTC, datetime
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.arguments import AsJson, CatalogueFile, Config, Devices, Lake
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
    Layers,
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
    StateBackend,
    Topic,
    Until,
)
from pipelines.commands.run_runner import RunnerArguments
from pipelines.commands.run_source import SourceArguments
from pipelines.options import (
    LAYERS,
    SESSION_ENGINES,
    WRITE_MODES,
    Problems,
    RunOptions,
    Stores,
    known,
    parse_choice,
    parse_count,
    parse_policy,
)
from pipelines.terminal import ERR, OUT, configure_logging, print_warning
from runners.load_beam import load_beam
from schemas.catalogue import load_catalogue
from schemas.secrets import USER_KEY_VARIABLE, UserKeySecret
from stores.device_store import split_uri

if TYPE_CHECKING:
    from pipelines.report import RunReport
    from pipelines.run import Follow


def run(
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
    layers: Layers = "all",
    catalogue: CatalogueFile = None,
    session_gap: SessionGap = "30m",
    max_session: MaxSession = "4h",
    allowed_lateness: AllowedLateness = "1h",
    early_firing: EarlyFiring = "5m",
    session_engine: SessionEngine = "columnar",
    runner: Runner = "direct",
    shards: Shards = None,
    flink_master: FlinkMaster = None,
    checkpoints: Checkpoints = None,
    checkpoint_interval: CheckpointInterval = "2s",
    state_backend: StateBackend = "hashmap",
    resume: Resume = None,
    parallelism: Parallelism = "1",
    as_json: AsJson = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the runner's log and tracebacks.")] = False,
) -> None:
    """Load raw events into the lake and the device store: replay files, or follow a topic.

    Running the same input again leaves the stores unchanged. For files, only --input, --lake and --devices are needed.
    """
    configure_logging(verbose)
    began = datetime.now(UTC)
    source = SourceArguments(
        input, kafka, topic, start, until, max_disorder, idle_timeout, kafka_config, kafka_group,
        pubsub, pubsub_id_attribute, pubsub_timestamp_attribute, archive,
    )  # fmt: skip
    where = RunnerArguments(runner, flink_master, checkpoints, checkpoint_interval, state_backend, resume, parallelism)
    problems = Problems()
    source.check(problems)
    where.check(problems, source.endless)
    if source.endless:
        problems.require(runner != "direct", "--runner: direct cannot follow a topic; use flink, or give --until now")
        problems.require(write_mode == "merge", "--write-mode: an endless input requires merge")
    problems.require(not pubsub or runner == "dataflow", "--pubsub is read on Dataflow: --runner dataflow")
    policy = parse_policy(problems, session_gap, max_session, allowed_lateness, early_firing)
    shard_count = problems.attempt("--shards", lambda: parse_count(shards)) if shards else None
    for option, value, choices in (
        ("--session-engine", session_engine, SESSION_ENGINES),
        ("--write-mode", write_mode, WRITE_MODES),
        ("--layers", layers, LAYERS),
    ):
        problems.attempt(option, partial(parse_choice, value, choices))
    stores = problems.attempt("", lambda: Stores.find(lake, devices, config, catalogue))
    event_types = problems.attempt("", lambda: load_catalogue(stores.catalogue)) if stores else None
    lake_uri = problems.attempt("--lake", stores.need_lake) if stores else None
    devices_uri = problems.attempt("--devices", stores.need_devices) if stores else None
    if devices_uri:
        problems.attempt("--devices", lambda: split_uri(devices_uri))
    secret = UserKeySecret(user_key_secret_file)
    problems.attempt("--user-key-secret-file", secret.read)
    # Report invalid options without waiting for Beam to load
    problems.raise_any()
    load_beam(google_cloud=runner == "dataflow" or any("://" in pattern for pattern in input or ()))

    from pipelines.run import check_stores, submit
    from pipelines.run import run as start_job
    from pipelines.watch import watch
    from runners.beam_options import parse_beam_options

    live_on_flink = source.endless and runner == "flink"
    opened = source.open(problems, began, (known(lake_uri), split_uri(known(devices_uri))[1]))
    options = RunOptions(
        lake=known(lake_uri),
        devices=known(devices_uri),
        policy=known(policy),
        shards=shard_count
        or where.noted_shards()
        or source.default_shards(opened.input_bytes if opened else None, where.subtasks),
        session_engine=session_engine,
        write_mode=write_mode,
        secret=secret,
        started_at=began,
        archive=archive,
        onto_existing=onto_existing or resume is not None,
        stable_input=live_on_flink,
        two_workers=live_on_flink,
        catalogue=event_types if layers == "all" else None,
    )
    beam_options = problems.attempt("", lambda: parse_beam_options(context.args))
    open_runner = problems.attempt("", lambda: where.open(source.endless, options.shards, layers == "all"))
    if runner == "dataflow":
        from runners.dataflow.check import store_problems

        problems.found += store_problems(options.lake, options.devices, archive)
    for check in check_stores(options, source.endless):
        problems.attempt("", check)
    problems.raise_any()
    if secret.is_default:
        print_warning(
            "user_key uses the development secret, which anyone knows; "
            f"set {USER_KEY_VARIABLE} or --user-key-secret-file"
        )
    events, input_bytes = known(opened)
    if runner == "dataflow":
        job = submit(options, events, known(beam_options), known(open_runner))
        OUT.print_json(json.dumps({"job": job})) if as_json else OUT.print(f"submitted as job {job}")
        return
    where.note(options.shards)
    with watch(input_bytes, ERR, enabled=not as_json):
        view = _view(source.endless and not as_json)
        report = start_job(options, events, known(beam_options), known(open_runner), follow=view)
    _print(report, as_json, options.lake)


def _print(report: "RunReport", as_json: bool, lake: str) -> None:
    if as_json:
        OUT.print_json(json.dumps(report.as_json()))
    else:
        report.show(OUT)
    if report.dead_letters and not report.events_unique:
        query = "SELECT reason, field, message, payload FROM dead_letters"
        print_warning(f'no event was taken; clickstream sql "{query}" --lake {quote(lake)} says why')


def _view(enabled: bool) -> "Follow":
    if not enabled:
        from pipelines.run import unseen

        return unseen
    from pipelines.live_view import follow

    return partial(follow, console=ERR)
