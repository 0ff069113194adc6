"""The options of `run`, for its input, stores, sessions and runner."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.secrets import USER_KEY_VARIABLE

_BUS, _STORES, _SESSIONS, _RUNNER = "Event bus", "Stores", "Sessions", "Runner"

Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Files of events: JSON lines (plain, gzip, zstd) or Avro raw logs. A folder means all files below it, "
        "except names that begin with _ or a dot. May be given more than once.",
        show_default=False,
    ),
]
Kafka = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Brokers, separated by commas. By default --input is read instead.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
Topic = Annotated[
    str | None,
    typer.Option(metavar="T", help="Topic to read; only with --kafka.", show_default=False, rich_help_panel=_BUS),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="WHERE",
        help="Where a fresh run starts: earliest, latest, or an arrival time.",
        rich_help_panel=_BUS,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Replay the topic up to here and end: now, an arrival time, or offsets such as 0:1200,1:1150. "
        "By default the topic is followed without end.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
MaxDisorder = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How much older than its partition's newest event an event may be without being late.",
        rich_help_panel=_BUS,
    ),
]
IdleTimeout = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="Silence after which a partition no longer holds the watermark back.",
        rich_help_panel=_BUS,
    ),
]
KafkaConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Client properties (TLS, SASL), one key=value per line; read on the workers. "
        "By default connections are plain text.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
KafkaGroup = Annotated[
    str | None,
    typer.Option(
        metavar="GROUP",
        help="Consumer group to commit offsets to, for lag monitoring only. By default none.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
PubSub = Annotated[
    str | None,
    typer.Option(
        metavar="SUBSCRIPTION",
        help="Pub/Sub subscription projects/P/subscriptions/S; requires --runner dataflow. "
        "By default --input is read instead.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
PubSubId = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Message attribute with the event id, by which Pub/Sub drops duplicates. By default none.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
PubSubTimestamp = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Message attribute with the event time, which drives the watermark. By default the publish time.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
ArchiveTo = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Archive the raw payloads here, as Avro files by hour of arrival that --input can replay. "
        "By default they are not archived.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="merge: keep one row per key, even if an input is read again; overwrite: replace the dates touched; "
        "append: add rows without checking for duplicates. An endless input requires merge.",
        rich_help_panel=_STORES,
    ),
]
OntoExisting = Annotated[
    bool,
    typer.Option(
        "--onto-existing",
        help="Let a fresh run on an endless input add to a lake that has rows of another run. "
        "Events that both runs read are then stored twice.",
        rich_help_panel=_STORES,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="LAYERS",
        help="all: besides the facts, also the silver tables, the activity stream and the daily facts; "
        "raw: none of these.",
        rich_help_panel=_STORES,
    ),
]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"File with the secret of the user_key hash. By default {USER_KEY_VARIABLE}.",
        show_default=False,
        rich_help_panel=_STORES,
    ),
]
SessionGap = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="A session ends after more than this much inactivity.",
        rich_help_panel=_SESSIONS,
    ),
]
MaxSession = Annotated[
    str,
    typer.Option(metavar="DURATION", help="Age at which a session is cut; or off.", rich_help_panel=_SESSIONS),
]
AllowedLateness = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How late an event may be and still change its session; off: late events never do.",
        rich_help_panel=_SESSIONS,
    ),
]
EarlyFiring = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="Event-time interval between early panes of open sessions; or off.",
        rich_help_panel=_SESSIONS,
    ),
]
SessionEngine = Annotated[
    str,
    typer.Option(
        metavar="ENGINE",
        help="columnar, or beam: Beam's own session windows, a slow reference engine.",
        rich_help_panel=_SESSIONS,
    ),
]
Runner = Annotated[
    str,
    typer.Option(
        metavar="RUNNER",
        help="direct (in this process, for an input that ends), flink or dataflow.",
        rich_help_panel=_RUNNER,
    ),
]
Shards = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Keys over which devices are spread; bounds the parallelism and must not change on --resume. By default "
        "16, more for files beyond 512 MiB; for a topic followed on Flink 1, or 4 per subtask if there are several.",
        rich_help_panel=_RUNNER,
    ),
]
FlinkMaster = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="REST address of a Flink cluster. By default the run starts a cluster of its own.",
        show_default=False,
        rich_help_panel=_RUNNER,
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Where to keep Flink's checkpoints, so that another run can resume from them. "
        "By default they are deleted with the run.",
        show_default=False,
        rich_help_panel=_RUNNER,
    ),
]
CheckpointInterval = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="Time between Flink's checkpoints; rows become visible in the lake at a checkpoint.",
        rich_help_panel=_RUNNER,
    ),
]
StateBackend = Annotated[
    str,
    typer.Option(
        metavar="BACKEND",
        help="Where Flink keeps state: hashmap (on the heap, full checkpoints) or rocksdb (on disk, incremental "
        "checkpoints). Must not change on --resume.",
        rich_help_panel=_RUNNER,
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Flink checkpoint or savepoint to resume from; latest: the newest below --checkpoints. "
        "By default the run starts fresh.",
        show_default=False,
        rich_help_panel=_RUNNER,
    ),
]
Parallelism = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Subtasks of each step on Flink: at most 16, or the number of shards if that is more. "
        "For a cluster of several machines; one machine does not gain from it.",
        rich_help_panel=_RUNNER,
    ),
]
