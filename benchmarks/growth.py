"""Measure time and memory of each step that the live job repeats, by the number of events of the date.

    python benchmarks/growth.py    # writes growth.md; about five minutes, and 3 GB below --work

The script generates one day of traffic, and lakes with its first part, its first half and nearly all of it. To each
lake it delivers the next 20,000 events and the changes that follow from them. At a steady rate, this is what a commit
finds early and late in a day.
"""

import argparse
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.transaction import Transaction

from schemas.catalogue import shipped_catalogue
from schemas.columns import to_polars
from schemas.dimensions import DEVICE, EVENT_COLUMNS
from schemas.durations import HOUR
from schemas.events import EVENT, FACT_EVENT, RAW
from schemas.records import Record
from schemas.sessions import FACT_SESSION, SESSION, SESSION_PANE
from stores.lake import read_table, table_uri
from stores.lake_commit import PartitionWrite, WriteMode, commit
from stores.lake_files import Place, split_by_partition, write_files
from stores.lake_lookup import StoredRows
from stores.lake_stream import Changes, Numbered, commit_numbered
from transforms.activities.daily_metrics import MetricRules
from transforms.activities.refresh_daily_metrics import refresh_daily_metrics
from transforms.events.envelope import EnvelopeDecoder
from transforms.events.pages import PageRules
from transforms.events.write_events import fact_events
from transforms.identity.devices import device_rows, merge_devices
from transforms.identity.stitching import keep_resolution
from transforms.sessions.panes import SESSION_TIME, fold_into_facts

HERE = Path(__file__).resolve().parent
DAY = date(2026, 5, 12)
EVENTS = (500_000, 2_000_000, 4_000_000)
DELIVERY = 20_000
SESSIONS, NEW_SESSIONS = 5_000, 1_000
"""Sessions that a tick changes, and how many new sessions it adds."""
SESSIONS_A_FILE = 50_000
"""A file of a live job has the sessions of a few hours; each file of a batch run spans the whole day."""


def events_of(delivery: Path) -> pa.Table:
    """The decoded and deduplicated events of the delivery."""
    payload = pa.array(delivery.read_bytes().splitlines(), pa.binary())
    positions = [pa.repeat("file", len(payload)), pa.repeat(pa.scalar(0, pa.int32()), len(payload))]
    columns = [payload, *positions, pa.array(range(len(payload))), pa.nulls(len(payload), RAW.schema.field(4).type)]
    events = EnvelopeDecoder("benchmark").decode(pa.table(columns, schema=RAW.schema), datetime.now(UTC)).events
    keys = to_polars(events.select(list(EVENT.key))).with_row_index("row")
    return events.take(keys.unique(list(EVENT.key), keep="first", maintain_order=True)["row"].to_arrow())


def lay_sessions(lake: str) -> None:
    """Rewrite the sessions into files like those of a live job."""
    sessions = read_table(lake, FACT_SESSION.name).sort_by(SESSION_TIME)
    place = Place(table_uri(lake, FACT_SESSION.name), FACT_SESSION, ())
    writes = []
    for partition, rows in split_by_partition(sessions, FACT_SESSION):
        target = place._replace(partition=partition)
        parts = (rows.slice(start, SESSIONS_A_FILE) for start in range(0, len(rows), SESSIONS_A_FILE))
        writes.append(
            PartitionWrite(partition, tuple(chain.from_iterable(write_files(target, [part]) for part in parts)))
        )
    commit(lake, FACT_SESSION, writes, WriteMode.OVERWRITE, Transaction("layout", 1))


def staged(lake: str, record: Record, changes: Changes, rows: pa.Table) -> list[Numbered]:
    """Write files of changes and describe them, as the live job does for a commit."""
    run = uuid.uuid4().hex
    parts = enumerate(split_by_partition(rows, record), 1)
    return [
        Numbered(
            run,
            number,
            run,
            PartitionWrite(partition, tuple(write_files(changes.place(lake, record, partition), [part]))),
        )
        for number, (partition, part) in parts
    ]


def daily_facts(lake: str, delivery: Path) -> Callable[[], object]:
    """Prepare the refresh of daily_metrics after a commit of events; return the step to measure."""
    rules = MetricRules.of(shipped_catalogue(), PageRules.load())
    refresh_daily_metrics(lake, rules)
    uri = table_uri(lake, FACT_EVENT.name)
    writes = [
        PartitionWrite(partition, tuple(write_files(Place(uri, FACT_EVENT, partition), [rows])))
        for partition, rows in split_by_partition(fact_events(events_of(delivery)), FACT_EVENT)
    ]
    commit(lake, FACT_EVENT, writes, WriteMode.APPEND, Transaction("delivery", 1))
    return lambda: refresh_daily_metrics(lake, rules)


