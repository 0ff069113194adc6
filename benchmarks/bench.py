"""Compare the product with plain Beam and with a DuckDB script: whole processes that take turns.

    python benchmarks/bench.py                       # what `make bench` runs; writes results.json, .md and .png
    python benchmarks/bench.py --only duckdb --events 1000000 --repeats 1    # a trial; writes nothing

This process stays small, because the kernel includes the parent's memory in the peak memory of a child process.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
MILLION = 1_000_000
NAMES = {"product": "clickstream run", "duckdb": "DuckDB script", "plain_beam": "plain Beam"}
LARGEST = {"product": None, "duckdb": None, "plain_beam": MILLION}
"""Largest input of each program, in events: plain Beam needs minutes and gigabytes per million events."""
ONCE = frozenset({"plain_beam"})
"""Programs that run only once: a program that is a dozen times slower needs no median."""
PACKAGES = ("apache-beam", "duckdb", "polars", "pyarrow", "deltalake", "rocksdict")


@dataclass
class Trial:
    """One run of one program.

    Attributes:
        program: Key of `NAMES`.
        events: Unique events in the input.
        seconds: Wall time of the process, start-up included.
        cpu_seconds: User and system time.
        peak_mb: Largest resident set, in 10**6 bytes.
        sessions: Sessions in its output.
        load: Load average of the machine just before the run; above 0.5 something else was running.
    """

    program: str
    events: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    sessions: int
    load: float


@dataclass(frozen=True)
class Target:
    """A performance target, the measured figure, and whether the target was reached."""

    text: str
    figure: str
    reached: bool


def command(program: str, source: Path, target: Path, *options: str) -> list[str]:
    """The command line of a program that reads *.jsonl in `source` and writes below `target`."""
    if program == "product":
        stores = ["--lake", str(target / "lake"), "--devices", f"rocksdb:{target / 'devices'}"]
        # The script writes no typed tables either
        run = [sys.executable, "-m", "pipelines.cli", "run", "--layers=raw"]
        return [*run, "--input", f"{source}/*.jsonl", *stores, *options]
    script = {"duckdb": "duckdb_script.py", "plain_beam": "plain_beam.py"}[program]
    return [sys.executable, str(HERE / script), str(source), str(target / "out"), *options]


SESSIONS = {
    "product": "lake/fact_sessions",
    "duckdb": "out/sessions/*/*.parquet",
    "plain_beam": "out/sessions*.parquet",
    "truth": "_truth/sessions.parquet",
}
"""Path of the sessions in the output of each program, and of the true sessions next to the input."""


def count_sessions(kind: str, folder: Path) -> int:
    """Number of sessions in a program's output, or in the truth next to the input; counted in a separate process."""
    path = str(folder / SESSIONS[kind])
    if kind == "product":
        code = f"import deltalake; print(deltalake.DeltaTable({path!r}).count())"
    else:
        query = f"SELECT count(*) FROM '{path}'"
        code = f"import duckdb; print(duckdb.connect().execute({query!r}).fetchone()[0])"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def run_trial(program: str, events: int, source: Path, work: Path, *options: str) -> Trial:
    """Run a program once with an empty output folder, and measure its process."""
    target = work / "out"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    load = os.getloadavg()[0]
    log = work / f"{program}.log"
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(command(program, source, target, *options), cwd=ROOT, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{NAMES[program]} failed with {process.returncode}:\n{log.read_text()[-2000:]}")
    trial = Trial(
        program=program,
        events=events,
        seconds=round(seconds, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_mb=round(usage.ru_maxrss * 1024 / 1e6),
        sessions=count_sessions(program, target),
        load=round(load, 1),
    )
    shutil.rmtree(target)
    return trial


def input_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder with an input that `make` creates; reuses the input of an earlier run."""
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
        (folder / "done").touch()
    return folder


def generated(events: int, work: Path) -> Path:
    """The input of the generator."""

    def generate(folder: Path) -> None:
        generator = [sys.executable, "-m", "pipelines.cli", "generate", "--events", str(events), "--out", str(folder)]
        subprocess.run(generator, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    return input_folder(work / f"events-{events}", generate)


def medians(trials: list[Trial]) -> list[Trial]:
    """One trial per program and size, with the median of each figure."""
    found = []
    for program, events in sorted(
        {(t.program, t.events) for t in trials}, key=lambda k: (k[1], list(NAMES).index(k[0]))
    ):
        same = [t for t in trials if (t.program, t.events) == (program, events)]

        def middle(figure: Callable[[Trial], float], same: list[Trial] = same) -> float:
            return round(statistics.median(figure(t) for t in same), 2)

        found.append(
            Trial(
                program=program,
                events=events,
                seconds=middle(lambda t: t.seconds),
                cpu_seconds=middle(lambda t: t.cpu_seconds),
                peak_mb=middle(lambda t: t.peak_mb),
                sessions=same[0].sessions,
                load=max(t.load for t in same),
            )
        )
    return found


def judge(rows: list[Trial]) -> list[Target]:
    """Compare the medians with the targets. Targets that need a missing trial are left out."""
    by = {(row.program, row.events): row for row in rows}
    targets = []
    for (program, events), row in by.items():
        product = by.get(("product", events))
        if product is None or program == "product":
            continue
        ratio = row.seconds / product.seconds
        size = f"{events / MILLION:g}M events"
        if program == "plain_beam":
            targets.append(
                Target(f"at least 10 times as fast as plain Beam, {size}", f"{ratio:.1f} times", ratio >= 10)
            )
        else:
            targets.append(
                Target(f"no slower than the DuckDB script, {size}", f"{ratio:.2f} times as fast", ratio >= 1)
            )
    small, large = by.get(("product", MILLION)), by.get(("product", 5 * MILLION))
    if large:
        targets.append(Target("under 1 GB at 5M events", f"{large.peak_mb:.0f} MB", large.peak_mb < 1000))
    if small and large:
        growth = large.peak_mb / small.peak_mb - 1
        targets.append(Target("at most 10% more memory at 5M than at 1M events", f"{growth:+.0%}", growth <= 0.10))
    return targets


def machine() -> str:
    """One line that describes the machine and the package versions."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{len(os.sched_getaffinity(0))} cores ({model}), Python {platform.python_version()}, {packages}"


def markdown(rows: list[Trial], targets: list[Target], line: str, repeats: int) -> str:
    """The results as a Markdown page."""
    by = {(row.program, row.events): row for row in rows}
    table = [
        "| program | events | seconds | events/s | CPU s | peak MB | time, product = 1 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        product = by[("product", row.events)]
        table.append(
            f"| {NAMES[row.program]} | {row.events:,} | {row.seconds:.1f} | {row.events / row.seconds:,.0f} "
            f"| {row.cpu_seconds:.1f} | {row.peak_mb:,.0f} | {row.seconds / product.seconds:.2f} |"
        )
    verdicts = [f"- {'reached' if t.reached else '**missed**'}: {t.text} ({t.figure})" for t in targets]
    load = max(row.load for row in rows)
    return "\n".join(
        [
            "# Results",
            "",
            "Written by `make bench`; [README.md](README.md) explains how to read it.",
            "",
            f"{line}. Median of {repeats} alternating runs, one run of plain Beam; largest load before a run {load:g}.",
            "",
            *table,
            "",
            "All programs found as many sessions as the generator created: "
            + ", ".join(f"{by['product', n].sessions:,} at {n:,} events" for n in sorted({r.events for r in rows}))
            + ".",
            "",
            "![Seconds and peak memory of each program](results.png)",
            "",
            *verdicts,
            "",
        ]
    )


def draw(rows: list[Trial], path: Path) -> None:
    """Draw a bar chart of time and memory."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"product": "#0b6e4f", "duckdb": "#c9a227", "plain_beam": "#9a9a9a"}
    figure, panels = plt.subplots(1, 2, figsize=(11, 0.55 * len(rows) + 1.6), layout="constrained", sharey=True)
    labels = [f"{NAMES[row.program]}, {row.events / MILLION:g}M events" for row in rows]
    measures: tuple[tuple[str, Callable[[Trial], float], str], ...] = (
        ("Seconds, start-up included", lambda row: row.seconds, "{:,.1f} s"),
        ("Peak memory, MB", lambda row: row.peak_mb, "{:,.0f} MB"),
    )
    for panel, (title, figure_of, form) in zip(panels, measures, strict=True):
        bars = panel.barh(labels, [figure_of(row) for row in rows], color=[colours[row.program] for row in rows])
        panel.bar_label(bars, [form.format(figure_of(row)) for row in rows], padding=4)
        panel.set_title(title, loc="left", fontsize=11)
        panel.margins(x=0.18)
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.tick_params(length=0)
    panels[0].invert_yaxis()
    figure.suptitle("Less is better", fontsize=9, x=0.995, ha="right")
    figure.savefig(path, dpi=140)


def main() -> None:
    """Measure, check, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(NAMES), help="run only these programs; writes no results")
    parser.add_argument("--events", nargs="+", type=int, default=[MILLION, 5 * MILLION], help="input sizes in events")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder for inputs and outputs")
    options = parser.parse_args()

    trials = []
    for events in options.events:
        source = generated(events, options.work)
        truth = count_sessions("truth", source)
        programs = [p for p in options.only or NAMES if events <= (LARGEST[p] or events)]
        for turn in range(options.repeats):
            for program in programs:
                if turn and program in ONCE:
                    continue
                trial = run_trial(program, events, source, options.work)
                print(
                    f"{NAMES[program]:16s} {events:>10,} events {trial.seconds:7.1f} s  "
                    f"CPU {trial.cpu_seconds:7.1f} s  {trial.peak_mb:6,.0f} MB  load {trial.load}",
                    flush=True,
                )
                if trial.sessions != truth:
                    sys.exit(f"{NAMES[program]} found {trial.sessions} sessions, the generator created {truth}")
                trials.append(trial)

    rows = medians(trials)
    targets = judge(rows)
    for target in targets:
        print(f"{'pass' if target.reached else 'FAIL'}  {target.text}: {target.figure}")
    if options.only:
        return
    line = machine()
    data = {
        "machine": line,
        "command": " ".join(["python benchmarks/bench.py", *sys.argv[1:]]),
        "trials": [asdict(t) for t in trials],
        "medians": [asdict(t) for t in rows],
        "targets": [asdict(t) for t in targets],
    }
    (HERE / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    (HERE / "results.md").write_text(markdown(rows, targets, line, options.repeats))
    draw(rows, HERE / "results.png")


if __name__ == "__main__":
    main()
