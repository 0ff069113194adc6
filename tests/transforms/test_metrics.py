"""Counters: summed over steps, and each of them documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from runners.beam_options import parse_beam_options
from transforms.metrics import count, read_counters

ROOT = Path(__file__).parents[2]


class _CountNumbers(beam.DoFn):
    """Counts each number under one name, whichever step it is; and under a foreign one."""

    def process(self, element: int) -> Iterator[int]:
        count("numbers", element)
        Metrics.counter("another namespace", "numbers").inc(100)
        yield element


def test_counter_of_several_steps_is_their_sum() -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    numbers = pipeline | beam.Create([0, 1, 2, 3])
    _ = numbers | "First" >> beam.ParDo(_CountNumbers()) | "Second" >> beam.ParDo(_CountNumbers())
    result = pipeline.run()
    result.wait_until_finish()
    assert read_counters(result.metrics()) == {"numbers": 12}


def counted_names() -> set[str]:
    """Every name that the graph counts under; the fixed part of one that is put together."""
    names = set()
    for path in (ROOT / "transforms").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        counts = "from transforms.metrics import" in text or path == ROOT / "transforms" / "metrics.py"
        for node in ast.walk(ast.parse(text)) if counts else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "count":
                name = node.args[0]
                if isinstance(name, ast.JoinedStr):
                    names |= {str(part.value).strip("_") for part in name.values if isinstance(part, ast.Constant)}
                elif isinstance(name, ast.Constant):
                    names.add(str(name.value))
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "counter":
                names.add(str(ast.literal_eval(node.value)))
    return names


def test_every_counter_is_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = counted_names()
    assert {"events_read", "dead", "panes", "device_events_written", "skipped"} <= names
    assert [name for name in sorted(names) if name not in text] == []
