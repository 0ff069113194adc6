"""The command `produce`: send events to a topic."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import AsJson
from pipelines.options import Problems, known, parse_count
from pipelines.terminal import OUT, configure_logging
from runners.load_beam import load_beam
from schemas.errors import OptionError


def produce(
    kafka: Annotated[str, typer.Option(metavar="HOST:PORT", help="Brokers, separated by commas.")],
    topic: Annotated[str, typer.Option(metavar="T", help="The topic; created if it does not exist.")],
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Files of events to send, in the formats that run reads. May be given more than once.",
            show_default=False,
        ),
    ] = None,
    generate: Annotated[
        str | None,
        typer.Option(metavar="N", help="Send N generated events, plus duplicates and broken ones.", show_default=False),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Give generated events the time of sending, minus their generated delay.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Seed of the generated events. By default 1, or the current time with --now.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar="N", help="Events per second. By default as fast as possible.", show_default=False),
    ] = None,
    pace: Annotated[
        str | None,
        typer.Option(metavar="X", help="Send events at X times their original pace.", show_default=False),
    ] = None,
    partitions: Annotated[
        str | None,
        typer.Option(metavar="N", help="Partitions of the topic. By default 4 if it is created.", show_default=False),
    ] = None,
    kafka_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Client properties (TLS, SASL), one key=value per line.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send events to a Kafka topic, keyed by device and in order. Stop with Ctrl-C."""
    configure_logging(False)
    problems = Problems()
    problems.require(bool(input) != bool(generate), "give --input or --generate, one of them")
    problems.require(not (rate and pace), "give --rate or --pace, not both")
    problems.require(not now or bool(generate), "--now goes with --generate")
    problems.require(not (now and pace), "--now and --pace exclude each other: what happens now has its own pace")
    problems.require(seed is None or bool(generate), "--seed goes with --generate")
    events = problems.attempt("--generate", lambda: parse_count(generate) if generate else None)
    per_second = problems.attempt("--rate", lambda: parse_count(rate) if rate else None)
    factor = problems.attempt("--pace", lambda: parse_factor(pace) if pace else None)
    count = problems.attempt("--partitions", lambda: parse_count(partitions) if partitions else None)
    problems.raise_any()
    load_beam(google_cloud=any("://" in pattern for pattern in input or ()))

    from pipelines.produce import at_once, at_pace, at_rate
    from pipelines.produce import produce as send
    from pipelines.produce_traffic import file_payloads, generated_payloads, live_payloads
    from transforms.sources.kafka_client import KafkaCluster

    if input:
        from transforms.sources.read_files import list_files

        batches = file_payloads(known(problems.attempt("--input", lambda: list_files(input)) or {}))
        problems.raise_any()
    elif now:
        batches = live_payloads(known(events), int(time.time()) if seed is None else seed, per_second)
    else:
        batches = generated_payloads(known(events), 1 if seed is None else seed)
    schedule = at_rate(per_second) if per_second else at_pace(factor) if factor else at_once
    summary = send(KafkaCluster(kafka, kafka_config), topic, batches, schedule, count)
    per = summary.events / summary.seconds if summary.seconds else 0.0
    if as_json:
        figures = {
            "topic": summary.topic,
            "partitions": summary.partitions,
            "events": summary.events,
            "bytes": summary.bytes,
            "seconds": round(summary.seconds, 3),
            "events_per_second": round(per),
            "interrupted": summary.interrupted,
        }
        OUT.print_json(json.dumps(figures))
        return
    OUT.print(
        f"{summary.events:,} events ({summary.bytes:,} bytes) to {summary.topic}, {summary.partitions} partitions: "
        f"{summary.seconds:.1f} s, {per:,.0f} events/s{', interrupted' if summary.interrupted else ''}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def parse_factor(text: str) -> float:
    """A factor such as ``60`` or ``60x``.

    Raises:
        OptionError: It is not a number above zero.

    >>> parse_factor("0.5x")
    0.5
    """
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise OptionError(f"{text!r} is not a factor: write it like 1, 60 or 0.5")
    return factor
