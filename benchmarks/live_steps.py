"""Measure the processor time per event of each Python step of the live job, without Beam, Flink and a broker.

python benchmarks/live_steps.py
"""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.produce_traffic import live_payloads
from schemas.catalogue import shipped_catalogue
from schemas.dimensions import EVENT_COLUMNS
from schemas.durations import HOUR, MILLISECOND, MINUTE
from schemas.events import EVENT, RAW
from schemas.records import TIMESTAMP
from schemas.silver import silver_records
from schemas.user_stream import USER_STREAM
from stores.device_store import open_device_store
from stores.held_tables import delete_held, read_held, write_held
from stores.lake_files import Place, split_by_partition, write_files
from stores.raw_log_buffer import RawLogBuffer
from transforms.activities.typed_events import EventTyper
from transforms.activities.typed_files import GATHERED_ROWS
from transforms.events.envelope import EnvelopeDecoder
from transforms.events.seen_events import Seen, drop_seen
from transforms.identity.devices import device_rows
from transforms.identity.dimensions import deciding_events
from transforms.sessions.cells import cells_of
from transforms.sessions.policy import SessionPolicy
from transforms.sources.kafka_times import event_times
from transforms.tables import ShardedTable, TableCoder, split_by_shard

EVENTS, BUNDLE, RATE, SHARDS = 300_000, 20_000, 50_000, 1
STARTED = 1_775_952_000.0


def bundles() -> Iterator[pa.Table]:
    """Generated traffic as tables of RAW rows, one table per bundle."""
    sent = 0
    traffic = live_payloads(EVENTS, seed=1, rate=RATE, clock=lambda: STARTED + sent / RATE)
    held: list[pa.Array] = []
    for payloads in traffic:
        held.append(payloads)
        if sum(map(len, held)) >= BUNDLE:
            payload = pa.concat_arrays(held)
            offsets = np.arange(sent, sent + len(payload))
            arrival = np.full(len(payload), int((STARTED + sent / RATE) * 1000) * MILLISECOND)
            columns = [payload, pa.repeat("clicks", len(payload)), pa.array((offsets % 4).astype(np.int32))]
            yield pa.Table.from_arrays(
                [*columns, pa.array(offsets), pa.array(arrival).cast(TIMESTAMP)], schema=RAW.schema
            )
            sent, held = sent + len(payload), []


def measure_steps() -> dict[str, float]:  # noqa: PLR0915  (the steps of the job, one after another)
    """Processor time per event of each step over all threads, microseconds."""
    folder = Path(tempfile.mkdtemp(prefix="bench-steps-"))
    policy, coder, spent, events_read = SessionPolicy(early_firing=5 * MINUTE), TableCoder(), Counter[str](), 0

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[name] += time.process_time() - began

    def through_runner(tables: list[ShardedTable]) -> list[ShardedTable]:
        return [(shard, coder.decode(coder.encode(table))) for shard, table in tables]

    decoder, raw_log = EnvelopeDecoder("benchmark"), RawLogBuffer(str(folder / "raw"))
    seen: dict[int, dict[int, Seen]] = {shard: {} for shard in range(SHARDS)}
    typer, waiting = EventTyper(shipped_catalogue()), list[pa.Table]()
    layers = {record.name: record for record in (USER_STREAM, *silver_records(shipped_catalogue()))}
    try:
        with open_device_store(f"rocksdb:{folder / 'devices'}") as devices:
            for raw in bundles():
                events_read += len(raw)
                with step("read: table and event times"):
                    pa.array(raw["payload"].to_pylist(), pa.binary())
                    event_times(raw["payload"].combine_chunks())
                with step("raw log"):
                    raw_log.add(raw)
                    raw_log.write()
                with step("decode"):
                    events = decoder.decode(raw, datetime.now(UTC)).events
                with step("split by shard"):
                    sharded = list(split_by_shard(events, SHARDS))
                with step("events through the runner: encode, decode"):
                    sharded = through_runner(sharded)
                with step("deduplicate"):
                    passed = []
                    for shard, table in sharded:
                        unique, fresh = drop_seen(table, seen[shard], HOUR)
                        for part in fresh:
                            seen[shard].setdefault(part.bucket, Seen()).add(part.digests)
                        passed.append(unique)
                    unique = pa.concat_tables(passed)
                with step("lake: files of fact_events"):
                    for partition, rows in split_by_partition(unique.select(EVENT.names), EVENT):
                        write_files(Place(str(folder / "lake"), EVENT, partition), [rows])
                with step("device store"):
                    devices.write_events(unique)
                    devices.flush()
                with step("cells of sessions"):
                    through_runner(list(split_by_shard(cells_of(unique, policy), SHARDS)))
                with step("dimensions: what decides"):
                    deciding = deciding_events(
                        unique.select(EVENT_COLUMNS),
                        ("device_id", "user_key", "country", "device_type", "os", "app_version"),
                        ("page_url",),
                    )
                with step("dimensions: devices"):
                    device_rows(deciding)
                with step("layers: hold back, read"):
                    name = write_held(str(folder / "held"), [unique])
                    waiting.append(read_held(str(folder / "held"), name))
                    delete_held(str(folder / "held"), [name])
                if len(waiting) * BUNDLE >= GATHERED_ROWS:
                    with step("layers: type"):
                        typed = typer.type_events(pa.concat_tables(waiting), datetime.now(UTC).date())
                        waiting.clear()
                    with step("layers: files"):
                        for name, rows in (*typed.silver.items(), (USER_STREAM.name, typed.stream)):
                            for partition, part in split_by_partition(rows, layers[name]):
                                write_files(Place(str(folder / name), layers[name], partition), [part])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {name: round(seconds / events_read * 1e6, 2) for name, seconds in spent.items()}


if __name__ == "__main__":
    for name, us in measure_steps().items():
        print(f"{us:6.2f} µs  {name}")
    print(f"load {os.getloadavg()[0]:.1f}")
