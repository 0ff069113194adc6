"""The main job: loads raw events into the lake and the device store. Batch and live differ only in the source."""

from typing import Any

import apache_beam as beam
from apache_beam.transforms.util import WaitOn

from pipelines.options import RunOptions
from schemas.dead_letters import DEAD_LETTER
from schemas.events import FACT_EVENT
from stores.lake import has_rows
from stores.lake_commit import WriteMode
from transforms.activities.daily_metrics import MetricRules
from transforms.activities.write_daily_metrics import WriteDailyMetrics
from transforms.activities.write_layers import WriteLayers
from transforms.events.decode import Decode
from transforms.events.deduplicate import Deduplicate
from transforms.events.pages import PageRules
from transforms.events.unique_dead_letters import UniqueDeadLetters
from transforms.events.write_events import WriteEvents
from transforms.identity.write_dimensions import WriteDimensions
from transforms.sessions.beam_sessions import BeamSessions
from transforms.sessions.revise_sessions import ReviseTouched
from transforms.sessions.sessionize import Sessionize
from transforms.sessions.write_sessions import WriteSessions
from transforms.sinks.write_device_store import WriteDeviceEvents, WriteDeviceSessions
from transforms.sinks.write_lake import WriteLake
from transforms.sources.archive import Archive
from transforms.sources.raw_input import RawInput
from transforms.workers import in_worker


def build(pipeline: beam.Pipeline, source: beam.PTransform, options: RunOptions) -> None:
    """Compose the graph of docs/design.md on a pipeline; `source` produces `RawInput`."""
    policy, mode, pages = options.policy, WriteMode(options.write_mode), PageRules.load()
    into_lake: dict[str, Any] = {
        "lake": options.lake,
        "mode": mode,
        "onto_existing": options.onto_existing,
        "stable_input": options.stable_input,
    }
    # Steps before the first shuffle get a worker of their own: a single interpreter lock would leave a core idle
    reading = "reading" if options.two_workers else None
    raw: RawInput = pipeline | "Read" >> in_worker(source, reading)
    if options.archive:
        # Before any step can reject a payload, so that everything can be derived again whatever goes wrong later
        _ = raw.batches | "Archive" >> in_worker(Archive(options.archive), reading)
    decoded = raw.batches | "Decode" >> in_worker(Decode(options.secret, options.started_at), reading)
    # Before anything is counted or stored: a duplicate must neither lengthen a session nor be stored twice
    unique = decoded.events | "Deduplicate" >> Deduplicate(
        options.shards,
        policy.gap,
        policy.allowed_lateness,
        tick=policy.cell,
        lake=options.lake,
        stable_input=options.stable_input,
        keying_worker=reading,
    )
    dead_letters = [raw.dead_letters, decoded.dead_letters]
    if options.catalogue:
        # After Deduplicate, like every step that counts; an event that it rejects stays in fact_events
        layers = unique | "Layers" >> WriteLayers(options.catalogue, options.started_at.date(), **into_lake)
        dead_letters.append(layers.dead_letters)
    all_letters: Any = dead_letters | "AllDeadLetters" >> beam.Flatten()
    # A raw log may hold a record twice
    letters = all_letters | "UniqueDeadLetters" >> UniqueDeadLetters()

    stored = unique | "EventsToLake" >> WriteEvents(**into_lake)
    _ = unique | "EventsToDevices" >> WriteDeviceEvents(options.devices)
    _ = unique | "Dimensions" >> WriteDimensions(options.lake, pages, stable_input=options.stable_input)
    _ = letters | "DeadLettersToLake" >> WriteLake(DEAD_LETTER, **into_lake)
    continues = unique.is_bounded and _may_continue_sessions(options)
    if continues:
        whole_dates = mode is WriteMode.OVERWRITE
        panes = unique | "Sessionize" >> ReviseTouched(stored, options.lake, policy, options.shards, whole_dates)
    elif options.session_engine == "beam":
        panes = unique | "Sessionize" >> BeamSessions(policy)
    else:
        panes = unique | "Sessionize" >> Sessionize(policy, options.shards)
    in_devices = panes | "SessionsToDevices" >> WriteDeviceSessions(
        options.devices, options.shards, options.stable_input
    )
    if continues:
        # The lake is written last: if the run dies, a rerun computes what the lake lacks, and so what the devices lack
        panes, into_lake = panes | "AfterDevices" >> WaitOn(in_devices), into_lake | {"mode": WriteMode.MERGE}
    sessions = panes | "SessionsToLake" >> WriteSessions(**into_lake)
    if options.catalogue:
        rules = MetricRules.of(options.catalogue, pages)
        # From the tables rather than the stream: they include late events, merges and corrections exactly once
        facts = (stored, sessions) | "FactCommits" >> beam.Flatten()
        _ = facts | "DailyMetrics" >> WriteDailyMetrics(options.lake, rules)


def _may_continue_sessions(options: RunOptions) -> bool:
    """Whether sessions may have events from an earlier run; they are then computed from the lake's events."""
    if options.session_engine != "columnar" or options.write_mode == WriteMode.APPEND:
        return False
    return has_rows(options.lake, FACT_EVENT)
