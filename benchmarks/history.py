"""What a small change costs on a long history: `run`, `stitch` and `sessions-dim` of one more delivery of the last day.

    python benchmarks/history.py    # writes history.md; about five minutes, and 3 GB below --work

A lake of 1, of 10 and of 30 days is made, of as many events a day, and brought up to date. Then the same delivery comes
to each: some events of the last day, from devices of their own. What the commands then cost should depend on the
delivery and on the dates that they are asked for, not on the days before.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAST_DAY = date(2026, 5, 12)
DAYS = (1, 10, 30)
DELIVERY = 20_000
"""Events of the delivery whose consequences are measured."""


@dataclass(frozen=True)
class Figures:
    """What a command cost."""

    seconds: float
    cpu_seconds: float


def clickstream(*arguments: object) -> Figures:
    """Run a command to its end, in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments), "--json"]
    process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"clickstream {arguments[0]} failed with {process.returncode}")
    return Figures(time.monotonic() - began, usage.ru_utime + usage.ru_stime)


def measure(days: int, events_a_day: int, work: Path) -> dict[str, Figures]:
    """Make a history of so many days, then take the delivery in; by name what each step cost."""
    shutil.rmtree(work, ignore_errors=True)
    first = LAST_DAY - timedelta(days=days - 1)
    lake, stores = f"--lake={work / 'lake'}", (f"--lake={work / 'lake'}", f"--devices=rocksdb:{work / 'devices'}")
    as_of = f"--as-of={LAST_DAY}"
    traffic = {
        "history": (f"--events={days * events_a_day}", f"--days={days}", f"--start={first}", "--seed=1"),
        "delivery": (f"--events={DELIVERY}", "--days=1", f"--start={LAST_DAY}", "--seed=2"),
    }
    for name, options in traffic.items():
        clickstream("generate", f"--out={work / name}", *options)
    clickstream("run", f"--input={work / 'history'}", *stores)
    found = {
        "stitch, whole": clickstream("stitch", lake),
        "sessions-dim, whole": clickstream("sessions-dim", lake, as_of, "--days=all"),
    }
    clickstream("metrics", lake)  # of files that these two have written anew
    found["run, the delivery"] = clickstream("run", f"--input={work / 'delivery'}", *stores)
    found["stitch"] = clickstream("stitch", lake)
    found["sessions-dim --days 1"] = clickstream("sessions-dim", lake, as_of, "--days=1")
    found["stitch, again"] = clickstream("stitch", lake)
    found["sessions-dim --days 1, again"] = clickstream("sessions-dim", lake, as_of, "--days=1")
    shutil.rmtree(work)
    return found


def main() -> None:
    """Measure each length of history and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events-a-day", type=int, default=5_000_000 // max(DAYS))
    parser.add_argument("--work", type=Path, default=HERE / "work" / "history")
    options = parser.parse_args()
    found = {days: measure(days, options.events_a_day, options.work) for days in DAYS}
    lines = [
        "# Cost of a change by length of history",
        "",
        f"Made by `python benchmarks/history.py`: {options.events_a_day:,} events a day; the delivery has {DELIVERY:,}",
        "of the last day. CPU seconds (wall seconds) of each command, its start of about a second among them.",
        "",
        f"| command | {' | '.join(f'{days} d' for days in DAYS)} |",
        f"|---|{'--:|' * len(DAYS)}",
    ]
    for name in found[DAYS[0]]:
        figures = (found[days][name] for days in DAYS)
        lines.append(f"| {name} | {' | '.join(f'{f.cpu_seconds:.1f} ({f.seconds:.1f})' for f in figures)} |")
    (HERE / "history.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print((HERE / "history.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
