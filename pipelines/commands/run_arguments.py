"""The options of `run`: what a user can say of its input, stores, sessions and runner."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.secrets import USER_KEY_VARIABLE

_BUS, _STORES, _SESSIONS, _RUNNER = "Event bus", "Stores", "Sessions", "Runner"

Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Files of events: JSON lines (plain, gzip, zstd) or Avro raw logs; a folder means all files below it, "
        "but for names that begin with _ or a dot. May be given more than once.",
        show_default=False,
    ),
]
Kafka = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Brokers, with commas between; else --input is read.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
Topic = Annotated[
    str | None,
    typer.Option(metavar="T", help="The topic to follow; only with --kafka.", show_default=False, rich_help_panel=_BUS),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="WHERE",
        help="Where a fresh run starts: earliest, latest, or the time of arrival to start at.",
        rich_help_panel=_BUS,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Replay the topic up to here and end: now, a time of arrival, or offsets as 0:1200,1:1150. "
        "Else follow it for ever.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
MaxDisorder = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How much older than its partition's newest event an event may be and not be late.",
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
        help="Client properties (TLS, SASL), key=value a line; read on the workers. Else plain text.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
KafkaGroup = Annotated[
    str | None,
    typer.Option(
        metavar="GROUP",
        help="Consumer group whose offsets show the lag; the run does not depend on it. Else none.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
PubSub = Annotated[
    str | None,
    typer.Option(
        metavar="SUBSCRIPTION",
        help="Pub/Sub subscription projects/P/subscriptions/S, with --runner dataflow; else --input is read.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
PubSubId = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Attribute of a message with its event's id, by which Pub/Sub drops repeats. Else none.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
PubSubTimestamp = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Attribute with the event's time, which the watermark follows. Else the time of publishing.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
ArchiveTo = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Keep the raw payloads here, as Avro files by hour of arrival that --input replays. Else nowhere.",
        show_default=False,
        rich_help_panel=_BUS,
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="merge: rows that are there already stay single; overwrite: replaces the dates touched; "
        "append: blindly. An endless input is merged.",
        rich_help_panel=_STORES,
    ),
]
OntoExisting = Annotated[
    bool,
    typer.Option(
        "--onto-existing",
        help="Let a fresh start on an endless input add to a lake that has rows of another run. "
        "Events that both have read are then there twice.",
        rich_help_panel=_STORES,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="LAYERS",
        help="all: beside the facts the silver tables, the activity stream and the daily facts; raw: none of these.",
        rich_help_panel=_STORES,
    ),
]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"Holds the secret of user_key's hash. Else {USER_KEY_VARIABLE}.",
        show_default=False,
        rich_help_panel=_STORES,
    ),
]
SessionGap = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="Silence that ends a session; exactly this much does not.",
        rich_help_panel=_SESSIONS,
    ),
]
MaxSession = Annotated[
    str,
    typer.Option(metavar="DURATION", help="Age at which a session is cut in two; or off.", rich_help_panel=_SESSIONS),
]
AllowedLateness = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How late an event may still change its session; off for not at all.",
        rich_help_panel=_SESSIONS,
    ),
]
EarlyFiring = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="Event-time interval of early panes of open sessions; or off.",
        rich_help_panel=_SESSIONS,
    ),
]
SessionEngine = Annotated[
    str,
    typer.Option(
        metavar="ENGINE",
        help="columnar, or beam: Beam's own session windows, slow, for reference.",
        rich_help_panel=_SESSIONS,
    ),
]
Runner = Annotated[
    str,
    typer.Option(
        metavar="RUNNER",
        help="Where it runs: direct, in this process, for an input that ends; flink; or dataflow.",
        rich_help_panel=_RUNNER,
    ),
]
Shards = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Keys that devices are spread over; bounds the parallelism, and stays the same on --resume. "
        "By default 16, more of files beyond 512 MiB; of a topic that is followed on Flink 1, or 4 a subtask.",
        rich_help_panel=_RUNNER,
    ),
]
FlinkMaster = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="A Flink cluster's REST address; else a cluster is started within the run.",
        show_default=False,
        rich_help_panel=_RUNNER,
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Where Flink's checkpoints stay, so that another run can resume from them. Else they go with the run.",
        show_default=False,
        rich_help_panel=_RUNNER,
    ),
]
CheckpointInterval = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="Time between Flink's checkpoints; the lake shows what they hold.",
        rich_help_panel=_RUNNER,
    ),
]
StateBackend = Annotated[
    str,
    typer.Option(
        metavar="BACKEND",
        help="Where Flink keeps state: hashmap, on the heap, each checkpoint all of it; or rocksdb, on disk, each what "
        "has changed. Stays the same on --resume.",
        rich_help_panel=_RUNNER,
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Checkpoint or savepoint of Flink to go on from; latest: the newest below --checkpoints. Else fresh.",
        show_default=False,
        rich_help_panel=_RUNNER,
    ),
]
Parallelism = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Subtasks of each step on Flink, for a cluster of several machines, at most 16 or the number of shards. "
        "One machine does not gain by them.",
        rich_help_panel=_RUNNER,
    ),
]
