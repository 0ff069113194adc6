"""Measure the cost of a small change to a long history: `run`, `stitch` and `sessions-dim` after one more delivery.

    python benchmarks/history.py    # writes history.md; about five minutes, and 3 GB below --work

The script creates lakes of 1, 10 and 30 days with the same number of events per day, and brings them up to date. Then
each lake receives the same delivery: some events of the last day, from other devices. The cost of the commands should
depend on the delivery and on the requested dates, not on the number of earlier days.
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
"""Events of the delivery."""


@dataclass(frozen=True)
class Figures:
    """Wall time and CPU time of a command."""

    seconds: float
    cpu_seconds: float


def clickstream(*arguments: object) -> Figures:
    """Run a command to its end in a separate process."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments), "--json"]
    process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"clickstream {arguments[0]} failed with {process.returncode}")
    return Figures(time.monotonic() - began, usage.ru_utime + usage.ru_stime)


def measure(days: int, events_a_day: int, work: Path) -> dict[str, Figures]:
    """Create a history of `days` days, then load the delivery; return the cost of each command by name."""
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
    clickstream("metrics", lake)  # the two commands rewrote files, which would make the next run refresh these dates
    found["run, the delivery"] = clickstream("run", f"--input={work / 'delivery'}", *stores)
    found["stitch"] = clickstream("stitch", lake)
    found["sessions-dim --days 1"] = clickstream("sessions-dim", lake, as_of, "--days=1")
    found["stitch, again"] = clickstream("stitch", lake)
    found["sessions-dim --days 1, again"] = clickstream("sessions-dim", lake, as_of, "--days=1")
    shutil.rmtree(work)
    return found


def main() -> None:
    """Measure each length of history, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events-a-day", type=int, default=5_000_000 // max(DAYS))
    parser.add_argument("--work", type=Path, default=HERE / "work" / "history")
    options = parser.parse_args()
    found = {days: measure(days, options.events_a_day, options.work) for days in DAYS}
    lines = [
        "# Cost of a change by length of history",
        "",
        f"Made by `python benchmarks/history.py`: {options.events_a_day:,} events a day; the delivery has {DELIVERY:,}",
        "events of the last day. CPU seconds (wall seconds) of each command, including about a second of start-up.",
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
