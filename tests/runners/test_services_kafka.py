"""The broker that `services` starts: real, on a free port, back after a crash with what it held."""

import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from runners.services import KafkaService
from schemas.errors import ServiceError


def produce(address: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": address})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def read_first(address: str, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "nobody", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                return message.value()
        return None
    finally:
        consumer.close()


def test_running_broker_answers_and_is_not_started_twice(kafka_service: KafkaService) -> None:
    pid = kafka_service.process.pid
    assert kafka_service.status() == kafka_service.address
    assert kafka_service.up() == kafka_service.address
    assert kafka_service.process.pid == pid


def test_running_broker_asked_for_on_another_port_refuses(kafka_service: KafkaService) -> None:
    with pytest.raises(ServiceError, match="take it down first"):
        kafka_service.up(port=1)


def test_killed_broker_is_noticed_and_comes_back_at_its_address_with_its_topics(java: None, tmp_path: Path) -> None:
    service = KafkaService(tmp_path)
    try:
        address = service.up()
        produce(address, "kept", b"before the crash")
        service.process.kill()
        deadline = time.monotonic() + 10
        while service.process.pid is not None:
            assert time.monotonic() < deadline
        assert service.status() is None
        assert service.up() == address
        assert read_first(address, "kept") == b"before the crash"
    finally:
        service.down()
    assert service.status() is None
    assert service.process.pid is None


def test_port_of_another_program_is_refused(java: None, kafka_service: KafkaService, tmp_path: Path) -> None:
    taken = int(kafka_service.address.rpartition(":")[2])
    service = KafkaService(tmp_path)
    with pytest.raises(ServiceError, match=f"port {taken}: another program listens there"):
        service.up(port=taken)
    assert service.process.pid is None
