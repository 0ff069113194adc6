"""Compare the product with the DuckDB script on inputs whose distribution is not that of a shop.

    python benchmarks/shapes.py                                # all shapes, some six minutes; writes shapes.md
    python benchmarks/shapes.py --only bot --events 100000     # a trial; writes nothing

The inputs stay in benchmarks/work for the next run.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from bench import HERE, NAMES, Trial, input_folder, machine, run_trial

START = datetime(2025, 6, 1, tzinfo=UTC)
WORDS = [f"{word:08x}" for word in random.Random(1).sample(range(1 << 32), 5_000)]

Event = dict[str, Any]
Make = Callable[[random.Random], Event]
"""Makes members of an event from a source of chance."""


class Shape(NamedTuple):
    """A distribution.

    Attributes:
        what: What is unusual, for the report.
        change: Makes what differs from a usual event.
        share: Number of events, as a share of that of the other shapes.
    """

    what: str
    change: Make
    share: float = 1.0


def page(url: str, **more: str) -> Event:
    """The properties of a page view."""
    return {"properties": {"page_url": url, **more}}


def of_user(number: int) -> Event:
    """An event, often a purchase, by a user on one of three devices."""
    return {
        "event_type": ("purchase", "page_view", "add_to_cart")[number % 3],
        "device_id": f"d{number}",
        "user_id": f"u{number // 3}",
        **page("https://shop.example/x", amount=f"{number % 9973 / 100:.2f}", currency="EUR"),
    }


def at(days: float) -> str:
    """The timestamp some days after `START`."""
    return (START + timedelta(days=days)).isoformat(timespec="microseconds").replace("+00:00", "Z")


SHAPES = {
    "devices": Shape("every event is of its own device", lambda chance: {"device_id": f"{chance.getrandbits(128):x}"}),
    "users": Shape("events of 200,000 users", lambda chance: of_user(chance.randrange(600_000))),
    "bot": Shape(
        "one device has half of the events", lambda chance: {"device_id": "bot"} if chance.random() < 0.5 else {}
    ),
    "urls": Shape("every event has its own URL", lambda chance: page(f"/p/{chance.getrandbits(64):x}?utm=x")),
    "types": Shape("2,000 types of events", lambda chance: {"event_type": f"type_{chance.randrange(2_000)}"}),
    "year": Shape("a year, in no order", lambda chance: {"timestamp": at(chance.random() * 365)}, 3.0),
    "wide": Shape("3 kB of properties", lambda chance: page("/", text=" ".join(chance.choices(WORDS, k=330))), 0.5),
}


def events_of(shape: Shape, count: int) -> Iterator[Event]:
    """The events of an input: 8,000 devices in a week, in order of time, as far as the shape does not differ."""
    chance = random.Random(5)
    for number in range(count):
        usual = {
            "event_id": f"e{number}",
            "event_type": "page_view",
            "timestamp": at(number / count * 7),
            "device_id": f"d{chance.randrange(8_000)}",
            **page(f"https://shop.example/p/{chance.randrange(500)}"),
            "context": {
                "device_type": chance.choice(["mobile", "desktop"]),
                "os": "Android",
                "country": chance.choice(["US", "DE", "FR"]),
                "app_version": "5.2.0",
            },
        }
        yield usual | shape.change(chance)


def compare(name: str, events: int, work: Path) -> tuple[Trial, Trial]:
    """Run the product, then the script, on the input of a shape."""
    count = int(events * SHAPES[name].share)

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        with (folder / "events.jsonl").open("w") as out:
            for event in events_of(SHAPES[name], count):
                out.write(json.dumps(event, separators=(",", ":")) + "\n")

    source = input_folder(work / f"shape-{name}-{count}", write)
    # The script does not cut long sessions
    product = run_trial("product", count, source, work, "--max-session=off")
    script = run_trial("duckdb", count, source, work)
    if product.sessions != script.sessions:
        sys.exit(f"{name}: {NAMES['product']} found {product.sessions} sessions, the script {script.sessions}")
    return product, script


def row(name: str, product: Trial, script: Trial) -> str:
    """A line of the report."""
    times = f"{product.seconds:.1f} | {script.seconds:.1f} | {script.seconds / product.seconds:.2f}"
    cpu = f"{script.cpu_seconds / product.cpu_seconds:.2f}"
    return (
        f"| {SHAPES[name].what} | {product.events:,} | {product.sessions:,} | {times} | {cpu} "
        f"| {product.peak_mb:,} | {script.peak_mb:,} |"
    )


def main() -> None:
    """Measure, print a line for each shape, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), help="only these shapes; writes nothing")
    parser.add_argument("--events", type=int, default=500_000, help="events of most shapes")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder for inputs and outputs")
    options = parser.parse_args()
    heads = "input|events|sessions|seconds|of the script|speed, script = 1|… by CPU time|peak MB|of the script"
    lines = [f"| {heads.replace('|', ' | ')} |", "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    print("\n".join(lines))
    for name in options.only or SHAPES:
        lines.append(row(name, *compare(name, options.events, options.work)))
        print(lines[-1], flush=True)
    if not options.only:
        head = f"# Unusual inputs\n\nWritten by `python benchmarks/shapes.py`. {machine()}. One run of each program."
        (HERE / "shapes.md").write_text("\n".join([head, "", *lines, ""]))


if __name__ == "__main__":
    main()