def sessions(lake: str, _: Path) -> Callable[[], object]:
    """Prepare the commit of a tick's panes into fact_sessions: the latest sessions continue, and new ones begin."""
    lay_sessions(lake)
    newest = read_table(lake, FACT_SESSION.name, SESSION.names).sort_by([("session_end", "descending")])
    now = newest["session_end"][0]
    begin = newest.slice(SESSIONS, NEW_SESSIONS)
    ids = pa.array([uuid.uuid4().hex for _ in range(len(begin))])
    rows = pa.concat_tables([newest.slice(0, SESSIONS), begin.set_column(0, begin.schema.field(0), ids)])
    place = rows.schema.get_field_index("event_count")
    rows = rows.set_column(place, rows.schema.field(place), pc.add(rows["event_count"], 1))
    pane_columns = {"is_retraction": pa.repeat(pa.scalar(False), len(rows)), "fired_at": pa.repeat(now, len(rows))}
    for name, values in pane_columns.items():
        rows = rows.append_column(name, values)
    changes = Changes(SESSION_PANE, fold_into_facts, keep_resolution, SESSION_TIME)
    numbered = staged(lake, FACT_SESSION, changes, rows.select(SESSION_PANE.names).cast(SESSION_PANE.schema))
    return lambda: commit_numbered(lake, FACT_SESSION, numbered, changes, onto_existing=True)


def devices(lake: str, delivery: Path) -> Callable[[], object]:
    """Prepare the commit of the delivery's devices into dim_devices."""
    rows = device_rows(events_of(delivery).select(EVENT_COLUMNS))

    def fold(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        return merge_devices(rows), rows.slice(0, 0)

    def into_existing(existing: pa.Table, rows: pa.Table) -> pa.Table:
        return merge_devices(pa.concat_tables([existing, rows]))

    changes = Changes(DEVICE.record, fold, into_existing)
    numbered = staged(lake, DEVICE.record, changes, rows)
    return lambda: commit_numbered(lake, DEVICE.record, numbered, changes, onto_existing=True)


def late_events(lake: str, delivery: Path) -> Callable[[], object]:
    """Prepare the lookup of the delivery's events that are hours late."""
    rows = events_of(delivery)
    times = pc.cast(rows["client_time"], pa.int64())
    late = rows.filter(pc.less(times, pc.subtract(pc.max(times), 2 * HOUR)))
    stored = StoredRows(lake, FACT_EVENT, "client_time")
    return lambda: stored.keys_of(late)


STEPS = {
    "refresh of daily_metrics": daily_facts,
    "commit of fact_sessions": sessions,
    "commit of dim_devices": devices,
    "look-up of late events": late_events,
}


def measure_here(step: str, lake: str, delivery: Path) -> None:
    """Print the CPU seconds of a step, and the memory that it adds at its peak and afterwards, in megabytes."""
    run = STEPS[step](lake, delivery)
    pa.default_memory_pool().release_unused()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, began = _resident("VmRSS"), time.process_time()
    run()
    print(time.process_time() - began, _resident("VmHWM") - before, _resident("VmRSS") - before)


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name))


@contextmanager
def lakes(work: Path) -> Iterator[dict[int, tuple[Path, Path]]]:
    """For each number of events, a lake with the first events and a file with the next ones."""
    shutil.rmtree(work, ignore_errors=True)
    settings = [sys.executable, "-m", "pipelines.cli"]
    most = max(EVENTS) + 10 * DELIVERY
    traffic = ["generate", f"--out={work / 'day'}", f"--events={most}", "--days=1", f"--start={DAY}"]
    subprocess.run([*settings, *traffic], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
    found = {}
    for count in EVENTS:
        folder = work / str(count)
        folder.mkdir()
        lines = chain.from_iterable(path.open("rb") for path in sorted((work / "day").glob("*.jsonl")))
        with open(folder / "history.jsonl", "wb") as out:
            out.writelines(islice(lines, count))
        with open(folder / "delivery.jsonl", "wb") as out:
            out.writelines(islice(lines, DELIVERY))
        stores = [f"--lake={folder / 'lake'}", f"--devices=rocksdb:{folder / 'devices'}"]
        command = [*settings, "run", "--layers=raw", f"--input={folder / 'history.jsonl'}", *stores, "--json"]
        subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
        found[count] = folder / "lake", folder / "delivery.jsonl"
    yield found
    shutil.rmtree(work)


def main() -> None:
    """Measure each step on each lake, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work" / "growth")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--step", nargs=3, metavar=("NAME", "LAKE", "DELIVERY"), help="measure a step in this process")
    given = parser.parse_args()
    if given.step:
        measure_here(given.step[0], given.step[1], Path(given.step[2]))
        return
    table = [
        "# Cost of a step by events of the date",
        "",
        f"Written by `python benchmarks/growth.py`: the cost of each step when {DELIVERY:,} more events come to a date",
        "that has as many events as the column says. CPU seconds; memory added at the peak and afterwards, MB.",
        "",
        f"| step | {' | '.join(f'{count:,}' for count in EVENTS)} |",
        f"|---|{'---|' * len(EVENTS)}",
    ]
    with lakes(given.work) as found:
        for step in STEPS:
            cells = []
            for lake, delivery in found.values():
                copied = given.work / "lake"
                shutil.copytree(lake, copied)
                command = [sys.executable, __file__, "--step", step, str(copied), str(delivery)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seconds, peak, kept = map(float, output.split())
                cells.append(f"{seconds:.2f} s; {peak:.0f}; {kept:.0f}")
                shutil.rmtree(copied)
            table.append(f"| {step} | {' | '.join(cells)} |")
            print(table[-1], flush=True)
    if not given.dry_run:
        (HERE / "growth.md").write_text("\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
