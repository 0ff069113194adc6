"""Compare the device stores: writing as a live job does, and reading the last hour of a device.

    python benchmarks/device_stores.py    # prints the table of docs/device-stores.md; needs Java, Maven and Go

Servers and client share this machine. Bigtable is Google's emulator, which keeps its tables in memory; Cassandra is one
node with a heap of 384 MB. The figures therefore show the cost of the client and the latency of a read, not the
capacity of a cluster.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from cassandra.cluster import Cluster

from runners.services.bigtable_emulator import BigtableEmulator
from runners.services.cassandra import CassandraService
from schemas.durations import HOUR, SECOND
from schemas.events import EVENT
from stores.device_store import DeviceStore, open_device_store

NOON = 1_775_995_200 * SECOND
DEVICES = 1_000_000
"""Devices of the live traffic. Hardly a device occurs twice in a batch, the worst case for a partitioned store."""
WATCHED = 200
WATCHED_EVENTS = 300
"""Events of each device that is read, over five hours: sixty in each hour."""
BATCH = 20_000
WARM_UP = 3
READS = 1_000


@dataclass(frozen=True)
class Figures:
    """The measurements of one store.

    Attributes:
        store: Its name.
        written: Events written per second.
        client: CPU time of this process per event written, microseconds.
        median: Median latency of a read, milliseconds.
        worst: 99th percentile of the latency of a read, milliseconds.
    """

    store: str
    written: float
    client: float
    median: float
    worst: float

    def __str__(self) -> str:
        return f"| {self.store} | {self.written:,.0f} | {self.client:.1f} | {self.median:.1f} | {self.worst:.1f} |"


def events(times: np.ndarray, devices: np.ndarray, batch: int) -> pa.Table:
    """Page views of some 300 bytes each in the store."""
    count = len(times)
    time_column = pa.array(times, pa.timestamp("us", "UTC"))
    columns = {
        "event_id": pa.array([f"{batch:08x}-{number:08x}-4000-8000-0123456789ab" for number in range(count)]),
        "event_time": time_column,
        "event_date": time_column.cast(pa.timestamp("us")).cast(pa.date32()),
        "client_time": time_column,
        "arrival_time": time_column,
        "device_id": pa.array([f"d_{device:016x}" for device in devices]),
    }
    constant = {
        "event_type": "page_view",
        "page_url": "https://shop.example/products/12345?ref=home",
        "country": "US",
        "device_type": "mobile",
        "os": "iOS",
        "app_version": "5.2.1",
        "properties": '{"page_url":"https://shop.example/products/12345?ref=home","title":"Product 12345"}',
        "context": '{"device_type":"mobile","os":"iOS","country":"US","app_version":"5.2.1"}',
    }
    columns |= {name: pa.repeat(value, count) for name, value in constant.items()}
    return pa.table([columns.get(f.name, pa.nulls(count, f.type)) for f in EVENT], schema=EVENT.schema)


def measure(name: str, store: DeviceStore, batches: int) -> Figures:
    """Write live traffic, then read devices that have five hours of events."""
    random = np.random.default_rng(7)
    live = [
        events(NOON + number * SECOND + np.arange(BATCH) * 50, random.integers(0, DEVICES, BATCH), number)
        for number in range(WARM_UP + batches)
    ]
    for table in live[:WARM_UP]:
        store.write_events(table)
    store.flush()
    started, cpu = time.perf_counter(), time.process_time()
    for table in live[WARM_UP:]:
        store.write_events(table)
        store.flush()
    count = batches * BATCH
    written, client = count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1e6

    times = np.repeat(NOON - np.arange(WATCHED_EVENTS) * (5 * HOUR // WATCHED_EVENTS), WATCHED)
    store.write_events(events(times, np.tile(DEVICES + np.arange(WATCHED), WATCHED_EVENTS), 1 << 20))
    store.flush()
    spent = []
    for number, device in enumerate(random.integers(0, WATCHED, READS + 100)):
        started = time.perf_counter()
        found = store.recent_events(f"d_{DEVICES + device:016x}", since=NOON - HOUR)
        if number >= 100:
            spent.append((time.perf_counter() - started) * 1e3)
        if found.num_rows != 61:
            raise SystemExit(f"{name}: {found.num_rows} rows where 61 were written")
    return Figures(name, written, client, *np.percentile(spent, [50, 99]).tolist())


def main() -> None:
    """Measure the stores one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10, help=f"number of timed batches of {BATCH:,} events")
    batches = parser.parse_args().batches
    print(f"load average at the start {os.getloadavg()[0]:.1f}; {batches * BATCH:,} events, {READS:,} reads\n")
    print(
        "| store | events/s written | client CPU µs/event | last 60 minutes, p50 ms | p99 ms |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with open_device_store(f"rocksdb:{home / 'rocksdb'}") as store:
            print(measure("RocksDB, embedded", store, batches))
        emulator = BigtableEmulator(home)
        try:
            os.environ["BIGTABLE_EMULATOR_HOST"] = emulator.up()
            with open_device_store("bigtable:project/instance/devices") as store:
                print(measure("Bigtable, emulator", store, batches))
        finally:
            emulator.down()
        node = CassandraService(home)
        try:
            address = node.up()
            host, _, port = address.rpartition(":")
            with Cluster([host], port=int(port), protocol_version=4) as cluster:
                cluster.connect().execute(
                    "CREATE KEYSPACE devices WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
                )
            with open_device_store(f"cassandra:{address}/devices") as store:
                print(measure("Cassandra, one node", store, batches))
        finally:
            node.down()


if __name__ == "__main__":
    main()
