"""The Kafka source against a real broker: every offset once, whatever happens to the topic or the broker meanwhile."""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.iobase import RestrictionTracker
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from confluent_kafka.cimpl import NewTopic

from runners.beam_options import parse_beam_options
from runners.services import KafkaService
from schemas.durations import HOUR, MILLISECOND, MINUTE, SECOND
from schemas.errors import InputError, OptionError
from schemas.events import RAW
from transforms.metrics import read_counters
from transforms.sources.kafka_positions import Positions, Span
from transforms.sources.kafka_restriction import JsonCoder
from transforms.sources.read_kafka import ReadKafka, _ReadEndlessly

Row = tuple[int, int, bytes | None]
"""Partition, offset, payload."""

ReadToEnd = Callable[[ReadKafka], pa.Table]

WAIT_SECONDS = 30.0


class Topic:
    """A topic of its own for a test."""

    def __init__(self, servers: str, partitions: int) -> None:
        self.servers, self.name = servers, f"test-{uuid.uuid4().hex[:12]}"
        self.admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self.admin.create_topics([NewTopic(self.name, partitions)])[self.name].result(20)
        self.sent: list[Row] = []

    def send(self, partition: int, *payloads: bytes | None, at: datetime | None = None, **settings: object) -> None:
        """Send payloads, and wait until they are there; `at` is their arrival time."""
        failed: list[object] = []
        producer = Producer({"bootstrap.servers": self.servers, "log_level": 0, **settings})
        if "transactional.id" in settings:
            producer.init_transactions(20)
            producer.begin_transaction()

        def note(error: object, message: object) -> None:
            if error is not None:
                failed.append(error)
            else:
                self.sent.append((partition, message.offset(), message.value()))

        stamp = {"timestamp": round(at.timestamp() * 1000)} if at else {}
        for payload in payloads:
            producer.produce(self.name, payload, partition=partition, on_delivery=note, **stamp)
        if "transactional.id" in settings:
            producer.commit_transaction(20)
        assert producer.flush(20) == 0
        assert not failed

    def add_partitions(self, total: int) -> None:
        self.admin.create_partitions([NewPartitions(self.name, total)])[self.name].result(20)

    def delete_before(self, partition: int, offset: int) -> None:
        places = [TopicPartition(self.name, partition, offset)]
        next(iter(self.admin.delete_records(places).values())).result(20)

    def source(self, **options: object) -> ReadKafka:
        return ReadKafka(self.servers, self.name, **{"bundle_time": 200 * MILLISECOND, **options})


@pytest.fixture
def new_topic(kafka_service: KafkaService) -> Callable[[int], Topic]:
    return lambda partitions: Topic(kafka_service.address, partitions)


def rows_of(table: pa.Table) -> list[Row]:
    columns = (table[name].to_pylist() for name in ("partition", "offset", "payload"))
    return list(zip(*columns, strict=True))


def write_rows(table: pa.Table, folder: str) -> None:
    """Leave a batch where the test finds it, wherever the runner runs this."""
    pq.write_table(table, f"{folder}/{uuid.uuid4().hex}.parquet")


@pytest.fixture
def read_to_end(tmp_path: Path) -> ReadToEnd:
    """Runs a bounded pipeline and gives the table of what it has read, in order of partition and offset."""

    def run(source: ReadKafka) -> pa.Table:
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
        raw = pipeline | source
        assert raw.batches.is_bounded
        assert raw.dead_letters.is_bounded
        _ = raw.batches | beam.Map(write_rows, str(tmp_path))
        result = pipeline.run()
        result.wait_until_finish()
        batches = [pq.read_table(path, schema=RAW.schema) for path in tmp_path.iterdir()]
        found = pa.concat_tables([RAW.empty(), *batches]).sort_by([("partition", "ascending"), ("offset", "ascending")])
        counters = read_counters(result.metrics())
        assert counters.get("events_read", 0) == len(found)
        assert counters.get("bytes_read", 0) == sum(len(payload or b"") for _, _, payload in rows_of(found))
        return found

    return run


