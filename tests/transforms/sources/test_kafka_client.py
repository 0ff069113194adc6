"""Clients of a cluster: what a properties file means, what is never said of it, how often its log repeats itself."""

import logging
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from runners.services import KafkaService
from schemas.errors import InputError, OptionError
from transforms.sources import kafka_client
from transforms.sources.kafka_client import BrokerUnreachableError, KafkaCluster, NoSuchTopicError, read_properties
from transforms.sources.read_kafka import ReadKafka

NOBODY = "127.0.0.1:1"
SECRET = "hunter2-secret"


def write(folder: Path, text: str) -> Path:
    path = folder / "client.properties"
    path.write_text(text, encoding="utf-8")
    return path


def test_properties_are_keys_and_values_with_comments_between(tmp_path: Path) -> None:
    path = write(tmp_path, "# a comment\n! another\n\n security.protocol = SASL_SSL \nsasl.password=a=b#c\n")
    assert read_properties(path) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b#c"}


def test_login_of_java_clients_is_understood(tmp_path: Path) -> None:
    text = (
        "sasl.mechanism=SCRAM-SHA-256\n"
        "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n"
        f'    username="shop" \\\n    password="{SECRET}\\"x";\n'
    )
    assert read_properties(write(tmp_path, text)) == {
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "shop",
        "sasl.password": f'{SECRET}"x',
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"# one\n{SECRET}\n", "line 2: write it as key=value"),
        (f"a=\\\nb\n={SECRET}\n", "line 3: write it as key=value"),
        (f"sasl.jaas.config=PlainLoginModule required password={SECRET};", "sasl.jaas.config must hold"),
    ],
)
def test_line_that_is_no_property_is_named_without_its_content(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(OptionError) as refusal:
        read_properties(write(tmp_path, text))
    assert said in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.properties: FileNotFoundError"):
        read_properties(tmp_path / "none.properties")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"no.such.property={SECRET}", "no.such.property"),
        (f"security.protocol={SECRET}", "security.protocol"),
        (f"security.protocol=SSL\nssl.key.pem={SECRET}", "ssl.key.pem"),
        (f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.password={SECRET}", "sasl.username"),
    ],
)
def test_property_that_is_refused_is_named_without_its_value(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(OptionError) as refusal:
        KafkaCluster(NOBODY, write(tmp_path, text)).client(Consumer, {"group.id": "g"})
    message = str(refusal.value)
    assert f"client.properties: the Kafka client refuses or misses {name}" in message
    assert SECRET not in message
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_secret_is_in_no_text_of_the_source(tmp_path: Path) -> None:
    config = write(tmp_path, f"security.protocol=SASL_SSL\nsasl.username=shop\nsasl.password={SECRET}\n")
    source = ReadKafka(NOBODY, "clicks", config=config)
    assert SECRET not in repr(source)
    assert SECRET not in repr(KafkaCluster(NOBODY, config))


def test_cluster_that_is_not_there_is_said_to_be_unreachable_and_why() -> None:
    with pytest.raises(BrokerUnreachableError, match=r"cannot be reached.*Connection refused"):
        KafkaCluster(NOBODY).topic("clicks", timeout=0.5)


def test_topic_that_is_not_there_is_named_and_not_created(kafka_service: KafkaService) -> None:
    cluster = KafkaCluster(kafka_service.address)
    for _ in range(2):
        with pytest.raises(NoSuchTopicError, match="there is no topic nowhere at 127"):
            cluster.topic("nowhere")


def test_source_is_checked_before_a_job_is_started(kafka_service: KafkaService) -> None:
    with pytest.raises(InputError, match="there is no topic nowhere"):
        ReadKafka(kafka_service.address, "nowhere").check()


def test_message_that_repeats_itself_is_logged_once_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_client, "REPEAT_SECONDS", 3600.0)
    once = logging.getLogger("clickstream.kafka")
    with caplog.at_level(logging.INFO, "clickstream.kafka"):
        for attempt in range(100):
            once.error("%s [%s] %s", "DOWN-IN-TEST", "rdkafka#1", f"attempt {attempt}")
            once.warning("%s; trying in test", BrokerUnreachableError(f"attempt {attempt}"))
        once.error("%s [%s] %s", "OTHER-IN-TEST", "rdkafka#1", "something else")
    assert [record.getMessage() for record in caplog.records] == [
        "DOWN-IN-TEST [rdkafka#1] attempt 0",
        "attempt 0; trying in test",
        "OTHER-IN-TEST [rdkafka#1] something else",
    ]
