"""The producer: exact bytes, in order, keyed by device; at a rate, a pace, or as if it happened now."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from pipelines.generate import GenerateOptions, GenerateSummary, generate
from pipelines.produce import at_pace, at_rate, device_keys
from pipelines.produce_traffic import file_payloads, generated_payloads, live_payloads
from runners.services import KafkaService
from schemas.durations import HOUR, MINUTE, SECOND
from schemas.errors import InputError
from transforms.sources.kafka_times import NO_TIME, event_times

WAIT_SECONDS = 30.0


@pytest.fixture
def topic() -> str:
    return f"produced-{uuid.uuid4().hex[:12]}"


def consume(servers: str, topic: str, count: int) -> list[Message]:
    """The first so many records of a topic, partition by partition."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "auto.offset.reset": "earliest"})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    found: list[Message] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.consume(count, 0.2)
    consumer.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def lines_of(files: list[Path]) -> list[bytes]:
    return [line for path in files for line in path.read_bytes().split(b"\n")[:-1]]


def test_files_reach_the_topic_byte_for_byte_in_order_of_each_device(
    kafka_service: KafkaService, topic: str, traffic_files: GenerateSummary, command_line
) -> None:
    ended = command_line(
        "produce", "--kafka", kafka_service.address, "--topic", topic, "--partitions", 3, "--json",
        "--input", traffic_files.files[0].parent,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    sent = lines_of(traffic_files.files)
    assert summary["events"] == len(sent)
    assert summary["bytes"] == sum(map(len, sent))
    assert (summary["topic"], summary["partitions"], summary["interrupted"]) == (topic, 3, False)
    read = consume(kafka_service.address, topic, len(sent))
    assert sorted(m.value() for m in read) == sorted(line for line in sent)
    partitions, in_order = defaultdict(set), defaultdict(list)
    for message in read:
        partitions[message.key()].add(message.partition())
        in_order[message.key()].append(message.value())
    keys = device_keys(pa.array(sent))
    assert all(len(found) == 1 for key, found in partitions.items() if key is not None)
    assert len(set().union(*partitions.values())) == 3
    for key in set(keys) - {None}:
        assert in_order[key] == [line for line, own in zip(sent, keys, strict=True) if own == key]


def test_raw_log_reaches_the_topic_with_its_tombstones(
    kafka_service: KafkaService, topic: str, tmp_path: Path, command_line
) -> None:
    made = generate(GenerateOptions(events=2_000, out=tmp_path / "log", format="avro", broken_share=0.05))
    ended = command_line("produce", "--kafka", kafka_service.address, "--topic", topic, "--input", made.files[0].parent)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{made.lines:,} events (")
    read = consume(kafka_service.address, topic, made.lines)
    assert sum(message.value() is None for message in read) == 3


def test_generated_events_are_those_of_the_generator(tmp_path: Path) -> None:
    made = generate(GenerateOptions(events=30_000, out=tmp_path / "log", format="avro", seed=7))
    generated = [payload for batch in generated_payloads(30_000, seed=7) for payload in batch.to_pylist()]
    written = [
        payload
        for batch in file_payloads({str(path): path.stat().st_size for path in made.files})
        for payload in batch.to_pylist()
    ]
    assert generated == written


def test_damaged_file_ends_the_sending_behind_what_is_whole(tmp_path: Path) -> None:
    made = generate(GenerateOptions(events=2_000, out=tmp_path / "log", format="jsonl.gz"))
    cut = made.files[0]
    cut.write_bytes(cut.read_bytes()[:-500])
    payloads = file_payloads({str(cut): cut.stat().st_size})
    assert len(next(payloads)) > 0
    with pytest.raises(InputError, match=r"part-00000\.jsonl\.gz: the gzip data ends in the middle"):
        list(payloads)


def test_live_events_end_at_the_present_with_the_usual_delays() -> None:
    clock = iter(float(1_800_000_000 + n) for n in range(10_000))
    batches = list(live_payloads(20_000, seed=3, rate=10_000, clock=lambda: next(clock)))
    assert all(len(batch) <= 600 for batch in batches)
    delays = []
    for number, batch in enumerate(batches):
        times = event_times(batch)
        sent = (1_800_000_000 + number) * SECOND
        near = times[(times != NO_TIME) & (times < sent + HOUR)]
        assert near.max() < sent + SECOND
        delays.append(sent - near)
    behind = np.concatenate(delays)
    assert 0.003 < (behind > MINUTE).mean() < 0.05
    assert np.median(behind) < SECOND


def test_live_events_come_with_repeats_and_broken_ones() -> None:
    payloads = [payload for batch in live_payloads(20_000, seed=3, rate=None) for payload in batch.to_pylist()]
    good = [p for p in payloads if p is not None and p.startswith((b'{"event_id":', b'{ "event_id": '))]
    assert 0 < len(payloads) - len(good) < 40
    ids = [json.loads(p)["event_id"] for p in good if p.endswith(b"}") and b"NaN" not in p and b"broken" not in p]
    assert len(payloads) - 20_000 > 100
    # but for the white space of some, a repeat is its event once more, the time included
    once_more = len(good) - len(set(good))
    assert once_more > 100
    assert len(ids) - len(set(ids)) >= once_more


def test_live_traffic_of_several_rounds_has_other_devices_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.produce_traffic._ROUND_EVENTS", 3_000)
    batches = list(live_payloads(7_000, seed=3, rate=None))
    devices = [set(device_keys(batch)) - {None} for batch in batches]
    assert sum(map(len, batches)) >= 7_000
    assert len(set().union(*devices)) == sum(map(len, devices))


def test_rate_spaces_the_payloads_evenly_over_the_batches() -> None:
    due = at_rate(4)
    assert due(pa.array([b"", b""])).tolist() == [0, 0.25]
    assert due(pa.array([b""])).tolist() == [0.5]


def test_pace_follows_event_time_and_passes_over_what_has_none() -> None:
    due = at_pace(60)
    first = pa.array([None, b'{"timestamp":0}', b'{"timestamp":60000}', b"no event", b'{"timestamp":30000}'])
    assert due(first).tolist() == [0, 0, 1, 1, 1]
    second = pa.array([b'{"timestamp":"2999-01-01T00:00:00Z"}', b'{"timestamp":180000}'])
    assert due(second).tolist() == [1, 3]


def test_pace_of_events_without_any_time_is_at_once() -> None:
    assert at_pace(1)(pa.array([b"a", b"b"])).tolist() == [0, 0]


def test_key_is_the_device_wherever_it_stands() -> None:
    payloads = [
        b'{"device_id":"top"}', b'{"context":{"device_id" : "nested"}}', b'{"device_id":""}', b'{"device_id":null}',
        b'\xff"device_id":"not text"', None, b"",
    ]  # fmt: skip
    assert device_keys(pa.array(payloads)) == [b"top", b"nested", None, None, b"not text", None, None]


def test_rate_is_kept(kafka_service: KafkaService, topic: str, command_line) -> None:
    ended = command_line(
        "produce", "--kafka", kafka_service.address, "--topic", topic, "--generate", 1_000, "--now", "--rate", 2_000,
        "--json",
    )  # fmt: skip
    summary = json.loads(ended.out)
    assert summary["events"] >= 1_000
    assert summary["seconds"] >= (summary["events"] - 1) / 2_000
    now = datetime.now(UTC).timestamp()
    (first, *_) = consume(kafka_service.address, topic, summary["events"])
    assert now - 3_600 < first.timestamp()[1] / 1_000 < now


def test_interrupt_ends_it_with_all_that_was_sent_acknowledged(kafka_service: KafkaService, topic: str) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "produce", "--kafka", kafka_service.address, "--topic", topic]
    command += ["--generate", "1M", "--now", "--rate", "500", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as running:
        admin = AdminClient({"bootstrap.servers": kafka_service.address})
        deadline = time.monotonic() + WAIT_SECONDS
        while topic not in admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
            running.poll()
        first = consume(kafka_service.address, topic, 1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=WAIT_SECONDS)
    assert first
    assert (running.returncode, err) == (0, "")
    summary = json.loads(out)
    assert summary["interrupted"]
    assert len(consume(kafka_service.address, topic, summary["events"])) == summary["events"]


def test_topic_with_other_partitions_is_refused(kafka_service: KafkaService, topic: str, command_line) -> None:
    arguments = ("produce", "--kafka", kafka_service.address, "--topic", topic, "--generate", 10, "--partitions")
    assert command_line(*arguments, 2).code == 0
    ended = command_line(*arguments, 3)
    assert (ended.code, ended.err) == (2, f"error: topic {topic} exists with 2 partitions, not 3\n")


def test_event_that_the_brokers_refuse_is_an_error(
    kafka_service: KafkaService, topic: str, tmp_path: Path, command_line
) -> None:
    (tmp_path / "large.jsonl").write_bytes(os.urandom(1_900_000).replace(b"\n", b" "))
    ended = command_line("produce", "--kafka", kafka_service.address, "--topic", topic, "--input", tmp_path)
    assert ended.code == 1
    assert ended.err.startswith(f"error: topic {topic} has not taken an event: ")
    assert "too large" in ended.err


def test_cluster_that_is_not_there_is_an_error(command_line) -> None:
    ended = command_line("produce", "--kafka", "127.0.0.1:1", "--topic", "t", "--generate", 1)
    assert ended.code == 1
    assert ended.err.startswith("error: Kafka at 127.0.0.1:1 cannot be reached")
    assert len(ended.err.splitlines()) == 1


def test_wrong_options_are_named_together(command_line, tmp_path: Path) -> None:
    ended = command_line(
        "produce", "--kafka", "127.0.0.1:1", "--topic", "t", "--input", tmp_path, "--now", "--seed", 1, "--rate", "a",
        "--pace", "0x", "--partitions", 0,
    )  # fmt: skip
    assert ended.code == 2
    assert [line.removeprefix("error: ").split(":")[0] for line in ended.err.splitlines()] == [
        "give --rate or --pace, not both",
        "--now goes with --generate",
        "--now and --pace exclude each other",
        "--seed goes with --generate",
        "--rate",
        "--pace",
        "--partitions",
    ]