class Job:
    """A runner in small: bundle after bundle of one reader, its checkpoint coded and decoded in between."""

    def __init__(self, source: ReadKafka) -> None:
        self.source = source
        self.do_fn = _ReadEndlessly(source)
        self.rows: list[Row] = []
        self.finalizers: list[Callable[[], None]] = []
        self.positions = self.do_fn.initial_restriction(0)
        self.progress = self.do_fn.initial_estimator_state(0, self.positions)
        self.stamps: list[int] = []

    def register(self, callback: Callable[[], None]) -> None:
        """Called as the bundle's finalizer."""
        self.finalizers.append(callback)

    def bundle(self, keep: bool = True) -> None:
        """One bundle; with `keep` false the worker dies before its checkpoint."""
        tracker = ThreadsafeRestrictionTracker(self.do_fn.create_tracker(self.positions))
        assert isinstance(tracker._restriction_tracker, RestrictionTracker)
        estimator = ThreadsafeWatermarkEstimator(self.do_fn.create_watermark_estimator(self.progress))
        rows: list[Row] = []
        for batch in self.do_fn.process(0, self, RestrictionTrackerView(tracker), estimator):
            assert batch.value.schema == RAW.schema
            rows += rows_of(batch.value)
            self.stamps.append(batch.timestamp.micros)
        assert tracker.check_done()
        residual, _ = tracker.deferred_status() or (None, None)
        assert residual is not None
        if keep:
            self.rows += rows
            self.positions = self._through(self.do_fn.restriction_coder(), residual)
            self.progress = self._through(self.do_fn.estimator_state_coder(), estimator.get_estimator_state())

    def until(self, condition: Callable[[], bool]) -> None:
        """Bundles until the condition holds."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not so after {WAIT_SECONDS} s: {self.positions} {self.progress}"
            self.bundle()

    def restart(self) -> None:
        """The worker dies, and another one goes on from the last checkpoint."""
        self.do_fn.teardown()
        self.do_fn = _ReadEndlessly(self.source)

    @staticmethod
    def _through(coder: JsonCoder, value: object) -> object:
        return coder.decode(coder.encode(value))


@pytest.fixture
def new_job() -> Iterator[Callable[[ReadKafka], Job]]:
    jobs: list[Job] = []

    def start(source: ReadKafka) -> Job:
        jobs.append(Job(source))
        return jobs[-1]

    yield start
    for job in jobs:
        job.do_fn.teardown()


def event(micros: int) -> bytes:
    return f'{{"timestamp":{micros // MILLISECOND}}}'.encode()


def now() -> int:
    return int(time.time()) * SECOND


def test_bounded_read_gives_every_offset_once(new_topic: Callable[[int], Topic], read_to_end: ReadToEnd) -> None:
    topic = new_topic(3)
    topic.send(0, *(b"%d" % n for n in range(2_500)))
    topic.send(2, b"", None, b"\xff\x00", b"x" * 900_000, None)
    read = rows_of(read_to_end(topic.source(until="now", batch_rows=1_000)))
    assert read == sorted(topic.sent, key=lambda row: row[:2])


def test_rows_say_where_and_when_they_arrived(new_topic: Callable[[int], Topic], read_to_end: ReadToEnd) -> None:
    topic = new_topic(1)
    arrived = datetime(2026, 4, 12, 9, 30, 0, 125_000, UTC)
    topic.send(0, b"{}", at=arrived)
    assert read_to_end(topic.source(until="now")).to_pylist() == [
        {"payload": b"{}", "source": topic.name, "partition": 0, "offset": 0, "arrival_time": arrived}
    ]


def test_empty_topic_is_read_to_its_end(new_topic: Callable[[int], Topic], read_to_end: ReadToEnd) -> None:
    assert len(read_to_end(new_topic(2).source(until="now"))) == 0


def test_what_arrives_after_the_end_is_not_read(new_topic: Callable[[int], Topic], read_to_end: ReadToEnd) -> None:
    topic = new_topic(2)
    topic.send(0, *(b"%d" % n for n in range(100)))
    topic.send(1, b"a")
    assert read_to_end(topic.source(until={0: 40, 1: 0}))["offset"].to_pylist() == list(range(40))


def test_offsets_that_leave_out_a_partition_are_refused(
    new_topic: Callable[[int], Topic], read_to_end: ReadToEnd
) -> None:
    with pytest.raises(InputError, match=r"name the partitions 0, 7; topic test-[0-9a-f]+ has 0, 1, 2"):
        read_to_end(new_topic(3).source(until={0: 1, 7: 2}))


def test_end_behind_a_transaction_marker_is_reached(new_topic: Callable[[int], Topic], read_to_end: ReadToEnd) -> None:
    topic = new_topic(1)
    topic.send(0, b"a", b"b", **{"transactional.id": uuid.uuid4().hex})
    assert read_to_end(topic.source(until="now"))["payload"].to_pylist() == [b"a", b"b"]


def test_read_between_two_times_of_arrival(new_topic: Callable[[int], Topic], read_to_end: ReadToEnd) -> None:
    topic = new_topic(2)
    noon = datetime(2026, 4, 12, 12, tzinfo=UTC)
    for minute in range(10):
        topic.send(0, b"%d" % minute, at=noon + timedelta(minutes=minute))
    topic.send(1, b"early", at=noon)
    source = topic.source(start=noon + timedelta(minutes=3), until=noon + timedelta(minutes=7, microseconds=1))
    assert read_to_end(source)["payload"].to_pylist() == [b"3", b"4", b"5", b"6", b"7"]


def test_read_from_the_latest_gives_what_arrives_later(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    topic.send(0, b"before")
    job = new_job(topic.source(start="latest"))
    job.bundle()
    topic.send(0, b"after")
    job.until(lambda: len(job.rows) == 1)
    assert job.rows == [(0, 1, b"after")]


def test_endless_read_is_unbounded(new_topic: Callable[[int], Topic]) -> None:
    raw = beam.Pipeline() | new_topic(1).source()
    assert not raw.batches.is_bounded


def test_partition_added_while_running_is_read_from_its_beginning(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    topic.send(0, b"old")
    job = new_job(topic.source(start="latest", discovery_interval=1))
    job.bundle()
    topic.add_partitions(2)
    topic.send(1, b"first of the new", b"second")
    topic.send(0, b"new")
    job.until(lambda: len(job.rows) == 3)
    assert sorted(job.rows) == [(0, 1, b"new"), (1, 0, b"first of the new"), (1, 1, b"second")]


def test_worker_that_dies_reads_again_from_its_checkpoint(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(2)
    job = new_job(topic.source(batch_rows=100))
    topic.send(0, *(b"%d" % n for n in range(250)))
    job.until(lambda: len(job.rows) == 250)
    topic.send(1, *(b"%d" % n for n in range(250)))
    job.bundle(keep=False)
    job.restart()
    topic.send(0, b"last")
    job.until(lambda: len(job.rows) >= 501)
    assert sorted(job.rows) == sorted(topic.sent)


def test_rest_that_the_runner_takes_amid_a_bundle_is_left_to_the_next(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    topic.send(0, *(b"%d" % n for n in range(300)))
    job = new_job(topic.source(batch_rows=100))
    tracker = ThreadsafeRestrictionTracker(job.do_fn.create_tracker(job.positions))
    estimator = ThreadsafeWatermarkEstimator(job.do_fn.create_watermark_estimator(job.progress))
    batches = job.do_fn.process(0, job, RestrictionTrackerView(tracker), estimator)
    job.rows = rows_of(next(batches).value)
    done, job.positions = tracker.try_split(0)
    assert list(batches) == []
    assert tracker.check_done()
    assert done == Positions(True, {0: Span(0, len(job.rows))})
    job.until(lambda: len(job.rows) >= 300)
    assert job.rows == topic.sent


def test_broker_that_comes_back_is_read_on(tmp_path: Path, java: None, new_job: Callable[[ReadKafka], Job]) -> None:
    with_broker = KafkaService(tmp_path)
    try:
        topic = Topic(with_broker.up(), 1)
        topic.send(0, b"before")
        job = new_job(topic.source(idle_timeout=MILLISECOND))
        job.until(lambda: len(job.rows) == 1)
        with_broker.down()
        for _ in range(3):
            job.bundle()
        job.restart()
        job.bundle()
        with_broker.up()
        topic.send(0, b"after")
        job.until(lambda: len(job.rows) == 2)
    finally:
        with_broker.down()
    assert job.rows == [(0, 0, b"before"), (0, 1, b"after")]


def test_job_that_starts_before_its_broker_waits(new_job: Callable[[ReadKafka], Job]) -> None:
    job = new_job(ReadKafka("127.0.0.1:1", "clicks"))
    job.bundle()
    assert job.positions == Positions(bounded=False)


def test_offsets_deleted_before_they_were_read_fail_the_job(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    job = new_job(topic.source())
    topic.send(0, b"a")
    job.until(lambda: len(job.rows) == 1)
    topic.send(0, *(b"%d" % n for n in range(9)))
    topic.delete_before(0, 5)
    job.restart()
    with pytest.raises(InputError, match=r"partition 0: offsets 1 to 4 are no longer in the log") as gap:
        job.until(lambda: False)
    assert "\n" not in str(gap.value)


def test_position_past_the_end_of_a_topic_made_anew_fails_the_job(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    topic.send(0, b"a")
    job = new_job(topic.source())
    job.positions = Positions(False, {0: Span(50)})
    with pytest.raises(InputError, match=r"partition 0: offset 50 is past the log's end 1; was the topic recreated\?"):
        job.until(lambda: False)


def test_skewed_and_idle_partitions_have_no_late_event(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(3)
    begin = now() - 10 * HOUR
    topic.send(0, *(event(begin + n * SECOND) for n in range(20_000)))
    topic.send(1, *(event(begin + n * 100 * SECOND) for n in range(200)))
    job = new_job(topic.source(batch_rows=500, max_disorder=MINUTE, idle_timeout=300 * MILLISECOND))
    late = []
    while len(job.rows) < len(topic.sent):
        held = job.progress.watermark
        seen = len(job.stamps)
        job.bundle()
        late += [stamp for stamp in job.stamps[seen:] if held is not None and stamp < held]
    assert late == []
    job.until(lambda: job.progress.watermark is not None and job.progress.watermark >= begin + 19_999 * SECOND - MINUTE)
    assert sorted(job.rows) == sorted(topic.sent)


def test_batch_is_stamped_with_its_earliest_event_and_absurd_ones_push_nothing(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    at = now()
    topic.send(0, event(at), event(at + 59 * MINUTE), event(at + 2 * HOUR), b"no event", event(at - 3 * HOUR))
    job = new_job(topic.source(max_disorder=MINUTE))
    job.until(lambda: len(job.rows) == 5)
    assert min(job.stamps) == at - 3 * HOUR
    assert job.progress.watermark is not None
    assert at - MINUTE <= job.progress.watermark <= now() + SECOND - MINUTE


def test_offsets_are_committed_for_who_watches_the_lag(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    topic.send(0, b"a", b"b")
    job = new_job(topic.source(group=f"watched-{topic.name}"))
    job.until(lambda: len(job.rows) == 2)
    watcher = Consumer({"bootstrap.servers": topic.servers, "group.id": f"watched-{topic.name}"})
    deadline = time.monotonic() + WAIT_SECONDS
    committed = -1
    while committed != 2 and time.monotonic() < deadline:
        job.bundle()
        job.finalizers[-1]()
        committed = watcher.committed([TopicPartition(topic.name, 0)], timeout=10)[0].offset
    watcher.close()
    assert committed == 2


def test_commit_after_the_reader_has_closed_is_harmless(
    new_topic: Callable[[int], Topic], new_job: Callable[[ReadKafka], Job]
) -> None:
    topic = new_topic(1)
    topic.send(0, b"a")
    job = new_job(topic.source(group="watched"))
    job.until(lambda: len(job.rows) == 1)
    job.restart()
    job.finalizers[-1]()


def test_options_without_sense_are_refused_together() -> None:
    with pytest.raises(OptionError) as refusal:
        ReadKafka("", "clicks", batch_rows=0, max_disorder=-1)
    assert str(refusal.value).split("\n") == [
        "max_disorder must be more than zero",
        "batch_rows must be more than zero",
        "servers must not be empty",
    ]
